"""Reading files safely: regular ones only, and none longer than such a file can be.

A pipe waits for ever, /dev/zero never ends, a sparse file claims a terabyte: each is refused before a byte is read. A
link counts as what it points to; whoever reads a checkpoint's own files asks `allowed_files.inside` first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from grow.errors import BadInput
from grow.files.header import open_regular, read_exactly, show, strict_json

MAX_JSON = 100_000_000  # bytes; the longest known file of a tokenizer has a third of it
MAX_TEXT = 1 << 28  # bytes of one document: a tokenizer takes some forty times as much memory
MAX_BESIDE = 1 << 33  # of a file that comes along: weights of a module behind the transformer
MAX_LOG = 1 << 30  # bytes of metrics: millions of steps
FIX = "put the file itself in this place"


def read_file(path: str | os.PathLike[str], *, most: int = MAX_JSON, fix: str = "", where: str = "") -> bytes:
    """All bytes of a regular file of at most `most`; BadInput, as of `where`, for anything else.

    fix  what to do instead, whatever is wrong with the file
    """
    place = where or show(path)
    try:
        fd = open_regular(Path(path))
    except BadInput as error:
        raise BadInput(place, what=error.what, why=error.why, fix=fix or error.fix) from None
    try:
        size = os.fstat(fd).st_size
        check_length(size, most, place, fix or FIX)
        return read_exactly(fd, size, 0, place)
    finally:
        os.close(fd)


def check_length(size: int, most: int, where: str, fix: str) -> None:
    """BadInput for a file of more than `most` bytes."""
    if size > most:
        what = f"has {size:,} bytes; at most {most:,} are read"
        raise BadInput(where, what=what, why="no file of its kind is that long", fix=fix)


def check_file(path: Path) -> None:
    """BadInput unless it is a regular file, and no longer than one of its name may be."""
    with opened(path) as file:
        check_length(os.fstat(file.fileno()).st_size, longest(path.name), show(path), FIX)


def longest(name: str) -> int:
    """Bytes of a file beside the model's weights."""
    return MAX_BESIDE if name.endswith((".safetensors", ".bin")) else MAX_JSON


def read_json(path: str | os.PathLike[str], fix: str = FIX, *, most: int = MAX_JSON) -> Any:
    """The value of a regular file of strict JSON."""
    return strict_json(read_file(path, most=most, fix=fix), show(path), fix)


def read_text(path: str | os.PathLike[str], *, most: int = MAX_TEXT, fix: str = "", where: str = "") -> str:
    """A regular file of UTF-8 as text; line ends are \\n."""
    raw = read_file(path, most=most, fix=fix, where=where)
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 at byte {error.start}"
        raise BadInput(
            where or show(path), what=what, why="text is UTF-8", fix=f"iconv -t utf-8; or: {fix or FIX}"
        ) from None


def opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """A regular file, to be read from its beginning on."""
    return os.fdopen(open_regular(Path(path)), "rb")


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether anything has this name, a dangling link or a pipe too: reading it then says what is wrong with it."""
    return os.path.lexists(path)
