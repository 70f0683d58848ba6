"""What the command line prints, whatever it shows: lines, tables, JSON, errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from grow.errors import OBEYED, GrowError, one_line, plain
from grow.processes import several


def say(text: str = "", *, err: bool = False) -> None:
    """One line for people. Names in it may come from files: nothing in them moves the cursor or begins a line."""
    click.echo(one_line(text), err=err)


def tell_of_a_family(file: object) -> None:
    """A file of Python is run only where it is named, and that is said."""
    if file is not None and os.path.isfile(str(file)) and first_process():
        say(f"note: {file} is run as Python, for the family that it holds", err=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> None:
    """Left-aligned columns under their heads."""
    lines = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    for row in [list(head), *lines]:
        say((indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths))).rstrip())


def print_json(document: Any) -> None:
    """One strict JSON document on stdout; escaped where the terminal's encoding is not UTF-8."""
    ascii_alone = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=ascii_alone)
    text = OBEYED.sub(lambda hit: f"\\u{ord(hit[0]):04x}", text)  # inside texts alone: JSON has none of its own
    # a lone surrogate stands for a byte of a file name that is not UTF-8
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def emit_error(error: GrowError) -> None:
    """The message on stderr; with --json also a document on stdout."""
    with unheard("stderr"):
        click.echo(plain(f"error: {error}"), err=True)
    if "--json" in sys.argv[1:]:
        parts = {"where": error.where, "what": error.what, "why": error.why, "fix": error.fix}
        with unheard("stdout"):
            print_json({"schema": 1, "error": parts, "exit_code": error.exit_code})


def emit_usage(error: click.ClickException) -> None:
    """click's own message, with --json as a document too."""
    if not first_process():
        return
    shown = io.StringIO()
    error.show(file=shown)
    with unheard("stderr"):
        click.echo(plain(shown.getvalue()), nl=False, err=True)
    if "--json" in sys.argv[1:]:
        command = getattr(getattr(error, "ctx", None), "command_path", "grow")
        parts = {"where": command, "what": error.format_message(), "why": "usage", "fix": f"{command} --help"}
        with unheard("stdout"):
            print_json({"schema": 1, "error": parts, "exit_code": 2})


@contextlib.contextmanager
def unheard(name: str) -> Iterator[None]:
    """What is said here of an error may find a full disk or a closed pipe: the exit code then says it alone."""
    try:
        yield
    except OSError:
        dropped(name)


def dropped(name: str) -> None:
    """Nothing goes to this stream any more, what waits in it neither."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """What is printed here may meet a closed stdout (`| head`): the rest is dropped and the exit code stays."""
    try:
        yield
    except BrokenPipeError:
        dropped("stdout")


def first_process() -> bool:
    """Whether this is the process that speaks; where there is one, a RANK that was left over counts for nothing."""
    return not several() or os.environ.get("RANK", "0") == "0"
