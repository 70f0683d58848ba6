"""A family read with one config: every fact that follows from the two, as an attribute.

source = Architecture(FAMILIES["llama"], config)
source.sizes["head_dim"], source.tie, source.hidden_context, source.get("rope_theta")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from grow.architectures.common_fields import ELEMENTWISE, OLDER_ROPE
from grow.architectures.facts import Chain, FollowsFrom, Refusal, Stack, Tie
from grow.architectures.family import ATTENTION, Family
from grow.architectures.model_sizes import sizes_of
from grow.architectures.size_laws import SizeLaw
from grow.errors import BadInput
from grow.files.header import show
from grow.notation.axes import GAIN, READ, SHIFT, Row
from grow.notation.rope_parameters import SPELLED, rope_of
from grow.notation.spaces import Label


@dataclass(frozen=True)
class Architecture:
    """What a family's table says of the model with this config.

    Facts are found when somebody asks for them: a config that contradicts itself is BadInput then. The config is a
    copy and must not be changed; another config makes another architecture, see `with_config`.

    apart  the file has both the head and the table that it may be one with; a config may not say so
    """

    family: Family
    config: Mapping[str, Any]
    apart: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", dict(self.config))

    def with_config(self, config: Mapping[str, Any]) -> Architecture:
        """The same family read with another config."""
        return replace(self, config=config)

    def of_class(self, name: str) -> Architecture:
        """The same model as another class, `LlamaForCausalLM` or only what its name ends in."""
        return self.with_config({**self.config, "architectures": [name]})

    def get(self, name: str) -> Any:
        """A config field, or the value that the stock config gives it when it is left out; `a.b`: b in the object a."""
        family, config = self.family, self.config
        value = config.get(name)
        if "." in name:
            outer, _, inner = name.partition(".")
            value = config[outer].get(inner) if isinstance(config.get(outer), Mapping) else None
        if value is None and name in family.synonyms:
            value = config.get(family.synonyms[name])
        if value is None:
            value = (family.nulls if name in config and name in family.nulls else family.defaults).get(name)
            if isinstance(value, str) and value.startswith("="):
                value = self.get(value[1:])
            elif isinstance(value, FollowsFrom):
                value = value.values.get(self.get(value.field), value.otherwise)
        return value

    def holds(self, when: str, layer: int | None = None) -> bool:
        """Whether a condition of the family's table holds; without a layer it may hold in any of them."""
        return self.family.conditions[when].holds(self, layer)

    @property
    def class_name(self) -> str:
        """The stock model class, `?` where the config does not name it: nobody may have looked at it yet."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else "?"

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Axis -> size, head_dim and kv_heads resolved; BadInput when the fields contradict each other."""
        return sizes_of(self)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table that some layer of this model has."""
        return tuple(row for row in self.family.rows if self.holds(row.when))

    @cached_property
    def tensors(self) -> dict[str, Row]:
        """Tensor name -> row for every tensor that a checkpoint with this config may hold."""
        tensors: dict[str, Row] = {}
        for row in self.family.rows:
            for numbers in product(*(range(self.sizes[self.counting(index)]) for index in row.indices)):
                at = dict(zip(row.indices, numbers))
                if self.holds(row.when, at.get(row.layers)):
                    tensors[row.at(**at)] = row
        return tensors

    def counting(self, index: str) -> str:
        """The axis whose size an index counts up to: layers that share their tensors are counted in groups."""
        return "layer_groups" if index == "layers" and "layer_groups" in self.sizes else index

    @cached_property
    def branch_norms(self) -> frozenset[str]:
        """Rows that are a gain behind a branch, of a norm or alone, in front of the residual stream."""
        return frozenset(row.name for row in self.rows if row.signature.dims[0].behind)

    def first_lacks(self, stack: Stack) -> bool:
        """Whether the first layer of a stack lacks tensors that the rest have, so that none can be made of it."""
        rows = (row for row in self.rows if row.layers == stack.layers)
        return any(self.family.conditions[row.when].lacks_first for row in rows)

    @property
    def norm_writes_stream(self) -> bool:
        """Whether a norm's output is the residual stream (post-LN)."""
        return self.holds(self.family.norm.writes_stream)

    @property
    def stream_is_bare(self) -> bool:
        """Whether something reads the residual stream without a norm in between."""
        return self.norm_writes_stream or self.holds(self.family.norm.bare)

    @property
    def norm_is_affine(self) -> bool:
        """Whether norms have a gain (and a bias)."""
        return self.holds(self.family.norm.affine)

    @property
    def hidden_context(self) -> str:
        """What sits on the hidden axis, for `grow.notation.operators`: "rms", "layernorm" or "plain"."""
        gained = any(
            dim.role == READ and Label("hidden") in dim.labels for row in self.rows for dim in row.signature.dims
        )
        scaled = self.family.norm.kind == "layernorm" and self.branch_norms  # a mean of what is scaled is not scaled
        gains = self.norm_is_affine or not gained  # without them only what makes up for its size itself can read
        written = self.stream_is_bare or self.holds(self.family.norm.begins)
        return self.family.norm.kind if gains and not (written or scaled) else "plain"

    @property
    def units(self) -> tuple[str, ...]:
        """The family's axes of units that this model has."""
        return tuple(axis for axis in self.family.units if axis in self.sizes)

    def head_width(self, sizes: Mapping[str, int]) -> int:
        """How many coordinates of q meet as many of k in a head of these sizes."""
        return sizes["head_dim"] + sum(sizes[part] for part in self.family.attention.parts)

    @cached_property
    def contexts(self) -> Mapping[str, str]:
        """Axis -> what sits on it, for `grow.notation.operators`."""
        heads = ("heads", "kv_heads") if self.family.attends else ()
        contexts = dict.fromkeys(heads, "elementwise") | {"hidden": self.hidden_context}
        for axis in self.units:
            roles = {dim.role for row in self.rows for dim in row.signature.dims if dim.has(axis)}
            normed = GAIN in roles or axis in self.family.raw
            contexts[axis] = "elementwise" if not normed else "layernorm" if SHIFT in roles else "rms"
        return contexts

    @property
    def activations(self) -> Mapping[str, Any]:
        """The fields of the config that name an activation -> what they name."""
        fields = (name for name, allowed in self.family.fixed.items() if allowed is ELEMENTWISE)
        return {name: self.config[name] for name in fields if name in self.config}

    @property
    def eps(self) -> float:
        """What the norms add to a variance: a config field or hard-coded."""
        eps = self.family.eps
        return float(self.get(eps) if isinstance(eps, str) else eps)

    def chain_of(self, row: Row) -> Chain | None:
        """The modules of the layers that a row's tensors are in; None where no norm writes the stream."""
        return self.family.chain_of(row.name) if self.norm_writes_stream else None

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """Those that this class has."""
        there = {row.layers for row in self.rows}
        return tuple(stack for stack in self.family.stacks if stack.layers in there)

    def stack_of(self, states: str) -> Stack:
        """The stack whose hidden states a stock output has under this name; where it names none, the one there is."""
        known = self.stacks if len(self.family.stacks) > 1 else self.family.stacks
        return next((stack for stack in known if stack.name and states.startswith(stack.name)), known[0])

    @property
    def scaled(self) -> bool:
        """Whether scores are divided by √head_dim."""
        return self.holds(self.family.attention.scaled)

    @property
    def qk_norm(self) -> bool:
        """Whether norms with gains see q and k."""
        q = Label("head_dim", "q")
        return any(dim.role == GAIN and q in dim.labels for row in self.rows for dim in row.signature.dims)

    @property
    def index_scaled(self) -> bool:
        """Whether scores are divided by the layer's index + 1, too."""
        return self.holds(self.family.attention.index_scaled)

    @property
    def alibi(self) -> bool:
        """Whether each head has a slope with the distance."""
        return self.holds(self.family.attention.alibi)

    @property
    def rope(self) -> str | None:
        """How q and k are rotated; None where they are not."""
        return None if self.alibi else self.family.attention.rope

    @cached_property
    def ropes(self) -> Mapping[str, Mapping[str, Any]]:
        """Kind of layer -> the config as `grow.notation.rope` reads it, "" for one rotation in all layers.

        Where the config says nothing, as the stock class takes it.
        """
        family = self.family
        said = {**self.config, "max_position_embeddings": self.get(family.axes["positions"])}
        said |= {"default.partial_rotary_factor": family.defaults.get("partial_rotary_factor")}
        said |= {"rope_reads": family.rope_reads}
        if not family.rope_kinds:
            said |= {"rope_spelling": family.rope_spelling, "rope_spellings": (SPELLED, OLDER_ROPE)}
            return {"": {**said, "default.rope_theta": family.default_theta}}
        views = {}
        nested = self.config.get("rope_parameters")
        nested = {} if nested is None else nested
        if not isinstance(nested, Mapping) or not nested.keys() <= family.rope_kinds.keys():
            raise BadInput(
                "config.json: rope_parameters",
                what=f"{show(repr(nested), 80)}; wanted an object for each of {', '.join(family.rope_kinds)}",
                why="each kind of layer has a rotation of its own",
                fix="set rope_parameters to what the model was trained with",
            )
        for kind, own in family.rope_kinds.items():
            view = {name: value for name, value in said.items() if name not in ("rope_parameters", *SPELLED)}
            if not own.scaled:
                view.pop("rope_scaling", None)
            if nested.get(kind) is not None:
                view["rope_parameters"] = nested[kind]
            spelling = (own.theta_field, SPELLED[1])
            views[kind] = view | {"rope_spelling": spelling, "rope_spellings": (spelling,)}
            views[kind] |= {name: said[name] for name in spelling if name in said}
            views[kind]["default.rope_theta"] = own.theta
        return views

    def rope_changes(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changed fields of `ropes` as fields of this config: parameters of one kind stand among the others'."""
        if not self.family.rope_kinds or "rope_parameters" not in changes:
            return dict(changes)
        nested = {**(self.config.get("rope_parameters") or {}), **changes["rope_parameters"]}
        after = self.with_config({**self.config, **changes, "rope_parameters": nested})
        # stock code takes a kind that is missing beside another for one that is not scaled
        whole = {kind: nested.get(kind) or rope_of(view) for kind, view in after.ropes.items()}
        return {**changes, "rope_parameters": whole}

    @property
    def rope_types(self) -> frozenset[str]:
        """The types of its rotations."""
        return frozenset(str(rope_of(view)["rope_type"]) for view in self.ropes.values())

    @property
    def first_position(self) -> int:
        """The first row of the position table that is a position: some count from behind their padding id."""
        return int(self.get(self.family.positions_from)) + 1 if self.family.positions_from else 0

    @property
    def tie(self) -> Tie | None:
        """The table that is the embedding and the head; None where they are two, or there is no head."""
        tie = self.family.tie
        return tie if tie is not None and self.holds(tie.when) else None

    @property
    def tie_norms(self) -> tuple[str, ...]:
        """Gain and bias of the norm in front of a tied head, () where there is none."""
        return self.tie.norms if self.tie and self.holds(self.tie.norms_when) else ()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The axes of this model that do not grow, or by whole multiples alone, and why."""
        held = (refusal for refusal in self.family.refusals if self.holds(refusal.when))
        return tuple(refusal for refusal in held if refusal.axis in self.sizes)

    def sparse(self, layer: int) -> bool:
        """Whether this layer has experts."""
        experts = self.family.experts
        return experts is not None and (experts.layers is None or experts.layers.sparse(self.get, layer))

    @property
    def top_k(self) -> int:
        """How many experts a token gets; 0 without experts."""
        return self.get(self.family.experts.top_k) if self.family.experts else 0

    @property
    def expert_groups(self) -> int:
        """Into how many groups the choice divides the experts."""
        experts = self.family.experts
        return int(self.get(experts.groups) or 1) if experts and experts.groups else 1

    @property
    def experts_sum_to_one(self) -> bool:
        """Whether the weights of the chosen experts sum to 1."""
        return self.family.experts is not None and self.holds(self.family.experts.normed)

    @property
    def layer_entries(self) -> Mapping[str, tuple[Any, ...]]:
        """Field -> its entry for every layer, as the config lists them or as stock code derives them."""
        entries = {}
        for listed in self.family.layer_lists:
            given = self.config.get(listed.field)
            own = tuple(given) if isinstance(given, list) and given else listed.default(self)
            if own is not None:
                entries[listed.field] = own
        return entries

    @cached_property
    def followed(self) -> Mapping[str, SizeLaw]:
        """Axis -> what its size follows from in this model; it never grows on its own."""
        sizes, laws = self.sizes, {axis: self.law_of(axis) for axis in self.family.size_laws}
        return {axis: law for axis, law in laws.items() if law and law.value(sizes) == sizes[axis]}

    def law_of(self, axis: str) -> SizeLaw | None:
        """What the size of an axis follows from in this model, None where it follows from nothing."""
        laws = (law for law in self.family.size_laws.get(axis, ()) if self.holds(law.when))
        law = next(laws, None)
        return law and law.read_with((*self.family.axes, *ATTENTION), self.get)
