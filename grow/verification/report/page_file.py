"""The file of an HTML page: refused early where it cannot be written, else written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.owned import check_file
from grow.spelling import option

MARKS = tuple(f"· grow {command}</title>".encode() for command in ("verify", "compare"))
FIX = "a file name in a folder that exists and can be written"


def check_place(path: Path) -> Path:
    """Where the page will lie, a link followed; BadInput when it cannot be written there, before any work is done."""
    where, target = option(report=path), Path(os.path.realpath(path))
    if os.path.exists(target) and not target.is_file():
        raise BadInput(where, what="is not a regular file", why="the report replaces what is there", fix=FIX)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise BadInput(where, what="cannot be written", why=f"{target.parent} is not a folder", fix=FIX)
    check_file(target, where, "a page of grow", MARKS, "a report replaces an earlier one, and nothing else")
    return target


def write_page(page: str, path: Path) -> None:
    """A page under `path`, whole or not at all; BadInput when it cannot be written there."""
    target = check_place(path)
    partial = target.with_name(f".grow-report-{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(page.encode())
            os.replace(partial, target)
            keep(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(option(report=path), what="cannot be written", why=str(error), fix=FIX) from None
