"""The header of a safetensors file, believed only when it accounts for every byte.

    file    = length (8 bytes, little-endian)  header (JSON, `length` bytes)  data
    header  = {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}, "__metadata__": {...}}

The offsets count from the start of the data and the tensors tile it: no gap, no overlap, nothing behind them.
The format is described at https://github.com/huggingface/safetensors#format. Nothing is allocated from a size
that a header claims; sizes are Python ints and are compared with the size of the file first.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean, listing
from grow.files.foreign_files import AGAIN, FOREIGN
from grow.files.foreign_names import told
from grow.files.json_floats import FLOAT
from grow.notation.dtypes import FILE_DTYPES

CHUNK = 1 << 20  # bytes of a read that only passes through
MAX_HEADER = 100_000_000
MAX_TENSORS = 1 << 18
MAX_AXES = 32
MAX_DEPTH = 32
MAX_BYTES = 2**63 - 1
FIELDS = {"dtype", "shape", "data_offsets"}
SURROGATE = re.compile("[\ud800-\udfff]").search


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`nbytes` bytes at `offset` of `file` are a row-major tensor `shape` of `dtype` (a safetensors code)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def show(value: object, limit: int = 200) -> str:
    """`value` as one printable line: control characters and lone surrogates escaped, the middle cut out."""
    text = str(value)
    text = text if text.isprintable() else ascii(text)[1:-1]
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


def open_regular(path: Path) -> int:
    """A read-only descriptor of a regular file. A FIFO, device, socket or folder is refused unopened."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        link = os.path.islink(path)
        raise BadInput(
            show(path),
            what=f"cannot be opened: {reason}",
            why="it is a link, and no file is where it leads" if link else "what it holds is needed",
            fix="put the file itself in this place" if link else "check that the file exists and is readable",
        ) from None
    raise BadInput(
        show(path),
        what=f"is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; wanted a file",
        why="reading a pipe or device may never end",
        fix="put the file itself in this place",
    )


