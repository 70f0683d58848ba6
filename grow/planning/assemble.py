"""All tensors of a result, with the map of each dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

import numpy as np

from grow.architectures.family import Experts
from grow.architectures.match import Match, Matched
from grow.notation.axes import WRITE, Label, Row, Signature
from grow.notation.dim_maps import dim_map
from grow.notation.maps import AxisMap
from grow.planning.change import DRAWN, Change, Treatment, row_maps, tie_factor, treat
from grow.planning.tensor import Share, TensorPlan


def assemble(matched: Match, change: Change, dtypes: Mapping[str, str]) -> tuple[tuple[TensorPlan, ...], str]:
    """The result's tensors, and the name of a head that has to part from its tied table (or "")."""
    source, family = matched.architecture, matched.family
    tie = source.tie
    if tie and not any(t.canonical == tie.table and "hidden" in t.row.signature.axes for t in matched.tensors):
        tie = None  # the table lives in another space than the one that grows: OPT's word_embed_proj_dim
    grows = not change.maps["hidden"].is_identity
    parted = tie if tie and grows and not source.tie_norms else None
    stored = {(t.row.name, t.index("layers"), t.index("experts")): t for t in matched.tensors}
    tensors, untied = [], ""
    for row, name, canonical, layer, expert in _in_order(matched, change):
        maps = row_maps(source, change.maps, change.depth, row, layer)
        treated = Treatment(0) if layer is None else treat(source, change, row, layer, expert)
        old_expert = None if expert is None else int(maps["experts"].source[expert])
        t = stored[row.name, None if layer is None else treated.layer, old_expert]
        tied = tie is not None and parted is None and canonical in tie.norms
        new = layer is not None and change.depth.new[layer] and not treated.moved
        grown = _tensor(t, name, row.signature, maps, dtypes[t.name], change.low)
        grown = replace(grown, canonical=canonical, tied=tied, inserted=new)
        if tied:
            grown = replace(grown, factor=grown.factor * tie_factor(source, change.maps))
        if family.experts:
            grown = replace(grown, again=change.read_again(row.name, family.experts.shared))
        if change.above and layer is not None and treated.fill is None:
            grown = replace(grown, above=_above(grown, stored.get((row.name, treated.layer + 1, old_expert))))
        if expert is not None:
            copies = change.copies(expert).tolist()
            among = tuple((t.at(t.at(t.name, layers=layer or 0), experts=k), 0) for k in copies)
            place = copies.index(expert)
            grown = replace(grown, copy=place, share=Share(place, among) if change.shared(row) else None)
            grown = replace(grown, redraw=_redraw(family.experts, change, row.signature, layer, expert, place))
        tensors.append(_treated(grown, treated))
        if row.signature.stacked and tensors[-1].fill is None:
            tensors[-1] = _stack(family.experts, t, tensors[-1], row, maps, change, layer)
        if parted and canonical == parted.table:
            head = next(row for row in family.rows if row.name == parted.head)
            untied = parted.head
            apart = row_maps(source, change.maps, change.depth, head, layer)
            second = _tensor(t, untied, head.signature, apart, dtypes[t.name])
            tensors.append(replace(second, canonical=untied, again=True))
    return tuple(tensors), untied


def _treated(t: TensorPlan, treated: Treatment) -> TensorPlan:
    """What the layer asks for comes before how the tensor came about."""
    if treated.fill is None:
        return replace(t, factor=t.factor * treated.factor)
    return replace(t, fill=treated.fill, share=None)


def _above(t: TensorPlan, upper: Matched | None) -> str:
    """The next layer's tensor where it has one and this one writes copies."""
    copied = any(m is not None and role == WRITE and m.counts.max() > 1 for m, role in zip(t.maps, t.roles))
    return upper.name if upper is not None and copied else ""


def _redraw(
    experts: Experts | None, change: Change, signature: Signature, layer: int | None, expert: int, place: int
) -> tuple[float, str, int] | None:
    """Which share of an expert's units is drawn anew, by which name, and along which dim they are."""
    if change.redraw is None or experts is None or (place == 0 and not change.redraw.first):
        return None
    dims = [d for d, dim in enumerate(signature.dims) if dim.has(experts.width)]
    return (change.redraw.share, f"redraw {layer}.{expert}", dims[0]) if dims else None


