"""The file state/train.json, which `grow train` writes beside an optimizer state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.distributed_index import INDEX
from grow.files.header import show
from grow.files.regular import is_there, read_json
from grow.spelling import option

SCHEMA = 1
STATE, TRAIN = "state", "train.json"
KINDS = {"step": int, "tokens": int, "flops": float, "seconds": float, "source": str, "data": list, "settings": dict}
WRITER = "grow train"


def read_train(path: Path) -> dict[str, Any]:
    """The document state/train.json of a checkpoint that has all its files; BadInput otherwise."""
    file = path / STATE / TRAIN
    weights = option(src="RUN/step-…", state="drop")
    fix = f"an earlier checkpoint, or a new run from its weights alone: {weights}"
    if not is_there(file):
        raise BadInput(
            show(path), what=f"has no {STATE}/{TRAIN}", why="it is not whole, or not the checkpoint of a run", fix=fix
        )
    document = read_json(file, fix)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document.get("writer") != WRITER:
        raise BadInput(show(file), what=f"was not written by {WRITER}", why="grow does not know what it means", fix=fix)
    sizes = document.get("files")
    if not isinstance(sizes, dict) or f"{STATE}/{INDEX}" not in sizes:
        raise BadInput(show(file), what="names no optimizer state", why="a run continues from one", fix=fix)
    if odd := [name for name, kind in KINDS.items() if not isinstance(document.get(name), kind)]:
        what = f"{odd[0]} is {show(document.get(odd[0]), 40)}"
        raise BadInput(show(file), what=what, why="it is not what was saved", fix=fix)
    missing = [name for name in sizes if not (path / name).is_file()]
    short = [name for name in sizes if name not in missing and (path / name).stat().st_size != sizes[name]]
    if missing or short:
        lost = ", ".join([*missing, *short][:4])
        what = f"{lost} {'is missing' if missing else 'has another size'}"
        raise BadInput(show(path), what=what, why="it is not what was saved", fix=fix)
    return document
