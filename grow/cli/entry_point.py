"""The entry point: one command is run, and whatever ends it becomes a message and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from typing import Any, NoReturn

import click

from grow.cli.commands import cli
from grow.cli.exit_codes import (
    BAD_INPUT,
    INTERNAL,
    INTERRUPTED,
    internal_fault,
    is_memory,
    out_of_memory,
    system_refused,
)
from grow.cli.terminal import dropped, emit_error, emit_usage, first_process, unheard
from grow.errors import GrowError, plain
from grow.files import finished
from grow.processes import several

WAIT = 5.0  # seconds for which a process that says nothing lets another one speak


def main() -> NoReturn:
    """The command line; its exit codes are those of `grow.cli.exit_codes`."""
    signal.signal(signal.SIGTERM, _interrupt)
    finished.forget()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (>&-)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without × or a file name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(prog_name="grow", standalone_mode=False) or 0
    except GrowError as error:
        code = _ended(error, error, error.exit_code)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        emit_usage(error)
        code = _ended(None, error, BAD_INPUT)
    except (KeyboardInterrupt, click.Abort):
        if first_process():
            with unheard("stderr"):
                click.echo(f"interrupted: {plain(finished.sentence())}", err=True)
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the reader of stdout has left before the work was done
        code = 0
    except OSError as error:
        code = _ended(system_refused(error), error, BAD_INPUT)
    except Exception as error:  # a fault of grow itself must not look like the verdict "different" (1)
        if os.environ.get("GROW_DEBUG"):
            raise
        if is_memory(error):
            code = _ended(out_of_memory(error), error, BAD_INPUT)
        else:
            code = _ended(internal_fault(error), error, INTERNAL)
    _quit(int(code) if isinstance(code, int) else 0)


def _ended(message: GrowError | None, error: Exception, code: int) -> int:
    """Say what was wrong. Of several processes one speaks, and torchrun ends all with the first that ends: it waits for
    nobody, the others for it."""
    speaks = first_process() or getattr(error, "alone", False)
    if several() and speaks:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if message is not None and speaks:
        emit_error(message)
    if not speaks:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(WAIT)
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _quit(code: int) -> NoReturn:
    """Exit without a traceback when stdout was closed by `| head`, or takes no more."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BrokenPipeError:
            dropped(name)
        except OSError:  # a full disk: what was to be read is lost
            dropped(name)
            code = code or BAD_INPUT
    sys.exit(code)
