"""The growth itself, independent of files: one map per space, and the source of every layer.

A plan is made from a `Change`, `grow.json` stores it, and verification lays it over the two checkpoints again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grow.architectures.architecture import Architecture
from grow.architectures.facts import Chain, Stack
from grow.architectures.layer_lists import Window
from grow.errors import BadInput, Refused
from grow.notation.axes import GAIN, SHIFT, SIDES, WRITE, Row
from grow.notation.maps import AxisMap, identity, is_power_of_two
from grow.notation.origins import AS_IT_IS, Constant, Drawn, Read
from grow.planning.expert_maps import unread_experts
from grow.planning.layers import Depth, chain_scales
from grow.planning.sparse_layers import sparse_config
from grow.spelling import option


@dataclass(frozen=True)
class Change:
    """maps: space -> AxisMap, unchanged ones included. depths: axis that counts layers -> where they come from.

    low        logit that new tokens get through the head's bias, None where they are blends
    upcycling  how a dense model is read as one with experts, None where the source has them (or nobody has)
    above      further copies of a unit write what the next layer's unit writes (lossy, see
               `grow.planning.methods.bert2bert`)
    redraw     units of upcycled experts that are drawn anew (lossy)
    """

    maps: Mapping[str, AxisMap]
    depths: Mapping[str, Depth]
    low: float | None = None
    upcycling: Upcycling | None = None
    above: bool = False
    redraw: Redraw | None = None

    @property
    def depth(self) -> Depth:
        """Where the layers come from in a model of one stack, and those of the first one of several."""
        return next(iter(self.depths.values()))

    def depth_of(self, row: Row) -> Depth:
        """Where the layers come from that a row's tensors are in."""
        return self.depths[row.layers]

    @property
    def makes_experts(self) -> bool:
        """Whether experts are made of an FFN, or added."""
        experts = self.maps.get("experts")
        return self.upcycling is not None or (experts is not None and not experts.is_identity)

    def draws_copies(self, source: Architecture, row: Row, layer: int | None) -> bool:
        """Whether further copies of units and heads in this new layer are drawn.

        What they write is 0, so nothing else would tell them from the first one.
        """
        if layer is None or source.branch_norms:
            return False
        depth = self.depth_of(row)
        return depth.zero == "output" and depth.inserted[layer]

    def copies(self, expert: int) -> np.ndarray:
        """The new experts that come from the same old one, in order."""
        source = self.maps["experts"].source
        return np.flatnonzero(source == source[expert])

    def shared(self, row: Row) -> bool:
        """Whether copies of an expert share this row: together they write what the old one wrote.

        After upcycling the router picks among copies, so each is the old one; grown experts are always picked together.
        """
        experts = self.maps["experts"]
        together = self.upcycling is None and not experts.is_identity and not unread_experts(experts)
        return together and writes_stream(row)

    def read_again(self, row: str, shared: Mapping[str, str]) -> bool:
        """Whether a row is read from an FFN that the routed experts carry already; `shared` as of `family.Experts`."""
        return self.upcycling is not None and self.upcycling.route == "routed" and row in shared


def no_maps(sizes: Mapping[str, int], depths: Collection[str]) -> dict[str, AxisMap]:
    """The maps of a growth that changes nothing: identities of every space; layers are counted and not mapped.

    depths  the axes that count layers
    """
    whole = {axis: identity(n) for axis, n in sizes.items() if axis not in (*depths, "head_dim")}
    return whole | {f"head_dim.{side}": identity(sizes["head_dim"]) for side in SIDES if "head_dim" in sizes}


@dataclass(frozen=True)
class Redraw:
    """Units of upcycled experts that are drawn anew (lossy, see `grow.planning.methods.upcycling`).

    share  of each expert's units, drawn for each expert apart; the same in all of its matrices
    first  whether the first expert of a group loses some, too
    """

    share: float
    first: bool


ROUTES = ("routed", "shared")


@dataclass(frozen=True)
class Upcycling:
    """A dense model read as one with experts, before anything grows; see `grow.upcycle`.

    source, target  model types
    granularity     how many slices an FFN is cut into
    every           every how many layers there are experts
    route           which experts carry the old FFN: "routed" or "shared"
    """

    source: str
    target: str
    granularity: int = 1
    every: int = 1
    route: str = "routed"


