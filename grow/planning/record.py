"""`grow.json`: where a grown checkpoint came from and how it grew, enough to prove it again.

{"schema": 1, "grow": "0.1.0", "source": {…}, "plan": {…}, "tensors": {name: sha256}, "verification": {…}}

"earlier" are the records of the growths before, where the source had grown too, the first one first.
"files" are the relative paths and bytes of what was written beside it: what `--overwrite` knows as grow's own.
Training adds "training". Behind weights that have not grown that is all there is besides "schema" and "grow".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grow.architectures.family import UNITS
from grow.errors import BadInput
from grow.files.header import show
from grow.files.locate import inside
from grow.files.regular import is_there, read_json
from grow.notation.axes import SIDES
from grow.notation.dtypes import BITS
from grow.notation.maps import KINDS, SILENT, AxisMap, axis_map, identity
from grow.notation.size_limits import CAPS, fault, short
from grow.planning.change import ROUTES, Change, Redraw, Upcycling
from grow.planning.layers import FILLS, ZEROS, Depth, unchanged
from grow.planning.methods import DEFAULT
from grow.planning.plan import Plan
from grow.planning.tensor import SPLITS

SCHEMA = 1
NAME = "grow.json"
MOST = 64  # growths one after the other
ASSUMED = "assumed_harmless"  # field -> value, of --assume-harmless
SPACES = {
    **{axis: axis for axis in ("hidden", *UNITS, "heads", "kv_heads")},
    **{f"head_dim.{side}": "head_dim" for side in SIDES},
    **{axis: axis for axis in ("vocab", "positions", "experts")},
}
"""Space of coordinates -> the axis that says its size."""
FIRST = ("hidden", "heads", "kv_heads", "head_dim", "layers", "vocab")  # axes that every family has


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


def record_of(
    plan: Plan,
    *,
    source: str,
    version: str,
    tensors: Mapping[str, str],
    history: Mapping[str, Any] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The JSON document of a finished growth, without its verification.

    history  of the source, as far as it is recorded, see `grow.costs.training_cost`
    earlier  of the source, see `earlier_of`
    """
    return {
        "schema": SCHEMA,
        "grow": version,
        "source": {
            "name": source,
            "model_type": how.source if (how := plan.change.upcycling) else plan.family.model_type,
            "config_sha256": config_sha256(plan.config),
            **(history or {}),
        },
        "plan": {
            "sizes": plan.sizes,
            "new_sizes": plan.new_sizes,
            "parameters": list(plan.parameters),
            "method": plan.method,
            "exact": not plan.lossy,
            **({"lossy_because": plan.lossy} if plan.lossy else {}),
            "operators": plan.operators,
            "storage": plan.storage,
            "rounded": list(plan.rounded),
            "split": plan.split,
            "seed": plan.seed,
            "config_changes": {k: v for k, (_, v) in plan.config_changes.items()},
            "notes": list(plan.notes),
            "maps": {
                space: {"n": m.n, "operator": m.operator, "runs": m.to_runs()}
                for space, m in plan.maps.items()
                if not m.is_identity
            },
            **({} if plan.change.depth.is_identity else {"depth": _depth_document(plan.change.depth)}),
            **({} if plan.change.low is None else {"low": plan.change.low}),
            **({} if plan.change.upcycling is None else {"upcycling": asdict(plan.change.upcycling)}),
            **({"above": True} if plan.change.above else {}),
            **({} if plan.change.redraw is None else {"redraw": asdict(plan.change.redraw)}),
        },
        "tensors": dict(tensors),
        **({"earlier": list(earlier)} if earlier else {}),
        "verification": None,
    }


def config_sha256(config: Mapping[str, Any]) -> str:
    """Of the config as canonical JSON, so that layout and key order do not count."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def raw_record(
    folder: Path, fix: str = "remove it: what it says of the growth before is then lost"
) -> dict[str, Any] | None:
    """The JSON of a checkpoint's grow.json, None where there is none; BadInput where that name is anything else."""
    if not is_there(folder / NAME):
        return None
    found = read_json(inside(Path(os.path.realpath(folder)), NAME), fix)
    if not isinstance(found, dict):
        what = f"is a {type(found).__name__}; wanted a JSON object"
        raise BadInput(show(folder / NAME), what=what, why="it says how the checkpoint has grown", fix=fix)
    return found


def read_record(folder: Path) -> Record | None:
    """The record of a grown checkpoint, None when it has not grown; BadInput when it cannot be understood."""
    path = folder / NAME
    fix = "remove it to compare the two checkpoints by their outputs alone, or grow again"
    raw = raw_record(folder, fix)
    if raw is None:
        return None
    if "training" in raw and not {"plan", "tensors"} & raw.keys():
        return None
    return parse_record(raw, str(path), fix)


