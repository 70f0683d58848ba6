"""A family: its table of tensors, and the facts that shapes do not show.

`Family` holds the data; the files in `decoders/`, `experts/` and `encoders/` fill it in and contain no code. Conditions
(`Row.when`, `Norm.writes_stream`, …) are text in the language of `grow.architectures.conditions`. What follows from a
table and a config together is an `Architecture`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grow.architectures.common_fields import COMMON_FIELDS, TRAINS
from grow.architectures.conditions import Condition, parse_condition
from grow.architectures.facts import Attention, Chain, Experts, Norm, Refusal, RopeKind, Tie
from grow.architectures.layer_lists import LayerList
from grow.architectures.size_laws import SizeLaw, parse_size_law, parse_size_laws
from grow.notation.axes import INDICES, SIDES, Label, Row, parse_table
from grow.notation.rope_parameters import SPELLED
from grow.notation.size_limits import Written, check_caps

ATTENTION = ("heads", "kv_heads", "head_dim")
COUNTS = ("layers", "vocab", "positions", "experts")
STILL = ("types", "buckets", "places", "task_types", "labels", "embed", "head_width", "pooler", "layer_groups")
"""Axes that no growth changes on their own account."""


@dataclass(frozen=True)
class Family:
    """Everything `grow` knows about one `model_type`.

    table     rows in the notation of `grow.notation.axes`; names with the base model's prefix
    prefix    what base-model checkpoints (`LlamaModel`) leave out of the names
    aliases   other prefixes that stock classes put there (`LlamaForQuestionAnswering`)
    axes      axis -> config field. What is none of `ATTENTION`, `COUNTS`, `STILL`, hidden or `follows` is an axis of
              units; one that has a gain in the table is read through a norm of its own. `layer_groups`: into how many
              groups layers fall whose tensors are the same
    defaults  field -> its value when config.json leaves it out; "=other" repeats another field
    derived_head_dim   the stock code computes head_dim = hidden / heads and reads no field
    fixed     field -> the only values for which the table is true
    reads     fields that the growth interprets (beyond `axes`)
    harmless  fields that no width growth can disturb
    attention  what sits between q and k, of a family that has heads
    spelling  (stored, table) suffixes: older or on-disk names of the same tensor
    stale     suffixes of stored buffers that stock code ignores; they are left out of the result
    divides   the stock config refuses hidden % heads != 0
    eps       of the norms: a config field or a number
    chain     the modules of a layer whose norms write the stream
    layer_lists  config fields with one entry per layer
    needs     config fields that must be there, "a|b" one of the two: what stock code takes in their place follows from
              the number of layers, or is not one of its usual defaults
    default_theta  of RoPE, when the config says none
    rope_reads  parameters of a rotation that this stock code reads, too
    rope_kinds  kind of layer -> its own rotation, empty where all layers turn alike
    experts   where the experts are, None for a dense family
    synonyms  field -> another name that stock code reads and writes for it
    alike     fields that stock code wants equal
    nulls     field -> what null means where that is not what leaving it out means; "=other" as in defaults
    rope_spelling  fields outside `rope_parameters` in which stock code looks for θ and the rotated fraction
    positions_from  config field whose value + 1 is the first row of the position table that is a position
    sizes     size name -> config fields
    class_prefix  how the names of the stock classes begin, "" where that is the model type with a capital
    size_defaults  axis -> the size that stock code takes where its field says none or "auto", as
              `grow.architectures.size_laws` writes it: `4 hidden`
    follows   axis -> the others that its size follows from where it has that size, as `grow.architectures.size_laws`
              writes it: `hidden`, `4 hidden`, `hidden / heads ? CONDITION`, `1 ? CONDITION; heads ? CONDITION`; it
              never grows on its own
    computed  the same for sizes that stock code computes, whatever a config field says or where there is none
    refusals  axes that do not grow, with their reasons
    """

    model_type: str
    table: str
    prefix: str
    axes: Mapping[str, str]
    norm: Norm
    tie: Tie | None
    sizes: Mapping[str, Mapping[str, int]]
    attention: Attention = field(default_factory=Attention)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    derived_head_dim: bool = False
    divides: bool = False
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    spelling: tuple[tuple[str, str], ...] = ()
    stale: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    summary: str = ""
    eps: str | float = "rms_norm_eps"
    chain: Chain | None = None
    layer_lists: tuple[LayerList, ...] = (LayerList(),)
    needs: tuple[str, ...] = ()
    positions_from: str = ""
    default_theta: float = 1e4
    rope_reads: frozenset[str] = frozenset()
    rope_kinds: Mapping[str, RopeKind] = field(default_factory=dict)
    experts: Experts | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    alike: tuple[tuple[str, str], ...] = ()
    nulls: Mapping[str, Any] = field(default_factory=dict)
    rope_spelling: tuple[str, str] = SPELLED
    class_prefix: str = ""
    size_defaults: Mapping[str, str] = field(default_factory=dict)
    follows: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        self.conditions  # noqa: B018  ValueError for a word that means nothing, before a config is read with the table

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return parse_table(self.table)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Axes whose coordinates lie between two matrices: units of an FFN, ranks of a factored projection."""
        others = {"hidden", *ATTENTION, *COUNTS, *STILL, *self.mirrors, *self.scored}
        return tuple(axis for axis in dict.fromkeys((*self.axes, *self.computed)) if axis not in others)

    @cached_property
    def scaled(self) -> tuple[str, ...]:
        """Axes that a factor for the whole model scales: those that are a dimension by themselves somewhere, which head
        sizes and the number of shared experts are not."""
        alone = {dim.space.axis for row in self.rows for dim in row.signature.dims if isinstance(dim.space, Label)}
        return ("hidden", "heads", "kv_heads", *(axis for axis in self.units if axis in alone))

    @property
    def attends(self) -> bool:
        """Whether it has heads of attention."""
        return "heads" in self.axes

    @cached_property
    def scored(self) -> tuple[str, ...]:
        """Axes besides head_dim over which a dot product sums: their two sides have coordinates of their own."""
        labels = (label for row in self.rows for dim in row.signature.dims for label in dim.labels)
        return tuple(dict.fromkeys(one.axis for one in labels if one.side in SIDES and one.axis != "head_dim"))

    @cached_property
    def raw(self) -> tuple[str, ...]:
        """Axes that something reads with no gain in between: behind a norm without one, or without a norm."""
        labels = (label for row in self.rows for dim in row.signature.dims for label in dim.labels)
        return tuple(dict.fromkeys(label.axis for label in labels if label.side == "raw"))

    @property
    def widths(self) -> tuple[str, ...]:
        """Axes that matrices are made of."""
        return ("hidden", *(ATTENTION if self.attends else ()), *self.units, *self.scored)

    @property
    def growable(self) -> tuple[str, ...]:
        """Axes that a target may name."""
        return (*self.widths, *COUNTS)

    @cached_property
    def conditions(self) -> Mapping[str, Condition]:
        """The text of every condition in the table and the facts -> what it means."""
        texts = {row.when for row in self.rows}
        texts |= {self.norm.writes_stream, self.norm.affine, self.norm.bare, self.norm.last}
        texts |= {self.attention.scaled, self.attention.index_scaled}
        texts |= {self.tie.when, self.tie.norms_when} if self.tie else set()
        texts |= {self.experts.normed, self.experts.copies} if self.experts else set()
        texts |= {law.when for laws in self.size_laws.values() for law in laws}
        texts |= {refusal.when for refusal in self.refusals}
        lists = {listed.field for listed in self.layer_lists}
        return {text: parse_condition(text, self.known_fields, lists) for text in texts}

    @cached_property
    def size_laws(self) -> Mapping[str, tuple[SizeLaw, ...]]:
        """Axis -> what its size follows from, in models in which it does."""
        derived = {"head_dim": "hidden / heads"} if self.derived_head_dim else {}
        derived |= {"kv_heads": "heads"} if self.attends and "kv_heads" not in self.axes else {}
        return {axis: parse_size_laws(text) for axis, text in {**derived, **self.follows, **self.computed}.items()}

    @cached_property
    def default_sizes(self) -> Mapping[str, SizeLaw]:
        """Axis -> its size where its field says none."""
        return {axis: parse_size_law(text) for axis, text in self.size_defaults.items()}

    @property
    def mirrors(self) -> tuple[str, ...]:
        """Axes that are another one where they have its size: no tensor has them then."""
        return tuple(axis for axis in self.follows if any(law.repeats for law in self.size_laws[axis]))

    @property
    def needed_fields(self) -> tuple[str, ...]:
        """Config fields that must be there, "a|b" one of the two."""
        return (*(one.field for one in self.layer_lists if one.needed), *self.needs)

    @cached_property
    def known_fields(self) -> frozenset[str]:
        """Config fields that somebody has read and knows what growth does to; those of `TRAINS` come on top."""
        known = COMMON_FIELDS | self.harmless | self.reads | {*self.fixed, *self.axes.values(), *self.defaults}
        known |= {*self.synonyms.values(), *(one.field for one in self.layer_lists)}
        known |= {name for one in self.layer_lists for name in (*one.follows_from, *one.said_too)}
        laws = (*(law for of in self.size_laws.values() for law in of), *self.default_sizes.values())
        known |= {name for law in laws for name in law.fields((*self.axes, *ATTENTION))}
        known |= self.attention.repeated.keys()
        if self.experts:
            facts = self.experts
            known |= set(filter(None, (facts.top_k, facts.switch, facts.groups)))
            known |= set(facts.layers.fields) if facts.layers else set()
        return frozenset(known)

    @cached_property
    def counts_positions(self) -> bool:
        """Whether a table has a row for each position."""
        return any(dim.has("positions") for row in self.rows for dim in row.signature.dims)

    @property
    def class_begins(self) -> str:
        """`GPT2`LMHeadModel, `Bert`ForMaskedLM"""
        return self.class_prefix or self.model_type.capitalize()

    def knows(self, name: str) -> bool:
        """Whether somebody has read this config field."""
        return name in self.known_fields or bool(TRAINS.fullmatch(name))

    def spelled(self, name: str) -> str:
        """A stored name as the table spells it."""
        for stored, suffix in self.spelling:
            if name.endswith(stored):
                name = name.removesuffix(stored) + suffix
        return name

    def check_caps(self, sizes: Mapping[str, int], written: Written | None = None) -> None:
        """BadInput where a size, or the number of tensors of such a model, is larger than grow looks at.

        written  how the option is written that gave a size; None: config.json gave it
        """
        count = {index: sizes.get(index, 1) for index in INDICES}
        tensors = sum(
            math.prod(n for index, n in count.items() if f"{{{index}}}" in row.name or row.signature.counts(index))
            for row in self.rows
        )
        check_caps(sizes, self.axes, written, table=self.counts_positions, tensors=tensors)