def read_exactly(fd: int, count: int, offset: int, where: str) -> bytes:
    """`count` bytes at `offset`, never fewer: a file that ends earlier is an error."""
    parts = []
    while count:
        try:
            part = os.pread(fd, count, offset)
        except OSError as error:
            why = "the disk or the file system refuses"
            raise BadInput(where, what=f"cannot be read: {error.strerror}", why=why, fix=AGAIN) from None
        if not part:
            why = "it became shorter while it was read"
            raise BadInput(where, what=f"ends at byte {offset:,}", why=why, fix=AGAIN)
        parts.append(part)
        count, offset = count - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def strict_json(raw: bytes, where: str, fix: str, *, constants: bool = False) -> Any:
    """The value of UTF-8 JSON in which each key occurs once and each number is finite. A BOM is accepted.

    constants  take Infinity, -Infinity and NaN, which are no JSON, for the objects as which transformers writes them
    """

    def bad(what: str, why: str) -> BadInput:
        return BadInput(where, what=what, why=why, fix=fix)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise bad(f"key {show(twice)!r} occurs twice", "which of the two counts is unclear")
        return value

    def finite(text: str) -> float:
        if math.isfinite(number := float(text)):
            return number
        raise bad(f"holds the number {show(text, 40)}", "JSON numbers are finite")

    def special(text: str) -> dict[str, str]:
        return {FLOAT: text}

    try:
        text = raw.decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=once, parse_float=finite, parse_constant=special if constants else finite
        )
    except UnicodeDecodeError as error:
        raise bad(f"is not UTF-8 at byte {error.start}", "JSON is UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise bad(what, "it must be one JSON value") from None
    except ValueError:
        raise bad("holds an integer of thousands of digits", "no size is that long") from None
    except RecursionError:
        raise bad("is nested a thousand levels deep", f"at most {MAX_DEPTH} levels are read") from None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return value
    raise bad("is nested too deeply", f"at most {MAX_DEPTH} levels are read")


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors of a safetensors file in file order, and its `__metadata__`. BadInput for anything amiss.

    >>> tensors, metadata = read_header("model.safetensors")               # doctest: +SKIP
    >>> tensors["wte.weight"].shape, tensors["wte.weight"].dtype           # doctest: +SKIP
    ((50257, 768), 'F32')
    """
    fd = open_regular(Path(path))
    try:
        return parse_header(fd, Path(path))
    finally:
        os.close(fd)


def parse_header(fd: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """`read_header` of an open file, in a time that is linear in the number of its tensors."""
    collected = gc.isenabled()
    gc.disable()  # it would walk all entries made so far, again and again, and none of them is garbage
    try:
        return _parsed(fd, path)
    finally:
        if collected:
            gc.enable()


def _parsed(fd: int, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    where, size = show(path), os.fstat(fd).st_size
    raw, data = _raw_header(fd, size, where)
    if (count := raw.count(b"{")) > MAX_TENSORS:  # each has one: told before a list of millions is made
        raise BadInput(
            f"{where}: header",
            what=f"lists {count:,} tensors; at most {MAX_TENSORS:,} are read",
            why="no model has as many in one file: those with the most experts have about 100,000",
            fix=AGAIN,
        )
    entries = strict_json(raw, f"{where}: header", AGAIN)
    if not isinstance(entries, dict):
        raise _corrupt(f"{where}: header", f"is a {type(entries).__name__}; wanted a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _corrupt(f"{where}: __metadata__", "wanted an object of strings")
    tensors = [_tensor(name, entry, path, data) for name, entry in entries.items()]
    tensors.sort(key=lambda info: (info.offset, info.nbytes))
    end, last = data, ""
    for info in tensors:
        if info.offset != end:
            before = show(last) if last else "the header"
            fault = "overlaps" if info.offset < end else f"leaves a gap of {info.offset - end:,} bytes after"
            raise _corrupt(
                f"{where}: {show(info.name)}",
                f"{fault} {before}: its data begins at {info.offset - data:,}, wanted {end - data:,}",
            )
        end, last = info.offset + info.nbytes, info.name
    if size < end:
        raise _truncated(where, size, f"{end:,}")
    if size > end:
        raise BadInput(
            where,
            what=f"{size - end:,} trailing bytes: the tensors end at {end:,}, the file at {size:,}",
            why="bytes that no tensor claims are a damaged file or a second file hidden in it",
            fix=AGAIN,
        )
    return {info.name: info for info in tensors}, metadata


def _raw_header(fd: int, size: int, where: str) -> tuple[bytes, int]:
    """The JSON bytes, and where the data begins."""
    start = read_exactly(fd, min(size, 16), 0, where)
    length = int.from_bytes(start[:8], "little")
    plausible = size >= 10 and length <= MAX_HEADER and start[8:9] == b"{"
    if not plausible:
        for magic, (kind, fix) in FOREIGN.items():
            if start.startswith(magic):
                raise BadInput(where, what=f"is {kind}", why="grow reads safetensors only", fix=fix)
    if size < 10:
        what = f"{size} bytes are too short" if size else "is empty (0 bytes)"
        why = "a safetensors file begins with an 8-byte length and a JSON header"
        raise BadInput(where, what=what, why=why, fix=AGAIN)
    if length > MAX_HEADER:
        raise _corrupt(where, f"claims a header of {length:,} bytes; at most {MAX_HEADER:,} are allowed")
    if 8 + length > size:
        raise _truncated(where, size, f"at least {8 + length:,}")
    if not plausible:
        raise _corrupt(where, f"its header begins with {start[8:9]!r}; wanted b'{{'")
    return read_exactly(fd, length, 8, where), 8 + length


def _tensor(name: str, entry: Any, path: Path, data: int) -> TensorInfo:
    """The entry of one tensor, checked by itself. Of 10^5 of them, only one at fault is named."""
    if not name or SURROGATE(name):
        raise _entry_fault(path, name, "the name of a tensor is empty or not Unicode")
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        fields = listing(map(show, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise _entry_fault(path, name, f"wanted dtype, shape, data_offsets; found {fields or 'nothing'}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in FILE_DTYPES:
        where = f"{show(path)}: {show(name)}"
        hint = did_you_mean(str(dtype)[:40], FILE_DTYPES)
        reason = told((), [str(dtype)], show(path.parent))
        raise BadInput(
            where,
            what=f"dtype {show(dtype, 40)!r} is not supported; {hint}".rstrip("; "),
            why=f"supported: {', '.join(FILE_DTYPES)}",
            fix=reason.fix if reason else "save the checkpoint in one of these, unquantised",
        )
    if not isinstance(shape, list) or not all(map(_count, shape)) or len(shape) > MAX_AXES:
        what = f"shape {show(shape, 80)}; wanted up to {MAX_AXES} integers from 0 to 2^63 - 1"
        raise _entry_fault(path, name, what)
    nbytes = FILE_DTYPES[dtype][0] * math.prod(n or 1 for n in shape)
    if nbytes > MAX_BYTES:
        raise _entry_fault(path, name, f"shape {show(shape, 80)} overflows: more than 2^63 - 1 bytes")
    nbytes = 0 if 0 in shape else nbytes
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_count, offsets)):
        raise _entry_fault(path, name, f"data_offsets {show(offsets, 80)}; wanted [begin, end]")
    begin, end = offsets
    if end - begin != nbytes:
        spans = f"data_offsets span {end - begin:,} bytes"
        raise _entry_fault(path, name, f"{spans}; {dtype} {show(shape, 80)} takes {nbytes:,}")
    return TensorInfo(name, dtype, tuple(shape), path, data + begin, nbytes)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_BYTES


def _entry_fault(path: Path, name: str, what: str) -> BadInput:
    return _corrupt(f"{show(path)}: {show(name)}", what)


def _corrupt(where: str, what: str) -> BadInput:
    why = "the header is corrupt, or safetensors did not write it"
    return BadInput(where, what=what, why=why, fix=AGAIN)


def _truncated(where: str, size: int, wanted: str) -> BadInput:
    why = "its header promises more bytes than there are"
    return BadInput(where, what=f"truncated: {size:,} of {wanted} bytes", why=why, fix=AGAIN)