def assumed(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that somebody vouched for when this checkpoint grew, as far as they still have the value of then."""
    raw = raw_record(folder)
    found = raw.get(ASSUMED) if isinstance(raw, dict) else None
    return tuple(k for k, v in found.items() if k in config and config[k] == v) if isinstance(found, dict) else ()


def earlier_of(folder: Path, dtypes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of the growths that made a checkpoint, the first one first, for the grow.json of the next one; none
    where it has not grown, was trained since, or nobody can read what it says.

    dtypes  of its tensors
    """
    try:
        known = read_record(folder)
    except (BadInput, OSError):
        return []
    if known is None or "training" in known.raw or len(known.earlier) >= MOST:
        return []
    own = {key: known.raw[key] for key in ("schema", "grow", "source", "plan", "tensors") if key in known.raw}
    return [*(record.raw for record in known.earlier), {**own, "dtypes": dict(dtypes)}]


def trained_record(record: Mapping[str, Any] | None, training: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The JSON document behind training: that of the growth, if there was one, and what was done since."""
    base = {k: v for k, v in (record or {"schema": SCHEMA, "grow": version}).items() if k != "files"}  # of other files
    return {**base, "verification": None, "training": dict(training)}


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
            if axis in CAPS and (why := fault(axis, size)):
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


def _depth_document(depth: Depth) -> dict[str, Any]:
    return {
        "source": list(depth.source),
        "inserted": [j for j, new in enumerate(depth.inserted) if new],
        "fill": depth.fill,
        **({} if depth.zero == "output" else {"zero": depth.zero}),
    }


def _change(plan: Mapping[str, Any], sizes: Mapping[str, int], new_sizes: Mapping[str, int]) -> Change:
    """The maps of all spaces, the unchanged ones as identities, and the layers; ValueError when they fit no sizes."""
    maps = {space: _map(space, m, sizes, new_sizes) for space, m in plan["maps"].items()}
    whole = {space: maps.get(space) or identity(sizes[axis]) for space, axis in SPACES.items() if axis in sizes}
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


def _redraw(plan: Mapping[str, Any]) -> Redraw | None:
    if (stored := plan.get("redraw")) is None:
        return None
    found = Redraw(**stored)
    if not isinstance(found.share, float) or not 0 < found.share <= 1 or not isinstance(found.first, bool):
        raise ValueError(f"redraw: {stored!r}")
    return found


def _upcycling(stored: Mapping[str, Any] | None) -> Upcycling | None:
    if stored is None:
        return None
    found = Upcycling(**stored)
    counts = (found.granularity, found.every)
    if not all(type(k) is int and k > 0 for k in counts) or found.route not in ROUTES:
        raise ValueError(f"upcycling: {stored!r}")
    return found


def _map(space: str, stored: Mapping[str, Any], sizes: Mapping[str, int], new_sizes: Mapping[str, int]) -> AxisMap:
    """One map of grow.json; ValueError, before anything of its size is built, when it is not one of this axis."""
    if space not in SPACES:
        raise ValueError(f"maps: {space!r} is not a space")
    n, m, runs = sizes[SPACES[space]], new_sizes[SPACES[space]], stored["runs"]
    lengths = [run[0] for run in runs]
    if stored["n"] != n or not all(type(k) is int and k > 0 for k in lengths) or sum(lengths) != m:
        raise ValueError(f"maps: {space} is not a map {n} -> {m}")
    for _, first, *scales in runs:
        if type(first) is not int or len(scales) != 3 or not all(math.isfinite(x) for x in scales):
            raise ValueError(f"maps: {space} has a run that is not [length, source, write, read, gain]")
    if any(first not in KINDS if first < 0 else first + length > n for length, first, *_ in runs):
        raise ValueError(f"maps: {space} points outside its axis")
    return AxisMap.from_runs(n, runs, str(stored["operator"]))


def _layers(depth: Depth) -> Iterator[tuple[str, AxisMap]]:
    """The layers as an axis: inserted ones carry nothing yet, and repeated ones are all read."""
    if not depth.is_identity:
        source = [SILENT if new else i for i, new in zip(depth.source, depth.inserted)]
        how = f"inserted, {depth.fill}" if any(depth.inserted) else "repeated"
        yield "layers", axis_map(depth.n, source, read=None if depth.lawful else 1.0, operator=how)


def growth_document(record: Record) -> dict[str, Any]:
    """How every axis grew and where the checkpoint came from, JSON-ready."""
    return {
        "axes": [
            {
                "axis": SPACES.get(space, space),
                "space": space,
                "old": m.n,
                "new": m.m,
                "operator": m.operator,
                "runs": m.to_runs(),
            }
            for space, m in (*record.maps.items(), *_layers(record.change.depth))
        ],
        "sizes": record.sizes,
        "new_sizes": record.new_sizes,
        "storage": record.storage,
        "rounded": record.raw["plan"].get("rounded", []),
        "method": record.method,
        "exact": not record.lossy,
        "lossy_because": record.lossy,
        "split": record.split,
        "seed": record.seed,
        "grow": record.raw.get("grow"),
        "source": record.raw["source"],
        "tensors": len(record.tensors),
    }
