"""The maps as each row of a table needs them: what one row is scaled by beside the maps of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from grow.architectures.architecture import Architecture
from grow.notation.axes import WRITE, Row
from grow.notation.maps import BLEND, UNREAD, AxisMap, axis_map, concatenate
from grow.planning.change import Change, index_scale, writes_stream
from grow.planning.expert_maps import unread_experts


def row_maps(source: Architecture, change: Change, row: Row, layer: int | None) -> Mapping[str, AxisMap]:
    """The maps as this row of this layer needs them."""
    maps, depth = dict(change.maps), change.depth
    if change.draws_copies(source, layer):
        maps |= {axis: first_copies(maps[axis]) for axis in source.contexts if axis != "hidden" and axis in maps}
    maps |= {f"{axis}.raw": maps[axis].ungained for axis in source.family.raw}
    if row.signature.dims[0].looked_up and "heads" in row.signature.axes:  # a bias that scores get
        maps["heads"] = repeating(maps["heads"])
    if "head_dim" in row.signature.axes:
        maps["head_dim.turn"] = turning(maps["head_dim.k"])
    scale = 1.0 if layer is None else index_scale(source, depth, layer)
    if scale != 1.0:
        maps["head_dim.q"] = scaled(maps["head_dim.q"], scale)
    if layer is not None and depth.inserted[layer] and source.branch_norms and writes_stream(row):
        maps["hidden"] = drawn(maps["hidden"])  # the norm behind has gain 0, and one zero factor is enough
    if source.family.experts and row.name == source.family.experts.bias and unread_experts(maps.get("experts")):
        maps["experts"] = not_chosen(maps["experts"])
    if row.root and not maps["hidden"].is_identity:
        factor = root_factor(row, maps)
        if any(dim.role == WRITE and dim.has("hidden") for dim in row.signature.dims):
            maps["hidden"] = scaled(maps["hidden"], factor)
        else:
            maps["hidden"] = read_times(maps["hidden"], factor)
    return maps


def root_factor(row: Row | None, maps: Mapping[str, AxisMap]) -> float:
    """What a row is multiplied with because stock code multiplies it by a root of a size that grows."""
    if row is None or row.root is None:
        return 1.0
    axis, exponent = row.root
    return float((maps[axis].n / maps[axis].m) ** exponent)


def tie_factor(source: Architecture, maps: Mapping[str, AxisMap]) -> float:
    """What the norm in front of a tied head makes up for: the head reads the table as the embedding needs it."""
    if source.tie is None:
        return 1.0
    rows = {row.name: row for row in source.family.rows}
    table, head = (root_factor(rows.get(name), maps) for name in (source.tie.table, source.tie.head))
    return head / table


@lru_cache(maxsize=64)
def first_copies(units: AxisMap) -> AxisMap:
    """The map in which further copies are new units that nothing reads."""
    further = units.copy_number > 0
    if not further.any():
        return units
    alone = np.where(units.source >= 0, 1 / (units.write * units.gain), units.read)
    return units.having(source=np.where(further, UNREAD, units.source), read=np.where(further, 0.0, alone))


@lru_cache(maxsize=8)
def repeating(axis_map: AxisMap) -> AxisMap:
    """The map in which fresh coordinates are old ones again."""
    fresh, source = axis_map.source < 0, axis_map.source.copy()
    source[fresh] = np.arange(fresh.sum()) % axis_map.n
    return axis_map.having(source=source)


@lru_cache(maxsize=8)
def turning(head: AxisMap) -> AxisMap:
    """The map of a table of the angles by which coordinates 2i and 2i + 1 turn: all sines, then all cosines."""
    first = head.source[::2]
    pairs = repeating(axis_map(head.n // 2, np.where(first < 0, first, first // 2)))
    return concatenate([pairs, pairs])


@lru_cache(maxsize=64)
def scaled(axis_map: AxisMap, factor: float) -> AxisMap:
    """The map for a producer whose rows are multiplied with `factor` beside."""
    return axis_map.having(write=_snapped(axis_map.write * factor), read=axis_map.read / factor)


@lru_cache(maxsize=8)
def read_times(axis_map: AxisMap, factor: float) -> AxisMap:
    """The map for a reader whose columns are multiplied with `factor` beside."""
    return axis_map.having(gain=_snapped(axis_map.gain / factor), read=axis_map.read * factor)


@lru_cache(maxsize=8)
def not_chosen(experts: AxisMap) -> AxisMap:
    """The map for a bias that keeps tokens away from the new experts: they do not take the old numbers."""
    return experts.having(source=np.where(experts.read == 0, BLEND, experts.source))


@lru_cache(maxsize=8)
def drawn(stream: AxisMap) -> AxisMap:
    """The map for a producer whose fresh coordinates are drawn."""
    return stream.having(source=np.where(stream.source < 0, UNREAD, stream.source))


def _snapped(factors: np.ndarray) -> np.ndarray:
    """√a · √(1/a) is 1, whatever the two were rounded to."""
    return np.where(np.abs(factors - 1) < 1e-15, 1.0, factors)
