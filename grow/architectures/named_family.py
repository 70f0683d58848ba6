"""A family that somebody names for one call: a `Family`, or a file of Python that holds one. No other file is ever run.

with named_family("mine.py"):
    architecture_of(config)      # of the type that the file is about, too
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.family import Family
from grow.errors import BadInput, listing
from grow.files.header import show
from grow.spelling import command, option

LARGEST = 1_000_000  # bytes of a file that holds a family


@dataclass(frozen=True)
class Named:
    """A family and the file that says it; `file` and `sha256` are "" for a `Family` in memory."""

    family: Family
    file: str = ""
    sha256: str = ""


_named: ContextVar[Named | None] = ContextVar("named family", default=None)


def the_named(model_type: str) -> Named | None:
    """The family of this type that is named for the call that runs; None where it is one of grow's own."""
    named = _named.get()
    return named if named is not None and named.family.model_type == model_type else None


@contextmanager
def named_family(given: Family | str | os.PathLike[str] | None) -> Iterator[Named | None]:
    """While it is open, grow knows this family too, in place of its own of that type. BadInput for what is none."""
    if given is None:
        yield None
        return
    named = Named(given) if isinstance(given, Family) else _read(given)
    kind = named.family.model_type
    before, token = FAMILIES.get(kind), _named.set(named)
    FAMILIES[kind] = named.family
    try:
        yield named
    finally:
        _named.reset(token)
        if before is None:
            del FAMILIES[kind]
        else:
            FAMILIES[kind] = before


def _read(given: Any) -> Named:
    """The one family that a file of Python holds, which is run for that."""
    if not isinstance(given, (str, os.PathLike)):
        raise BadInput(
            option(family=given),
            what=f"must be a Family or the path of a file, got {type(given).__name__}",
            why="it says what each tensor of a model type reads and writes",
            fix=_fix(),
        )
    path = Path(given)
    where = option(family=show(path, 200))
    try:
        with path.open("rb") as file:
            source = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(
            where,
            what=f"cannot be read: {error.strerror or error}",
            why="it is a file of Python that holds a Family",
            fix=_fix(),
        ) from None
    if len(source) > LARGEST:
        raise BadInput(where, what=f"has more than {LARGEST:,} bytes", why="a family is one table", fix=_fix())
    space: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), space)
    except (Exception, SystemExit) as error:
        raise BadInput(
            where,
            what=f"is not valid: {type(error).__name__}{_line(error, str(path))}: {error}",
            why="the file is run as Python, and its family must be one that a table can say",
            fix=f"correct it, or derive it anew: {command('derive')}",
        ) from error
    found = {name: value for name, value in space.items() if isinstance(value, Family)}
    if len({id(family) for family in found.values()}) != 1:
        held = f"{len(found)} families: {listing(found)}" if found else "no Family"
        raise BadInput(where, what=f"holds {held}; wanted one", why="it stands for one model type", fix=_fix())
    return Named(next(iter(found.values())), path.name, hashlib.sha256(source).hexdigest())


def _fix() -> str:
    return f"a file as {command('derive')} writes it"


def _line(error: BaseException, file: str) -> str:
    """`, line 3` where the error is of a line of the file."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
