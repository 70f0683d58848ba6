"""`grow.json`: where a grown checkpoint came from and how every axis grew, enough to prove it again.

{"schema": 1, "grow": "0.1.0", "source": {…}, "plan": {…}, "tensors": {name: sha256}, "verification": {…}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.family import Family
from grow.maps import AxisMap
from grow.plan import Plan

SCHEMA = 1
NAME = "grow.json"


@dataclass(frozen=True)
class Record:
    """What `grow.json` says; `maps` are the axis maps, `tensors` the sha256 of each stored tensor."""

    model_type: str
    source_config_sha256: str
    sizes: dict[str, int]
    new_sizes: dict[str, int]
    maps: dict[str, AxisMap]
    config_changes: dict[str, Any]
    storage: str
    split: str
    seed: int
    tensors: dict[str, str]
    raw: dict[str, Any]


def record_of(plan: Plan, *, source: str, version: str, tensors: Mapping[str, str]) -> dict[str, Any]:
    """The JSON document of a finished growth, without its verification."""
    return {
        "schema": SCHEMA,
        "grow": version,
        "source": {
            "name": source,
            "model_type": plan.family.model_type,
            "config_sha256": config_sha256(plan.config),
        },
        "plan": {
            "sizes": plan.sizes,
            "new_sizes": plan.new_sizes,
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
        },
        "tensors": dict(tensors),
        "verification": None,
    }


def config_sha256(config: Mapping[str, Any]) -> str:
    """Of the config as canonical JSON, so that layout and key order do not count."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_record(folder: Path) -> Record | None:
    """The record of a grown checkpoint, None when it has none; BadInput when it cannot be understood."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r}, this version reads {SCHEMA}")
        plan = raw["plan"]
        maps = {
            space: AxisMap.from_runs(int(m["n"]), m["runs"], str(m["operator"])) for space, m in plan["maps"].items()
        }
        for space, m in maps.items():
            if m.m > 2**31 or (m.source >= m.n).any():
                raise ValueError(f"the map of {space} points outside its axis")
        return Record(
            str(raw["source"]["model_type"]),
            str(raw["source"]["config_sha256"]),
            {k: int(v) for k, v in plan["sizes"].items()},
            {k: int(v) for k, v in plan["new_sizes"].items()},
            maps,
            dict(plan["config_changes"]),
            str(plan["storage"]),
            str(plan["split"]),
            int(plan["seed"]),
            {str(k): str(v) for k, v in raw["tensors"].items()},
            raw,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise BadInput(
            str(path),
            what="is no record of a growth",
            why=f"{type(error).__name__}: {error}",
            fix="remove it to compare the two checkpoints by their outputs alone, or grow again",
        ) from None


def whole_maps(record: Record, family: Family) -> dict[str, AxisMap]:
    """All spaces, the unchanged ones as identities."""
    from grow.maps import identity

    size = record.sizes
    spaces = {"hidden": "hidden", "ffn": "ffn", "heads": "heads", "kv_heads": "kv_heads"}
    spaces |= {f"head_dim.{side}": "head_dim" for side in "qkv"}
    return {space: record.maps.get(space) or identity(size[axis]) for space, axis in spaces.items()}
