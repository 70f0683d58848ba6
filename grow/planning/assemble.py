"""All tensors of a result, each made whole in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from grow.architectures.architecture import Architecture
from grow.architectures.facts import Tie
from grow.architectures.match import Match, Matched, Origin
from grow.notation.axes import WRITE, Label, Row, Signature
from grow.notation.dim_maps import dim_map
from grow.notation.maps import AxisMap
from grow.notation.origins import Constant, Drawn, Read, Redrawn, SourcePart, Stack, Twin
from grow.planning.change import Change, Treatment, treat
from grow.planning.row_maps import row_maps, tie_factor
from grow.planning.tensor import TensorPlan, roles_of

DimMaps = tuple[AxisMap | None, ...]  # one per stored dim, None where nothing changes


def assemble(matched: Match, change: Change, dtypes: Mapping[str, str]) -> tuple[tuple[TensorPlan, ...], str]:
    """The result's tensors, and the name of a head that has to part from its tied table (or "").

    dtypes  of the result, by the names of the old tensors
    """
    assembly = _Assembly(matched, change, dtypes)
    parted, tensors = assembly.parted, []
    for place in _in_order(matched, change):
        tensors.append(assembly.tensor(place))
        if parted and place.canonical == parted.table:
            tensors.append(assembly.head(parted))
    return tuple(tensors), parted.head if parted else ""


class _Place(NamedTuple):
    """Where a tensor of the result stands; layer and expert are new ones, None where it is in none."""

    row: Row
    name: str
    canonical: str
    layer: int | None
    expert: int | None


@dataclass(frozen=True)
class _Assembly:
    """Makes each tensor of a result whole; there is one method for each kind."""

    matched: Match
    change: Change
    dtypes: Mapping[str, str]

    @property
    def source(self) -> Architecture:
        return self.matched.architecture

    @cached_property
    def stored(self) -> dict[tuple[str, int | None, int | None], Matched]:
        """(row, old layer, old expert) -> the old tensor."""
        return {(t.row.name, t.index("layers"), t.index("experts")): t for t in self.matched.tensors}

    @cached_property
    def tie(self) -> Tie | None:
        """None, too, where the table lives in another space than the one that grows: OPT's word_embed_proj_dim."""
        tie = self.source.tie
        there = any(tie and t.canonical == tie.table and "hidden" in t.row.signature.axes for t in self.matched.tensors)
        return tie if there else None

    @cached_property
    def parted(self) -> Tie | None:
        """The tie that ends because no norm in front of the head can absorb the growth."""
        grows = not self.change.maps["hidden"].is_identity
        return self.tie if grows and not self.source.tie_norms else None

    def tensor(self, place: _Place) -> TensorPlan:
        change, (row, name, canonical, layer, expert) = self.change, place
        maps = row_maps(self.source, change, row, layer)
        treatment = Treatment(0) if layer is None else treat(self.source, change, row, layer, expert)
        old_layer = None if layer is None else treatment.layer
        old_expert = None if expert is None else int(maps["experts"].source[expert])
        old = self.stored[row.name, old_layer, old_expert]
        inserted = layer is not None and change.depth.new[layer] and not treatment.moved
        tied = self.tie is not None and self.parted is None and canonical in self.tie.norms
        dims, shape = _grown(row.signature, old.shape, maps)
        dtype, treated = self.dtypes[old.name], _treated(old.origin, treatment.origin)
        origin: Read | Constant | Drawn | Stack[TensorPlan]
        if row.signature.stacked and isinstance(treated, (Read, Stack)):
            matrices = _matrices(old, treated, maps["experts"].n)
            origin = Stack(tuple(self._pieces(place, matrices, maps, shape[1], dtype, inserted)))
        elif isinstance(treated, Read) and row.signature.matrix is not row.signature:
            origin = Stack((self._matrix(place, old, treated, maps, dtype, inserted),))
        elif isinstance(treated, Read):
            above = None if old_layer is None else self.stored.get((row.name, old_layer + 1, old_expert))
            origin = self._read(place, old, treated, dims, above, tie_factor(self.source, change.maps) if tied else 1.0)
        elif isinstance(treated, Stack):
            raise TypeError(f"{name}: {row.signature} is not a stack")
        else:
            origin = treated
        return TensorPlan(name, canonical, row.signature, dims, old.stored, shape, dtype, origin, tied, inserted)

    def head(self, tie: Tie) -> TensorPlan:
        """The tied table once more, as the head that parts from it."""
        row = next(row for row in self.source.family.rows if row.name == tie.head)
        table = next(t for t in self.matched.tensors if t.canonical == tie.table)
        maps = row_maps(self.source, self.change, row, None)
        dims, shape = _grown(row.signature, table.shape, maps)
        dtype, origin = self.dtypes[table.name], Read(again=True)
        return TensorPlan(tie.head, tie.head, row.signature, dims, table.stored, shape, dtype, origin)

    def _matrix(
        self, place: _Place, old: Matched, treated: Read, maps: Mapping[str, AxisMap], dtype: str, inserted: bool
    ) -> TensorPlan:
        """A tensor of several dims, as the one matrix, or vector, that lies in it."""
        signature = old.row.signature
        dims = _maps(signature.matrix, maps, _sizes(signature, old.shape, maps))
        shape = signature.flat(old.shape)[: len(dims)]
        part = replace(old.stored, shape=shape)
        grown = tuple(n if m is None else m.m for m, n in zip(dims, shape))
        return TensorPlan(
            place.name, place.canonical, signature.matrix, dims, part, grown, dtype, treated, inserted=inserted
        )

    def _read(
        self, place: _Place, old: Matched, treated: Read, dims: DimMaps, above: Matched | None, factor: float
    ) -> Read:
        """above  the old tensor of the next layer;  factor  beside the one that the layer asks for"""
        change, row, experts = self.change, place.row, self.source.family.experts
        tokens = len(dims) == 1 and row.signature.dims[0].has("vocab")
        copied = above is not None and change.above and _writes_copies(row.signature, dims)

        def spot(expert: int) -> tuple[str, int]:
            return old.at(old.at(old.name, layers=place.layer or 0), experts=expert), 0

        return Read(
            treated.factor * factor,
            low=change.low if tokens else None,
            above=above.stored if above is not None and copied else None,
            twin=None if place.expert is None else self._twin(place, row.signature, place.expert, spot),
            again=experts is not None and change.read_again(row.name, experts.shared),
        )

    def _pieces(
        self,
        place: _Place,
        matrices: list[tuple[Matched, ...]],
        maps: Mapping[str, AxisMap],
        height: int,
        dtype: str,
        inserted: bool,
    ) -> Iterator[TensorPlan]:
        """The matrices of a stack; what tells twins of experts apart is decided for each.

        matrices  of each old expert
        height    rows of each new expert
        """
        change, row = self.change, place.row
        alike = inserted and change.upcycling is None and not change.shared(row)  # copies: what they write is 0

        def spot(expert: int) -> tuple[str, int]:
            return place.name, expert * height

        for expert, old_expert in enumerate(maps["experts"].source.tolist()):
            further = change.copies(expert)[0] < expert
            for number, old in enumerate(matrices[old_expert]):
                signature, made = old.row.signature, old.origin
                dims, shape = _grown(signature, old.shape, maps)
                if isinstance(made, Stack):
                    raise TypeError(f"{place.name}: a stack of stacks")
                if alike and further:
                    made = Drawn()
                elif isinstance(made, Read):
                    made = Read(made.factor, twin=self._twin(place, signature, expert, spot))
                name = f"{place.name}[{expert}.{number}]"
                yield TensorPlan(
                    name, place.canonical, signature, dims, old.stored, shape, dtype, made, inserted=inserted
                )

    def _twin(
        self, place: _Place, signature: Signature, expert: int, spot: Callable[[int], tuple[str, int]]
    ) -> Twin | None:
        """spot  (tensor, first row) of an expert's matrix"""
        change = self.change
        if not change.makes_experts:
            return None
        copies = change.copies(expert).tolist()
        number = copies.index(expert)
        among = tuple(spot(copy) for copy in copies) if change.shared(place.row) else ()
        name = f"redraw {place.layer}.{expert}"
        return Twin(number, among, self._redrawn(signature, name, first=number == 0))

    def _redrawn(self, signature: Signature, name: str, first: bool) -> Redrawn | None:
        """first  whether the expert is the first that came from its old one"""
        redraw, experts = self.change.redraw, self.source.family.experts
        if redraw is None or experts is None or (first and not redraw.first):
            return None
        units = [d for d, dim in enumerate(signature.dims) if dim.has(experts.width)]
        return Redrawn(redraw.share, name, units[0]) if units else None


