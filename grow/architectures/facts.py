"""Facts of a family that shapes do not show, each a small record.

`grow.architectures.family` puts them together. Conditions (`Norm.writes_stream`, `Attention.scaled`, …) are text in the
language of `grow.architectures.conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grow.notation.rope_parameters import SPELLED


@dataclass(frozen=True)
class Norm:
    """The norm on the residual stream.

    kind           "rms" or "layernorm"
    writes_stream  condition under which the norm's output is the residual stream (post-LN)
    affine         condition under which it has a gain (and a bias)
    bare           condition under which something reads the stream without a norm in between
    begins         condition under which the stream begins with a norm's output, although no later norm writes it
    last           condition under which the last of all hidden states that a class gives is behind the final norm
    output         condition under which `last_hidden_state` is
    """

    kind: str
    writes_stream: str = "never"
    affine: str = "always"
    bare: str = "never"
    begins: str = "never"
    last: str = "always"
    output: str = "always"


@dataclass(frozen=True)
class Attention:
    """What sits between q and k.

    scaled      condition under which scores are divided by √head_dim
    rope        None; "half" (rotates coordinates i and i + head_dim/2); "pairs" (2i and 2i + 1); "partial" (the
                first `partial_rotary_factor · head_dim` coordinates are rotated in either way, the rest pass through);
                "table" (2i and 2i + 1, as a table in the checkpoint says: `positions -> head_dim.turn`)
    rotated     config field that says how many of the first coordinates are rotated, where it is no fraction of them
    alibi       condition under which each head has its own slope with the distance instead, see `grow.notation.alibi`
    turned_norm  norms of q and k, whose gains are in the table, come behind the rotation
    whole_norm  those norms are over all heads at once
    index_scaled  condition under which scores are divided by the layer's index + 1, too
    positional  queries of positions meet k as well, so that its bias shows in scores
    parts       axes of further coordinates of q and of k in each head, which do not turn: `nope.q`, `nope.k`; scores
                are divided by the root of how many there are of all kinds together
    repeated    config field -> the axes whose sizes it repeats the sum of
    values      axis of v's coordinates in each head
    cached      axes of what is kept of each token when a text is continued; () for k and v of every head
    positional  queries of positions meet k as well, so that its bias shows in scores
    """

    scaled: str = "always"
    rope: str | None = None
    rotated: str = ""
    alibi: str = "never"
    turned_norm: bool = False
    whole_norm: bool = False
    index_scaled: str = "never"
    parts: tuple[str, ...] = ()
    repeated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: str = "head_dim"
    cached: tuple[str, ...] = ()
    positional: bool = False


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
class SparseLayers:
    """Which layers have experts, said by config fields: "" for one that a family does not have.

    listed  "sparse" or "dense" for each layer; where it is given, it alone counts
    only    a list of layers without experts
    step    every how many layers there are some: those whose number + 1 it divides
    first   the first layer that may have some
    last    the last one, -1 for the last of all
    """

    listed: str = ""
    only: str = ""
    step: str = ""
    first: str = ""
    last: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.listed, self.only, self.step, self.first, self.last)))

    def sparse(self, get: Callable[[str], Any], layer: int) -> bool:
        """Whether a layer has experts; `get` says what a config field is."""
        if self.listed and (listed := get(self.listed)) is not None:
            return bool(listed[layer] == "sparse")
        only, step = get(self.only) or (), int(get(self.step) or 1)
        first, last = int(get(self.first) or 0), get(self.last) if self.last else -1
        return layer not in only and (layer + 1) % step == 0 and layer >= first and (last < 0 or layer <= last)


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
    layers      which layers have some, None for all
    bias        row of a bias on the choice of experts, by which new ones can be left out of it; "" where there is none
    copies      condition under which copies of an expert, chosen together, have its weight together
    groups      config field: into how many groups, one behind the other, the choice divides them
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
    layers: SparseLayers | None = None
    bias: str = ""
    copies: str = "always"
    groups: str = ""
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
class Refusal:
    """An axis that does not grow.

    why        in words, as the reason of a message: "the slopes of ALiBi follow the number of heads"
    when       condition under which it does not
    multiples  it does grow by whole multiples
    """

    axis: str
    why: str
    when: str = "always"
    multiples: bool = False

    def forbids(self, n: int, m: int) -> bool:
        """Whether the axis does not grow from n to m, where the condition holds."""
        return m % n != 0 if self.multiples else m != n