def _stack(
    facts: Experts | None,
    t: Matched,
    grown: TensorPlan,
    row: Row,
    maps: Mapping[str, AxisMap],
    change: Change,
    layer: int | None,
) -> TensorPlan:
    """The stack with the plans of its matrices; what tells twins of experts apart is decided for each."""
    pieces: list[tuple[int, TensorPlan]] = []
    begin, of, experts = 0, row.signature.part, maps["experts"]
    rows = t.shape[1]
    each = len(t.parts) // experts.n
    for j, i in enumerate(experts.source.tolist()):
        alone = replace(
            t, row=replace(row, signature=of), shape=t.shape[1:], source=grown.source, corner=(i * rows, 0), parts=()
        )
        copies = change.copies(j).tolist()
        height = grown.new_shape[1]
        for p, part in enumerate(t.parts[i * each : (i + 1) * each] or (alone,)):
            piece = _tensor(part, f"{grown.name}[{j}.{p}]", part.row.signature, maps, grown.dtype)
            piece = replace(piece, canonical=grown.canonical, inserted=grown.inserted, copy=copies.index(j))
            piece = replace(piece, redraw=_redraw(facts, change, part.row.signature, layer, j, piece.copy))
            if change.shared(row):
                among = tuple((grown.name, k * height) for k in copies)
                piece = replace(piece, share=Share(copies.index(j), among))
            elif grown.inserted and change.upcycling is None and copies[0] < j:
                piece = replace(piece, fill=DRAWN)
            pieces.append((begin, piece))
            begin += piece.new_matrix[0]
    return replace(grown, pieces=tuple(pieces))


def _in_order(matched: Match, change: Change) -> Iterator[tuple[Row, str, str, int | None, int | None]]:
    """(row, stored name, canonical name, new layer, new expert) of every tensor of the result; layers stand where the
    first did, and copies of an expert behind each other."""

    def placed(t: Matched, layer: int | None) -> Iterator[tuple[Row, str, str, int | None, int | None]]:
        expert = t.index("experts")
        new = (None,) if expert is None else np.flatnonzero(change.maps["experts"].source == expert).tolist()
        for j in new:
            at = {} if layer is None else {"layers": layer}
            at |= {} if j is None else {"experts": j}
            yield t.row, t.at(t.name, **at), t.at(t.canonical, **at), layer, j

    if change.depth.is_identity:
        for t in matched.tensors:
            yield from placed(t, t.index("layers"))
        return
    layers: dict[int | None, list[Matched]] = {}
    for t in matched.tensors:
        layers.setdefault(t.index("layers"), []).append(t)
    once = layers.get(None, [])
    before = len(list(takewhile(lambda t: t.index("layers") is None, matched.tensors)))
    for t in once[:before]:
        yield from placed(t, None)
    for j, source in enumerate(change.depth.source):
        for t in layers[source]:
            yield from placed(t, j)
    for t in once[before:]:
        yield from placed(t, None)


def _tensor(
    t: Matched, name: str, signature: Signature, maps: Mapping[str, AxisMap], dtype: str, low: float | None = None
) -> TensorPlan:
    labels = [label for dim in signature.dims for label in dim.labels]
    sizes = {label.axis: maps[label.space].n for label in labels if label.space in maps}
    sizes |= {dim.space.axis: size for dim, size in zip(signature.dims, t.shape) if isinstance(dim.space, Label)}
    dims = tuple(dim_map(dim, maps, sizes) for dim in signature.dims)
    new_shape = tuple(n if m is None else m.m for m, n in zip(dims, t.shape))
    biased = low if len(dims) == 1 and signature.dims[0].has("vocab") else None
    return TensorPlan(
        name,
        t.source or t.name,
        signature,
        dims,
        t.shape,
        new_shape,
        t.dtype,
        dtype,
        low=biased,
        fill=t.fill,
        rms=t.rms,
        repeat=t.repeat,
        factor=t.factor,
        corner=t.corner,
    )