@dataclass(frozen=True)
class Treatment:
    """What happens to one tensor beside the maps of its axes.

    layer   the old layer it comes from
    origin  how: read, times a factor; one number; or drawn
    moved   the old tensor itself, although the layer is an inserted one: a chain ends with the norm it began with
    """

    layer: int
    origin: Read | Constant | Drawn = AS_IT_IS
    moved: bool = False


def treat(source: Architecture, change: Change, row: Row, layer: int, expert: int | None = None) -> Treatment:
    """How a row of the new layer `layer` comes about; see `grow.planning.layers`."""
    depth = change.depth_of(row)
    old, chain = depth.source[layer], source.chain_of(row)
    if chain is not None and depth.lawful:
        treatment = _chained(source, chain, depth, row, layer)
        if treatment is not None:
            return treatment
    if not depth.inserted[layer]:
        return Treatment(old)
    if depth.zero == "norm":
        first, *others = row.signature.dims
        still = not others and (first.role == WRITE or first.has("hidden"))
        return Treatment(old, Constant(-first.offset) if still else AS_IT_IS)
    if row.name in source.branch_norms:
        return Treatment(old, Constant(-row.signature.dims[0].offset))
    if not source.branch_norms and writes_stream(row):
        return Treatment(old, Constant(0.0))
    if expert is not None and change.upcycling is None and not writes_stream(row) and change.copies(expert)[0] < expert:
        return Treatment(old, Drawn())  # nothing else would tell it from its twin: what they write is 0
    if depth.fill == "fresh" and row.signature.dims[0].role not in (GAIN, SHIFT):
        return Treatment(old, Drawn() if len(row.signature.dims) > 1 else Constant(0.0))
    return Treatment(old)


def _chained(source: Architecture, chain: Chain, depth: Depth, row: Row, layer: int) -> Treatment | None:
    """The rows of a post-norm layer that is, or stands in front of, a run of inserted ones; None: nothing special."""
    length, place = depth.chain(layer)
    if not length:
        return None
    module, _, kind = row.name.rpartition(".")
    scales = chain_scales(length, source.eps, chain.norms)
    gain = kind == "weight"
    last = module == chain.last
    if place == 0:
        if last:
            return Treatment(depth.source[layer], Constant(scales.gain if gain else 0.0))
        if module in (chain.first, chain.writes):
            return Treatment(depth.source[layer], Read(scales.scale))
        if module == chain.reads and gain:
            return Treatment(depth.source[layer], Read(1 / scales.scale))
        return None
    if module == chain.reads and not gain:
        # the stream there is `gain` times a normal vector: an old bias would drown it, and with none half of all
        # ReLUs are off and may stay so
        return Treatment(depth.source[layer], Constant(10 * scales.gain))
    if last and place == length:  # what the LayerNorm in front of the run was
        return Treatment(depth.source[layer - place], Read(scales.last if gain else 1.0), moved=True)
    if last or module in (chain.first, *chain.before):
        return Treatment(depth.source[layer], Constant(scales.gain if gain else 0.0))
    return None


def check_depths(source: Architecture, depths: Mapping[str, Depth]) -> None:
    """Refused where no inserted layer of this kind computes the identity, or the first layer would be another one."""
    for stack in source.family.stacks:
        if not depths[stack.layers].is_identity:
            _check_depth(source, stack, depths[stack.layers])


