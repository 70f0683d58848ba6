"""Where text comes from: text files, JSON lines, parquet, datasets of the hub.

Every reader yields documents one at a time. Only a text file that is one document is held in memory whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from grow.errors import BadInput
from grow.files.header import show
from grow.files.regular import MAX_TEXT, is_there, opened
from grow.spelling import command, left_out, option
from grow.zoo import TEXTS, bundled_text

OPENERS: dict[str, Callable[[Any], Any]] = {"": lambda raw: raw, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
TEXT, LINES, PARQUET = (".txt", ".md", ".text"), (".jsonl", ".ndjson"), (".parquet",)
PART = 1 << 20


def documents(source: str, *, field: str = "text", separator: str = "", split: str = "train") -> Iterator[str]:
    """The documents of a file, a folder of such files, a dataset of the hub, or a bundled text.

    field      the field that holds the text, in JSON lines, parquet and datasets
    separator  the text between two documents of a text file; "": a file is one document
    split      the split of a dataset
    """
    if not source:
        fix = command("data prepare", sources="TEXT")
        raise BadInput(option(sources=source), what="is an empty name", why="tokens come from text", fix=fix)
    if source in TEXTS:
        yield from bundled_text(source).split("\n\n")
        return
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if not p.is_dir() and _kind(p)[0] in (*TEXT, *LINES, *PARQUET))
        if not files:
            raise BadInput(
                source,
                what="holds no text",
                why=f"text files end in {', '.join((*TEXT, *LINES, *PARQUET))}",
                fix="another folder",
            )
        for file in files:
            yield from _file(file, field, separator)
    elif is_there(path):
        yield from _file(path, field, separator)
    else:
        yield from _dataset(source, field, split)


def check_used(sources: Sequence[str | os.PathLike[str]], *, field: str, separator: str, split: str) -> None:
    """BadInput for an option without effect, because no input is of its kind."""
    kinds = {kind for source in sources for kind in _kinds(os.fspath(source))}
    for name, value, default, readers in (
        ("field", field, "text", {"records", "dataset"}),
        ("separator", separator, "", {"text"}),
        ("split", split, "train", {"dataset"}),
    ):
        if value != default and not readers & kinds:
            words = {"records": "JSON lines and parquet", "dataset": "datasets of the hub", "text": "text files"}
            raise BadInput(
                option(**{name: show(value, 80)}),
                what="has no effect on these inputs",
                why=f"it is an option for {', '.join(words[kind] for kind in sorted(readers, reverse=True))}",
                fix=f"{left_out(name)}, or check the names of the inputs",
            )


def _kinds(source: str) -> set[str]:
    """Which readers an input needs: "text", "records", "dataset"; a bundled text needs none that has options."""
    if source in TEXTS:
        return set()
    path = Path(source)
    if not is_there(path):
        return {"dataset"}
    files = path.rglob("*") if path.is_dir() else [path]
    endings = {_kind(file)[0] for file in files}
    records = {"records"} if endings & {*LINES, *PARQUET} else set()
    return records | ({"text"} if endings - {*LINES, *PARQUET} else set())


def _kind(path: Path) -> tuple[str, str]:
    """(ending, compression) of a file name: speeches.txt.xz -> (".txt", ".xz")."""
    packed = path.suffix if path.suffix in OPENERS and path.suffix else ""
    return Path(path.name.removesuffix(packed)).suffix.lower(), packed


def _file(path: Path, field: str, separator: str) -> Iterator[str]:
    ending, packed = _kind(path)
    if ending in PARQUET:
        yield from _parquet(path, field)
        return
    try:
        with opened(path) as raw, io.TextIOWrapper(OPENERS[packed](raw), encoding="utf-8-sig") as file:
            if ending in LINES:
                yield from _lines(file, path, field)
            elif separator:
                yield from _separated(file, path, separator)
            else:
                yield _short(file.read(MAX_TEXT + 1), path)
    except UnicodeDecodeError as error:
        raise BadInput(
            str(path), what="is not UTF-8 text", why=str(error), fix="convert it: iconv -t utf-8, or leave it out"
        ) from None
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system raised it, not the format
            raise
        raise BadInput(
            str(path), what="cannot be unpacked", why=str(error) or "it is cut off", fix="download it again"
        ) from None


def _short(text: str, path: Path) -> str:
    """The text; BadInput where it is too long for one document."""
    if len(text) > MAX_TEXT:
        raise BadInput(
            str(path),
            what=f"has a document of more than {MAX_TEXT:,} characters",
            why="a tokenizer reads it whole, and takes some forty times as much memory",
            fix=f"{option('separator')} with the text between documents, or shorter lines",
        )
    return text


def _separated(file: IO[str], path: Path, separator: str) -> Iterator[str]:
    rest: list[str] = []  # parts without a separator, joined only once: the cost is linear in the length
    length = 0
    while part := file.read(PART):
        tail = rest[-1][-len(separator) :] if rest else ""
        if separator in tail + part:
            *whole, last = "".join([*rest, part]).split(separator)
            yield from whole
            rest, length = [last], len(last)
        else:
            rest.append(part)
            length += len(part)
        if length > MAX_TEXT:
            _short("".join(rest), path)
    yield "".join(rest)


def _lines(file: IO[str], path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_TEXT + 1), ""), 1):
        if not _short(line, path).strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise BadInput(f"{path}:{number}", what="is not JSON", why=why, fix="one JSON object per line") from None
        yield _text(record, field, f"{path}:{number}")


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise _needs(str(path), "pyarrow") from None
    try:
        with opened(path) as raw, parquet.ParquetFile(raw) as file:
            if field not in file.schema_arrow.names:
                raise _no_field(str(path), field, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[field], batch_size=1024):
                for row, value in enumerate(batch.column(0).to_pylist()):
                    yield _text({field: value}, field, f"{path}: row {row}")
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise BadInput(str(path), what="is not a parquet file", why=show(error, 200), fix="download it again") from None


def _dataset(name: str, field: str, split: str) -> Iterator[str]:
    """The documents of the dataset NAME or NAME:CONFIG of the hub, streamed."""
    base, _, config = name.partition(":")
    a_file = _kind(Path(name))[0] in (*TEXT, *LINES, *PARQUET)
    if a_file or not base or base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise BadInput(
            name, what="does not exist", why="no file, folder or dataset has this name", fix="check the path"
        )
    try:
        import datasets
    except ImportError:
        raise _needs(name, "datasets") from None
    try:
        rows = datasets.load_dataset(base, config or None, split=split, streaming=True)
    except Exception as error:  # the library passes on whatever its backends raise
        raise BadInput(
            name,
            what="is not a file, and the hub gives no dataset of this name",
            why=show(f"{type(error).__name__}: {error}".splitlines()[0], 200),
            fix=f"a path, or NAME:CONFIG of a dataset; {option('split')} for another split",
        ) from None
    number = 0
    try:
        for number, row in enumerate(rows):
            yield _text(row, field, f"{name}: row {number}")
    except BadInput:
        raise
    except Exception as error:  # likewise, and the network may fail at any time
        why = show(f"{type(error).__name__}: {error}".splitlines()[0], 200)
        raise BadInput(name, what=f"breaks off after row {number}", why=why, fix="try it again") from None


def _text(record: Any, field: str, where: str) -> str:
    if not isinstance(record, dict) or field not in record:
        raise _no_field(where, field, record if isinstance(record, dict) else ())
    if not isinstance(record[field], str):
        what = f"{field} is {show(record[field], 40)}"
        raise BadInput(where, what=what, why="a document must be a text", fix=option(field="NAME"))
    try:
        record[field].encode()
    except UnicodeEncodeError:
        why = f"{field} has half a surrogate pair, for which UTF-8 has no bytes"
        raise BadInput(
            where, what="is not text", why=why, fix="write such characters whole, or remove the line"
        ) from None
    return record[field]


def _no_field(where: str, field: str, known: Any) -> BadInput:
    names = ", ".join(map(str, list(known)[:12])) or "none"
    return BadInput(where, what=f"has no field {field!r}", why=f"fields: {names}", fix=option(field="NAME"))


def _needs(where: str, package: str) -> BadInput:
    return BadInput(
        where,
        what=f"needs {package}, which is not installed",
        why="it reads this kind of file",
        fix="pip install 'grow-transformers[tasks]'",
    )
