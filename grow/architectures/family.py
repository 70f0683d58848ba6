"""A family: its table of tensors, and the facts that shapes do not show.

`Family` holds the data; the modules in `grow/architectures/` fill it in and contain no code. Conditions (`Row.when`,
`Norm.writes_stream`, …) are text in the language of `grow.architectures.conditions`. What follows from a table and a
config together is an `Architecture`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grow.architectures.common_fields import COMMON_FIELDS, TRAINS
from grow.architectures.conditions import Condition, parse_condition
from grow.notation.axes import EXPERTS, Row, layers_of, parse_table
from grow.notation.rope_parameters import SPELLED
from grow.notation.size_limits import Written, check_caps

UNITS = ("ffn", "expert_ffn", "shared_ffn")  # of a dense layer (or of all), of an expert, of the shared expert
WIDTHS = ("hidden", "heads", "kv_heads", "head_dim", *UNITS)
COUNTS = ("layers", "vocab", "positions", "experts")
GROWABLE = (*WIDTHS, *COUNTS)


@dataclass(frozen=True)
class Norm:
    """The norm on the residual stream.

    kind           "rms" or "layernorm"
    writes_stream  condition under which the norm's output is the residual stream (post-LN)
    affine         condition under which it has a gain (and a bias)
    bare           condition under which something reads the stream without a norm in between
    """

    kind: str
    writes_stream: str = "never"
    affine: str = "always"
    bare: str = "never"


@dataclass(frozen=True)
class Attention:
    """What sits between q and k.

    scaled      condition under which scores are divided by √head_dim
    rope        None; "half" (rotates coordinates i and i + head_dim/2); "pairs" (2i and 2i + 1); "partial" (the
                first `partial_rotary_factor · head_dim` coordinates are rotated in either way, the rest pass through)
    qk_norm     an RMSNorm over head_dim on q and on k
    whole_norm  that norm is over all heads at once
    index_scaled  condition under which scores are divided by the layer's index + 1, too
    """

    scaled: str = "always"
    rope: str | None = None
    qk_norm: bool = False
    whole_norm: bool = False
    index_scaled: str = "never"


@dataclass(frozen=True)
class RopeKind:
    """The rotation of one kind of layer, which has parameters of its own under the kind's name in `rope_parameters`.

    theta        where the config says none
    theta_field  the field of older configs that says it
    scaled       whether `rope_scaling` of older configs is about this kind
    """

    theta: float
    theta_field: str = SPELLED[0]
    scaled: bool = True


@dataclass(frozen=True)
class FollowsFrom:
    """A default that follows from the value of another field."""

    field: str
    values: Mapping[Any, Any]
    otherwise: Any


@dataclass(frozen=True)
class Chain:
    """The modules of a post-norm layer, for inserting layers: x -> first(x + attention) -> last(… + writes(reads(…))).

    Names with `{layers}`; `first` and `last` are the LayerNorms, `reads` and `writes` the two matrices of the FFN.
    `before` are the LayerNorms in front of `first`, behind which there is another attention.
    """

    first: str
    reads: str
    writes: str
    last: str
    before: tuple[str, ...] = ()

    @property
    def norms(self) -> int:
        """How many LayerNorms a layer has."""
        return 2 + len(self.before)


@dataclass(frozen=True)
class Stack:
    """Layers one behind the other, on a residual stream of their own.

    layers    the axis that counts them, as the names of their tensors have it in braces
    name      what stock outputs call it: "encoder" has `encoder_hidden_states`; "" where there is one stack
    final     row of the gain of the norm behind its last layer, "" where there is one stack
    attends   how many attentions a layer has
    chain     as of `Family`
    within    the axis of a stack that must not be shallower: stock code counts the cache of this one by it
    """

    layers: str = "layers"
    name: str = ""
    final: str = ""
    attends: int = 1
    chain: Chain | None = None
    within: str = ""


@dataclass(frozen=True)
class Window:
    """Per-layer attention kinds that stock code derives when `field` is not given: layers from `first` on are of the
    second kind where `switch` is true.

    even  the second kind are the layers 0, 2, … below `first` instead
    """

    field: str = "layer_types"
    switch: str = "use_sliding_window"
    first: str = "max_window_layers"
    kinds: tuple[str, str] = ("full_attention", "sliding_attention")
    even: bool = False

    def kind(self, layer: int, first: int) -> str:
        return self.kinds[layer % 2 == 0 and layer < first if self.even else layer >= first]


@dataclass(frozen=True)
class Period:
    """A config field with one entry per layer that stock code derives when it is not given: every so many layers, the
    last of them is of the second kind.

    every  unless the config field `said` says another number
    """

    field: str
    kinds: tuple[Any, Any]
    every: int
    said: str = ""


@dataclass(frozen=True)
class Experts:
    """Where a family keeps its experts, and how its router weighs them.

    width       the axis of an expert's units
    top_k       config field: how many experts a token gets
    normed      condition under which their weights sum to 1
    switch      config field that makes `normed` hold, "" where it always does
    router      row of the router
    parts       row of the experts -> the rows of a dense FFN (in Llama's names) that it stacks
    shared      row of the shared expert -> the row of a dense FFN that it is
    shared_width  the axis of its units, "" where there is no shared expert
    shared_gate row of its gate, a sigmoid
    only, step  config fields: layers without experts, and every how many layers there are some
    fused       name of a parameter of the stock class, under which it may be stored too -> the rows of the table that
                lie in it, of every expert one behind the other; one row that is not an expert's has another name there
    """

    width: str
    top_k: str
    router: str
    parts: Mapping[str, tuple[str, ...]]
    normed: str = "always"
    switch: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    shared_width: str = ""
    shared_gate: str = ""
    only: str = ""
    step: str = ""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tie:
    """One stored table is the embedding (a producer) and the head (a consumer) when `when` holds.

    The norm in front of the head absorbs the difference: `norms` are its gain and bias, there when `norms_when`
    holds. `head` is the tensor to write when the two must part because no norm can absorb it. `biases` are two names
    of the head's bias, which are tied as well; the first is the table's.
    """

    table: str
    head: str
    norms: tuple[str, ...]
    when: str
    norms_when: str = "always"
    biases: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Family:
    """Everything `grow` knows about one `model_type`.

    table     rows in the notation of `grow.notation.axes`; names with the base model's prefix
    prefix    what base-model checkpoints (`LlamaModel`) leave out of the names
    aliases   other prefixes that stock classes put there (`LlamaForQuestionAnswering`)
    axes      axis -> config field
    defaults  field -> its value when config.json leaves it out; "=other" repeats another field, see `FollowsFrom`, too
    derived_head_dim   the stock code computes head_dim = hidden / heads and reads no field
    fixed     field -> the only values for which the table is true
    reads     fields that the growth interprets (beyond `axes`)
    harmless  fields that no width growth can disturb
    spelling  (stored, table) suffixes: older or on-disk names of the same tensor
    stale     suffixes of stored buffers that stock code ignores; they are left out of the result
    divides   the stock config refuses hidden % heads != 0
    eps       of the norms: a config field or a number
    chain     the modules of a layer whose norms write the stream
    stacks    where there are several: the encoder and the decoder, say; what is said of layers in lists is of the first
    again     other names under which stock classes have a row's tensor once more -> the row
    window    how stock code derives per-layer attention kinds
    layer_lists  config fields with one entry per layer
    periods   those of them that stock code derives when they are not given
    layer_values  one of them -> what its entries may be, where they are not kinds of attention
    needs     config fields that must be there, "a|b" one of the two: what stock code takes in their place follows from
              the number of layers, or is not one of its usual defaults
    default_theta  of RoPE, when the config says none
    rope_kinds  kind of layer -> its own rotation, empty where all layers turn alike
    experts   where the experts are, None for a dense family
    synonyms  field -> another name that stock code reads and writes for it
    nulls     field -> what null means where that is not what leaving it out means; "=other" as in defaults
    rope_spelling  fields outside `rope_parameters` in which stock code looks for θ and the rotated fraction
    positions_from  config field whose value + 1 is the first row of the position table that is a position
    sizes     size name -> config fields
    class_prefix  how the names of the stock classes begin, "" where that is the model type with a capital
    follows   axis -> the axis that it follows where the two have one size; it never grows on its own
    """

    model_type: str
    table: str
    prefix: str
    axes: Mapping[str, str]
    norm: Norm
    attention: Attention
    tie: Tie | None
    sizes: Mapping[str, Mapping[str, int]]
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
    window: Window | None = None
    layer_lists: tuple[str, ...] = ("layer_types",)
    periods: tuple[Period, ...] = ()
    layer_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    positions_from: str = ""
    default_theta: float = 1e4
    rope_kinds: Mapping[str, RopeKind] = field(default_factory=dict)
    experts: Experts | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    nulls: Mapping[str, Any] = field(default_factory=dict)
    rope_spelling: tuple[str, str] = SPELLED
    class_prefix: str = ""
    follows: Mapping[str, str] = field(default_factory=dict)
    stacks: tuple[Stack, ...] = (Stack(),)
    again: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.conditions  # noqa: B018  ValueError for a word that means nothing, before a config is read with the table

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return parse_table(self.table)

    @cached_property
    def conditions(self) -> Mapping[str, Condition]:
        """The text of every condition in the table and the facts -> what it means."""
        texts = {row.when for row in self.rows}
        texts |= {self.norm.writes_stream, self.norm.affine, self.norm.bare}
        texts |= {self.attention.scaled, self.attention.index_scaled}
        texts |= {self.tie.when, self.tie.norms_when} if self.tie else set()
        texts |= {self.experts.normed} if self.experts else set()
        return {text: parse_condition(text, self.known_fields) for text in texts}

    @cached_property
    def known_fields(self) -> frozenset[str]:
        """Config fields that somebody has read and knows what growth does to; those of `TRAINS` come on top."""
        known = COMMON_FIELDS | self.harmless | self.reads | {*self.fixed, *self.axes.values(), *self.defaults}
        known |= {*self.synonyms.values(), *(name for p in self.periods for name in (p.field, p.said) if name)}
        if self.experts:
            facts = self.experts
            known |= set(filter(None, (facts.top_k, facts.switch, facts.only, facts.step)))
        return frozenset(known)

    @cached_property
    def indices(self) -> tuple[str, ...]:
        """The axes along which tensors are counted: layers, experts."""
        return tuple(dict.fromkeys(index for row in self.rows for index in row.indices))

    @property
    def depths(self) -> tuple[str, ...]:
        """The axes that count layers, one of each stack."""
        return tuple(stack.layers for stack in self.stacks)

    @property
    def growable(self) -> tuple[str, ...]:
        """The axes that may grow on their own."""
        return tuple(dict.fromkeys((*GROWABLE, *self.depths)))

    def chain_of(self, name: str) -> Chain | None:
        """The chain of the stack that a row's tensors are in."""
        return next((stack.chain or self.chain for stack in self.stacks if stack.layers == layers_of(name)), None)

    def canonical(self, name: str) -> str | None:
        """The name in the table of a tensor that stock classes store under this one; None for none of its rows."""
        names = self._in_table(name)
        return next((n for n in names if any(pattern.match(n) for pattern in self._patterns)), None)

    def twin(self, name: str) -> str | None:
        """The row that stock classes store once more under this name."""
        return next((self.again[n] for n in self._in_table(name) if n in self.again), None)

    def _in_table(self, name: str) -> list[str]:
        """What a stored name may be in the table."""
        name = self.spelled(name)
        aliased = [self.prefix + name.removeprefix(alias) for alias in self.aliases if name.startswith(alias)]
        return [name, self.prefix + name, *aliased]

    @cached_property
    def _patterns(self) -> dict[re.Pattern[str], tuple[str, ...]]:
        """What matches the names of a row's tensors -> its indices."""
        return {row.pattern: row.indices for row in self.rows}

    def indices_at(self, name: str) -> tuple[str, ...]:
        """The indices of a stored tensor; () for one that is in none of the rows."""
        canonical = self.canonical(name) or ""
        return next((indices for pattern, indices in self._patterns.items() if pattern.match(canonical)), ())

    @cached_property
    def branch_norms(self) -> frozenset[str]:
        """Rows that are the gain of a norm behind a branch, in front of the residual stream."""
        return frozenset(row.name for row in self.rows if row.signature.dims[0].behind)

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
        count = {index: sizes.get(index, 1) for index in dict.fromkeys((*self.indices, EXPERTS))}
        tensors = sum(
            math.prod(n for index, n in count.items() if index in row.indices or row.signature.counts(index))
            for row in self.rows
        )
        check_caps(sizes, self.axes, written, table=not self.attention.rope, tensors=tensors, depths=self.depths)