def _check_depth(source: Architecture, stack: Stack, depth: Depth) -> None:
    family = source.family
    field, counted = family.axes[stack.layers], source.counting(stack.layers)
    if source.first_lacks(stack) and any((i == 0) != (j == 0) for j, i in enumerate(depth.source)):
        raise Refused(
            option(to={field: depth.m}),
            what=f"{stack.layers} {depth.n} -> {depth.m}, where the first would be another, or another the first",
            why="the first layer has other tensors than the rest",
            fix=f"leave {field} at {depth.n}",
        )
    if not any(depth.inserted):
        return
    if source.sizes[counted] != source.sizes[stack.layers]:
        raise Refused(
            option(to={field: depth.m}),
            what=f"layers {depth.n} -> {depth.m}; {depth.n} layers share the weights of {source.sizes[counted]}",
            why="one layer more would compute once more what those weights compute, and that is no identity",
            fix=f"leave {field} at {depth.n}; layers grow where {family.axes[counted]} is their number",
        )
    if not source.norm_writes_stream:
        return
    if (stack.chain or family.chain) is None or not source.norm_is_affine:
        raise Refused(
            option(to={field: depth.m}),
            what=f"{stack.layers} {depth.n} -> {depth.m}",
            why="here a LayerNorm writes the residual stream and has no gain: LN(x) is x for no x that is not normal",
            fix=f"leave {field} at {depth.n}",
        )
    try:
        eps = source.eps
    except (TypeError, ValueError):
        eps = math.nan
    if not 0 < eps < math.inf:
        raise BadInput(
            f"config.json: {family.eps}",
            what=f"{source.config.get(str(family.eps))!r}, wanted a positive number",
            why="the gains of the LayerNorms between which layers are inserted follow from it",
            fix=f"set {family.eps} to the eps that the model was trained with",
        )


LIVE = ("sigmoid", "laplace", "xielu")  # activations that are not 0 at 0


def norms_silence(source: Architecture) -> str:
    """Why layers whose norms are 0 would not be silent; "" where they are."""
    if source.hidden_context == "plain" or source.branch_norms:
        return "it needs norms in front of each branch that have a gain"
    for field, value in source.activations.items():
        if value in LIVE:
            return f"{field}={value} is not 0 at 0, so the FFN is not silent"
    return ""


def depth_rounds(source: Architecture, depths: Mapping[str, Depth]) -> tuple[str, ...]:
    """Why inserting these layers rounds weights; empty where it does not."""
    reasons = []
    for axis, depth in depths.items():
        if depth.is_identity:
            continue
        if source.norm_writes_stream and any(depth.inserted):
            reasons.append(f"{axis} {depth.n} -> {depth.m}: chains of LayerNorms that make up for each other")
        if any(not is_power_of_two(index_scale(source, depth, j)) for j in range(depth.m)):
            reasons.append(f"{axis} {depth.n} -> {depth.m}: scores divided by the layer's number move")
    return tuple(reasons)


def index_scale(source: Architecture, depth: Depth, layer: int) -> float:
    """What q is multiplied with where scores are divided by layer + 1 and the layer has moved."""
    return (layer + 1) / (depth.source[layer] + 1) if source.index_scaled else 1.0


def layer_config(source: Architecture, depths: Mapping[str, Depth]) -> dict[str, Any]:
    """Per-layer fields, rewritten for the new layers."""
    family, grown = source.family, {axis: depth for axis, depth in depths.items() if not depth.is_identity}
    changes: dict[str, Any] = {}
    for listed in family.layer_lists:
        if listed.layers not in grown:
            continue
        depth, entries = grown[listed.layers], source.layer_entries.get(listed.field)
        if entries is not None:
            changes[listed.field] = [entries[i] for i in depth.source]
        changes |= listed.otherwise(changes.get(listed.field, ()))
        if isinstance(listed, Window):
            changes |= _boundary(source, listed, depth)
    return changes | (sparse_config(source, grown[family.depths[0]]) if family.depths[0] in grown else {})


def _boundary(source: Architecture, listed: Window, depth: Depth) -> dict[str, Any]:
    """What kinds of attention would follow from is carried along with their list: older readers know no list."""
    config, first, kinds = source.config, int(source.get(listed.first)), source.layer_entries.get(listed.field)
    derived = kinds is not None and not config.get(listed.field)
    if listed.first not in config and not derived:
        return {}
    full = [kinds is None or kinds[i] == listed.entries[0] for i in depth.source]
    if full == sorted(full, reverse=True) and not listed.even:
        return {listed.first: max(first, depth.m) if all(full) and first >= depth.n else sum(full)}
    if listed.first in config:
        # no number says it where they take turns: as many as came from below the boundary
        return {listed.first: sum(i < first for i in depth.source) + max(0, first - depth.n)}
    return {}


def writes_stream(row: Row) -> bool:
    return any(dim.role == WRITE and dim.has("hidden") for dim in row.signature.dims)