def _treated(old: Origin, by: Read | Constant | Drawn) -> Origin:
    """What the layer asks for comes before how the old tensor comes about; numbers that are drawn anyway stay those."""
    if isinstance(old, Stack) and not isinstance(by, Constant):
        return Stack(tuple(replace(piece, origin=_treated(piece.origin, by)) for piece in old.pieces))
    match by:
        case Read(factor=factor):
            return Read(old.factor * factor) if isinstance(old, Read) else old
        case Drawn():
            return old if isinstance(old, Drawn) else by
    return by


def _matrices(old: Matched, origin: Read | Stack[Matched], experts: int) -> list[tuple[Matched, ...]]:
    """The matrices of each of the experts of a stack, which is stored or made of other tensors."""
    if isinstance(origin, Stack):
        each = len(origin.pieces) // experts
        return [origin.pieces[i * each : (i + 1) * each] for i in range(experts)]
    row, (_, height, width) = replace(old.row, signature=old.row.signature.part), old.shape
    parts = [SourcePart(old.stored.tensor, old.dtype, (height, width), (i * height, 0)) for i in range(experts)]
    return [(Matched(old.name, old.canonical, row, part, origin),) for part in parts]


def _grown(
    signature: Signature, shape: tuple[int, ...], maps: Mapping[str, AxisMap]
) -> tuple[DimMaps, tuple[int, ...]]:
    """The map of each dimension of a tensor, and the shape that it gets."""
    dims = _maps(signature, maps, _sizes(signature, shape, maps))
    return dims, tuple(n if m is None else m.m for m, n in zip(dims, shape))


