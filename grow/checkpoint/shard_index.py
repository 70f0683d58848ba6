"""The index of a sharded checkpoint: which file holds which tensor, held against what the files hold."""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grow.architectures.any_config import value_and_type
from grow.errors import BadInput, Refused, listing
from grow.files.allowed_files import plain_name
from grow.files.foreign_files import AGAIN, PICKLE_FIX
from grow.files.header import TensorInfo, show

STOCK = {
    "twice": "stock loading takes one of two tensors of a name, and nothing says which",
    "misplaced": "stock loading reads the shards whatever their index says, and other readers do not",
    "missing": "stock loading begins a tensor that no shard holds anew, most of them with random numbers",
    "unlisted": "a tensor that the index does not list may be left over from another checkpoint",
}
"""Fault of an index -> why it is one."""

REWRITTEN = "from_pretrained(…).save_pretrained(…) of transformers writes it anew, with what the index lists alone"


def check_index(index: Any, where: str, ending: str = ".safetensors") -> tuple[dict[str, str], Any]:
    """Its weight_map, and the total_size it claims. Each shard is a plain name, distinct on every system."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        why = "it says which shard holds which tensor"
        raise BadInput(f"{where}: weight_map", what="missing, empty or not an object", why=why, fix=AGAIN)
    metadata = index.get("metadata", {})
    if not isinstance(metadata, dict):
        what = f"{value_and_type(metadata)}; wanted an object"
        raise BadInput(f"{where}: metadata", what=what, why="it may hold total_size", fix="remove metadata")
    spelled: dict[str, str] = {}
    for shard in _distinct(weight_map, where):
        other = spelled.setdefault(unicodedata.normalize("NFC", shard).casefold(), shard)
        if other != shard:
            what = f"{show(other)} and {show(shard)} differ only in case or encoding"
            why = "on many systems these names are one file"
            raise BadInput(where, what=what, why=why, fix="rename one of the shards, here and on disk")
        if not shard.endswith(ending):
            what, why = f"{show(shard)} is not {ending.lstrip('.')}", "grow reads safetensors only"
            raise Refused(where, what=what, why=why, fix=PICKLE_FIX)
    return weight_map, metadata.get("total_size")


def _distinct(weight_map: dict[str, Any], where: str) -> list[str]:
    shards: dict[str, None] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in shards:
            shards[plain_name(shard, f"{where}: {show(tensor)}")] = None
    return list(shards)


def missing_shards(folder: Path, names: list[str], shards: list[str], index: str) -> None:
    """BadInput unless all of the shards are there."""
    missing = [show(shard) for shard in shards if shard not in names]
    if missing:
        what = f"{len(missing)} of {len(shards)} shards are missing: {listing(missing, 100)}"
        raise BadInput(show(folder), what=what, why=f"{index} lists them", fix=AGAIN)


def merged(
    held: Mapping[Path, Mapping[str, TensorInfo]],
    weight_map: Mapping[str, str],
    claimed: Any,
    index: Path,
    ignore_unexpected: Iterable[str],
) -> tuple[dict[str, TensorInfo], list[str]]:
    """The tensors of all shards, when no two hold the same one and the index tells the same story; and notes.

    held               file -> its tensors
    weight_map         tensor -> name of its shard; empty for a checkpoint of one file
    claimed            the total_size that the index names, if it does
    ignore_unexpected  shell patterns of tensors that a shard may hold though the index does not list them
    """
    tensors: dict[str, TensorInfo] = {}
    twice, extra, misplaced = [], [], []
    for file, infos in held.items():
        for name, info in infos.items():
            if name in tensors:
                twice.append(f"{show(name)} ({tensors[name].file.name}, {file.name})")
            elif weight_map and name not in weight_map:
                extra.append(name)
            else:
                tensors[name] = info
                if weight_map and weight_map[name] != file.name:
                    misplaced.append(f"{show(name)} (found in {file.name}, listed in {weight_map[name]})")
    ignored = {name for name in extra if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore_unexpected)}
    faults = {
        "twice": twice,
        "misplaced": misplaced,
        "missing": [f"{show(name)} ({shard})" for name, shard in weight_map.items() if name not in tensors],
        "unlisted": [show(name) for name in extra if name not in ignored],
    }
    faults = {fault: names for fault, names in faults.items() if names}
    if faults:
        raise BadInput(
            show(index),
            what=f"disagrees with the shards: {', '.join(f'{len(names)} {fault}' for fault, names in faults.items())}",
            details=[(fault, listing(names)) for fault, names in faults.items()],
            why="; ".join(STOCK[fault] for fault in faults),
            fix=REWRITTEN if set(faults) == {"unlisted"} else AGAIN,
        )
    if not tensors:
        where = show(next(iter(held)))
        raise BadInput(where, what="holds no tensor", why="there is nothing to grow", fix=AGAIN)
    notes = [f"ignored, as asked: {listing(map(show, sorted(ignored)))}"] if ignored else []
    total = sum(info.nbytes for info in tensors.values())
    if claimed is not None and claimed != total:
        notes.append(f"{index.name}: total_size {show(claimed, 40)} is stale, the tensors hold {total:,}")
    return tensors, notes
