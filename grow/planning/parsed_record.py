"""What `grow.json` says of a growth, parsed: nothing in it is believed before it fits the sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grow.errors import BadInput
from grow.notation.axes import SIDES
from grow.notation.dtypes import BITS
from grow.notation.maps import KINDS, AxisMap
from grow.notation.size_limits import fault, short
from grow.planning.change import ROUTES, Change, Redraw, Upcycling, no_maps
from grow.planning.layers import FILLS, ZEROS, Depth, unchanged
from grow.planning.methods import DEFAULT
from grow.planning.tensor import SPLITS

SCHEMA = 1
MOST = 64  # growths one after the other
FIRST = ("hidden", "layers")  # axes that every family has


@dataclass(frozen=True)
class Record:
    """What `grow.json` says; `maps` are the axis maps, `tensors` the sha256 of each stored tensor.

    lossy    what a method that is not exact lost, in words; empty for an exact growth
    earlier  the growths before this one, the first one first
    """

    model_type: str
    source_config_sha256: str
    sizes: dict[str, int]
    new_sizes: dict[str, int]
    change: Change
    config_changes: dict[str, Any]
    storage: str
    split: str
    seed: int
    tensors: dict[str, str]
    raw: dict[str, Any]
    method: str = DEFAULT
    lossy: str = ""
    earlier: tuple[Record, ...] = ()

    @property
    def maps(self) -> dict[str, AxisMap]:
        """Those that change something."""
        return {space: m for space, m in self.change.maps.items() if not m.is_identity}


def parse_record(raw: Any, where: str, fix: str) -> Record:
    """The record of a document as `record_of` makes it; BadInput when it cannot be understood."""
    try:
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r}, this version reads {SCHEMA}")
        plan = raw["plan"]
        sizes, new_sizes = ({str(k): int(v) for k, v in plan[key].items()} for key in ("sizes", "new_sizes"))
        if sizes.keys() != new_sizes.keys() or not {*FIRST} <= sizes.keys():
            raise ValueError("sizes and new_sizes do not name the axes")
        for axis, size in (*sizes.items(), *new_sizes.items()):
            if why := fault(axis, size):
                raise ValueError(f"{axis} {short(size)}: {why}")
        if plan["split"] not in SPLITS or int(plan["seed"]) < 0:
            raise ValueError(f"split {plan['split']!r}, seed {plan['seed']!r}")
        return Record(
            str(raw["source"]["model_type"]),
            str(raw["source"]["config_sha256"]),
            sizes,
            new_sizes,
            _change(plan, sizes, new_sizes),
            dict(plan["config_changes"]),
            str(plan["storage"]),
            str(plan["split"]),
            int(plan["seed"]),
            {str(k): str(v) for k, v in raw["tensors"].items()},
            raw,
            str(plan.get("method", DEFAULT)),
            "" if plan.get("exact", True) is True else str(plan.get("lossy_because") or "nothing says what"),
            _earlier(raw.get("earlier", []), where, fix),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise BadInput(
            where,
            what="is not a record of a growth",
            why=f"{type(error).__name__}: {error}",
            fix=fix,
        ) from None


def _earlier(stored: Any, where: str, fix: str) -> tuple[Record, ...]:
    if not isinstance(stored, list) or len(stored) > MOST or any("earlier" in record for record in stored):
        raise ValueError("earlier is not a list of records")
    for record in stored:
        if not all(name in record["tensors"] and dtype in BITS for name, dtype in record["dtypes"].items()):
            raise ValueError("earlier: dtypes are not among the record's tensors")
    return tuple(parse_record(record, where, fix) for record in stored)


def _change(plan: Mapping[str, Any], sizes: Mapping[str, int], new_sizes: Mapping[str, int]) -> Change:
    """The maps of all spaces, the unchanged ones as identities, and the layers; ValueError when they fit no sizes."""
    maps = {space: _map(space, m, sizes, new_sizes) for space, m in plan["maps"].items()}
    sided = {axis_of(space) for space in maps} - maps.keys()  # each side of these has a map of its own
    whole = {space: m for space, m in no_maps(sizes).items() if space not in sided} | maps
    n, m = sizes["layers"], new_sizes["layers"]
    depth = unchanged(n)
    if stored := plan.get("depth"):
        source, inserted = stored["source"], stored["inserted"]
        if len(source) != m or not all(type(i) is int and 0 <= i < n for i in source) or stored["fill"] not in FILLS:
            raise ValueError(f"depth: no layers {n} -> {m}")
        if not all(type(j) is int and 0 < j < m for j in inserted):
            raise ValueError(f"depth: inserted layers are some of 1 to {m - 1}")
        zero = stored.get("zero", ZEROS[0])
        if zero not in ZEROS:
            raise ValueError(f"depth: zero {zero!r} is not one of {', '.join(ZEROS)}")
        depth = Depth(n, tuple(source), tuple(j in inserted for j in range(m)), stored["fill"], zero)
    low = plan.get("low")
    if depth.m != m or depth.inserted[:1] == (True,) or not (low is None or isinstance(low, float)):
        raise ValueError(f"depth: no layers {n} -> {m}")
    return Change(whole, depth, low, _upcycling(plan.get("upcycling")), plan.get("above") is True, _redraw(plan))


def axis_of(space: str) -> str:
    """The axis that says the size of a space of coordinates: head_dim of `head_dim.q`."""
    return space.partition(".")[0]


def _redraw(plan: Mapping[str, Any]) -> Redraw | None:
    if (stored := plan.get("redraw")) is None:
        return None
    redraw = Redraw(**stored)
    if not isinstance(redraw.share, float) or not 0 < redraw.share <= 1 or not isinstance(redraw.first, bool):
        raise ValueError(f"redraw: {stored!r}")
    return redraw


def _upcycling(stored: Mapping[str, Any] | None) -> Upcycling | None:
    if stored is None:
        return None
    upcycling = Upcycling(**stored)
    counts = (upcycling.granularity, upcycling.every)
    if not all(type(k) is int and k > 0 for k in counts) or upcycling.route not in ROUTES:
        raise ValueError(f"upcycling: {stored!r}")
    return upcycling


def _map(space: str, stored: Mapping[str, Any], sizes: Mapping[str, int], new_sizes: Mapping[str, int]) -> AxisMap:
    """One map of grow.json; ValueError, before anything of its size is built, when it is not one of this axis."""
    axis = axis_of(space)
    if axis not in sizes or space not in (axis, *(f"{axis}.{side}" for side in SIDES)):
        raise ValueError(f"maps: {space!r} is not a space")
    n, m, runs = sizes[axis], new_sizes[axis], stored["runs"]
    lengths = [run[0] for run in runs]
    if stored["n"] != n or not all(type(k) is int and k > 0 for k in lengths) or sum(lengths) != m:
        raise ValueError(f"maps: {space} is not a map {n} -> {m}")
    for _, first, *scales in runs:
        if type(first) is not int or len(scales) != 3 or not all(math.isfinite(x) for x in scales):
            raise ValueError(f"maps: {space} has a run that is not [length, source, write, read, gain]")
    if any(first not in KINDS if first < 0 else first + length > n for length, first, *_ in runs):
        raise ValueError(f"maps: {space} points outside its axis")
    return AxisMap.from_runs(n, runs, str(stored["operator"]))
