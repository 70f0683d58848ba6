"""What this process has already written under a final name, for the message of a later failure.

keep(Path("out"))                     the rename is done
sentence()                            "nothing was kept under the final name", or "out is complete and stays"
"""

from __future__ import annotations

import os
from pathlib import Path

COMPLETE = "is complete and stays"
_kept: dict[Path, str] = {}


def keep(path: str | os.PathLike[str], how: str = COMPLETE) -> None:
    """From here on `path` stays, whatever fails."""
    _kept[Path(os.path.abspath(path))] = how


def sentence() -> str:
    """What was kept and is still there, as a sentence; a part of a result has gone with the whole of it."""
    there = {path: how for path, how in _kept.items() if path.exists()}
    outer = {path: how for path, how in there.items() if not any(above in there for above in path.parents)}
    return "; ".join(f"{path} {how}" for path, how in outer.items()) or "nothing was kept under the final name"


def forget() -> None:
    """A new command begins."""
    _kept.clear()
