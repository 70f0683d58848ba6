"""Which files of a folder may be opened: those inside it, under names that are file names on every system.

A file lies inside a folder when it does so after all symlinks are followed, or in `blobs/` of the hub cache that holds
the folder (`models--org--name/snapshots/COMMIT/FILE -> ../../blobs/HASH`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from grow.errors import BadInput
from grow.files.header import show

WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def plain_name(name: object, where: str) -> str:
    """`name`, when it is a file beside the index on every system: no folder, drive or device."""
    text = name if isinstance(name, str) else ""
    fault = ""
    if not isinstance(name, str) or not name or name in (".", ".."):
        fault = "is not a file name"
    elif any(ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff" for char in text):
        fault = "holds a NUL, control character or lone surrogate"
    elif any(char in text for char in '/\\:*?"<>|'):
        fault = "leaves the folder or is not a file name on every system"
    elif WINDOWS_DEVICE.fullmatch(text):
        fault = "is a device on Windows"
    elif text.endswith((".", " ")) or len(os.fsencode(text)) > 255:
        fault = "is not a file name on every system"
    if fault:
        raise BadInput(
            where,
            what=f"file name {show(repr(name))} {fault}",
            why="an index may only name files beside it",
            fix="name the shards model-00001-of-0000N.safetensors, in the folder of the index",
        )
    return text


def inside(folder: Path, name: str, follow_symlinks: bool = False) -> Path:
    """`folder / name`, when it ends in `folder` (a real path) or in the blobs of the same hub cache."""
    path = folder / name
    target = Path(os.path.realpath(path))
    if follow_symlinks or target.is_relative_to(folder):
        return path
    for snapshot in (folder, *folder.parents):
        cache = snapshot.parent.parent
        cached = snapshot.parent.name == "snapshots" and cache.name.startswith("models--")
        if cached and target.parent == cache / "blobs":
            return path
    raise BadInput(
        show(path),
        what=f"is a symlink that leaves the folder, to {show(target)}",
        why="a downloaded checkpoint must not reach files elsewhere on this machine",
        fix=f"if you trust the file, copy it into the folder: cp --remove-destination {show(target)} {show(path)}",
    )