def _maps(signature: Signature, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> DimMaps:
    return tuple(dim_map(dim, maps, sizes) for dim in signature.dims)


def _sizes(signature: Signature, shape: tuple[int, ...], maps: Mapping[str, AxisMap]) -> dict[str, int]:
    """Axis -> old size, of the axes in a tensor."""
    labels = [label for dim in signature.dims for label in dim.labels]
    known = ((label.axis, maps.get(label.space) or maps.get(label.axis)) for label in labels)
    sizes = {axis: axis_map.n for axis, axis_map in known if axis_map is not None}
    return sizes | {dim.space.axis: size for dim, size in zip(signature.dims, shape) if isinstance(dim.space, Label)}


def _writes_copies(signature: Signature, dims: DimMaps) -> bool:
    pairs = zip(dims, roles_of(signature))
    return any(m is not None and role == WRITE and m.counts.max() > 1 for m, role in pairs)


def _in_order(matched: Match, change: Change) -> Iterator[_Place]:
    """Every tensor of the result; layers stand where the first did, and copies of an expert behind each other."""

    def placed(tensor: Matched, layer: int | None) -> Iterator[_Place]:
        expert = tensor.index("experts")
        new = (None,) if expert is None else np.flatnonzero(change.maps["experts"].source == expert).tolist()
        for j in new:
            at = {} if layer is None else {"layers": layer}
            at |= {} if j is None else {"experts": j}
            yield _Place(tensor.row, tensor.at(tensor.name, **at), tensor.at(tensor.canonical, **at), layer, j)

    if change.depth.is_identity:
        for tensor in matched.tensors:
            yield from placed(tensor, tensor.index("layers"))
        return
    layers: dict[int | None, list[Matched]] = {}
    for tensor in matched.tensors:
        layers.setdefault(tensor.index("layers"), []).append(tensor)
    once = layers.get(None, [])
    before = len(list(takewhile(lambda tensor: tensor.index("layers") is None, matched.tensors)))
    for tensor in once[:before]:
        yield from placed(tensor, None)
    for j, source in enumerate(change.depth.source):
        for tensor in layers[source]:
            yield from placed(tensor, j)
    for tensor in once[before:]:
        yield from placed(tensor, None)
