"""Where a checkpoint lies: SRC is a folder, a bundled name (`grow.zoo`) or a hub id `org/name`, at one commit."""

from __future__ import annotations

import os
import re
from pathlib import Path

from grow.errors import BadInput, did_you_mean
from grow.files.header import show
from grow.files.hub_download import download
from grow.spelling import option

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def locate(src: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded, all files from one commit.

    src       folder, bundled name or hub id; an existing folder wins over the other two
    revision  branch, tag or commit of a hub id; nothing else has one

    >>> locate("HuggingFaceTB/SmolLM2-135M", revision="main")    # doctest: +SKIP
    """
    if not isinstance(src, (str, os.PathLike)):
        raise BadInput(
            option(src=src),
            what=f"must be a text or a path, got {type(src).__name__}",
            why="a source is a checkpoint folder, a bundled name or a hub id ORG/NAME",
            fix="write the path of a folder, one of the bundled names, or ORG/NAME",
        )
    text = os.fspath(src)
    is_path = not isinstance(src, str) or not text or text.startswith((".", "~", "/")) or os.path.isdir(text)
    bundled = () if is_path else _bundled()
    is_path = is_path or (text not in bundled and os.path.lexists(text))
    if not is_path and text not in bundled and HUB_ID.fullmatch(text):
        return download(text, revision)
    if revision is not None:
        raise BadInput(
            option(revision=show(revision)),
            what=f"{show(text) or 'the empty source'} is not a hub id",
            why="only a repository on the hub has revisions",
            fix="leave the revision out, or give ORG/NAME",
        )
    if text in bundled:
        from grow.zoo import bundled_path

        return Path(bundled_path(text))
    if not is_path and "/" not in text:
        raise BadInput(
            show(text),
            what=f"neither a folder nor a bundled name; {did_you_mean(text, bundled) or 'see the list'}",
            details=[("bundled", ", ".join(bundled) or "none")],
            why="a source is a checkpoint folder, a bundled name or a hub id ORG/NAME",
            fix="write the path of a folder, one of the bundled names, or ORG/NAME",
        )
    return check_folder(src)


def check_folder(path: str | os.PathLike[str]) -> Path:
    """`path` as a real, absolute folder; a file, a missing path and the empty string are explained."""
    text = os.fspath(path)
    where = show(text)

    def bad(what: str, fix: str) -> BadInput:
        why = "a checkpoint is config.json and safetensors together in one folder"
        return BadInput(where or "source", what=what, why=why, fix=fix)

    if not text:
        raise bad("the path is empty", "give the folder of a checkpoint")
    try:
        real = Path(os.path.realpath(text, strict=True))
    except FileNotFoundError:
        fix = "check the spelling, or the folder you are in (pwd)"
        if HUB_ID.fullmatch(text):
            fix = f"hf download {text}, or give the hub id to a command that takes one"
        elif text.startswith("~"):
            fix = "leave ~ unquoted, so that the shell expands it"
        raise bad("does not exist", fix) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise bad(f"cannot be opened: {reason}", "check the path and its permissions") from None
    if not real.is_dir():
        raise bad("is a file; wanted the folder that holds it", f"give {show(real.parent)}")
    return real


def _bundled() -> tuple[str, ...]:
    from grow.zoo import BUNDLED

    return tuple(BUNDLED)
