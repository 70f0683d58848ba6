"""`grow.json`: where a grown checkpoint came from and how it grew, enough to prove it again.

{"schema": 1, "grow": "0.1.0", "source": {…}, "plan": {…}, "tensors": {name: sha256}, "verification": {…}}

"earlier" are the records of the growths before, where the source had grown too, the first one first.
"files" are the relative paths and bytes of what was written beside it: what `--overwrite` knows as grow's own.
Training adds "training". Behind weights that have not grown that is all there is besides "schema" and "grow".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grow.architectures.named_family import the_named
from grow.errors import BadInput
from grow.files.allowed_files import inside
from grow.files.header import show
from grow.files.regular import is_there, read_json
from grow.notation.maps import SILENT, AxisMap, axis_map
from grow.planning.layers import Depth
from grow.planning.parsed_record import MOST, SCHEMA, Record, axis_of, parse_record
from grow.planning.plan import Plan

NAME = "grow.json"
ASSUMED = "assumed_harmless"  # field -> value, of --assume-harmless


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
    named = the_named(plan.family.model_type)
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
            **({} if named is None else {"family": {"file": named.file, "sha256": named.sha256}}),
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
    raw = read_json(inside(Path(os.path.realpath(folder)), NAME), fix)
    if not isinstance(raw, dict):
        what = f"is a {type(raw).__name__}; wanted a JSON object"
        raise BadInput(show(folder / NAME), what=what, why="it says how the checkpoint has grown", fix=fix)
    return raw


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
    vouched = raw.get(ASSUMED) if isinstance(raw, dict) else None
    return tuple(k for k, v in vouched.items() if k in config and config[k] == v) if isinstance(vouched, dict) else ()


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


def _depth_document(depth: Depth) -> dict[str, Any]:
    return {
        "source": list(depth.source),
        "inserted": [j for j, new in enumerate(depth.inserted) if new],
        "fill": depth.fill,
        **({} if depth.zero == "output" else {"zero": depth.zero}),
    }


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
                "axis": axis_of(space),
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
