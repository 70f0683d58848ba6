"""The command line: thin layers over the functions of the same names."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import time
from typing import Any, NoReturn

import click

from grow.cli.commands import cli
from grow.cli.show import dropped, emit_error, emit_usage, first_process, unheard
from grow.errors import GrowError, plain
from grow.files import finished
from grow.processes import several

INTERRUPTED = 130
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
WAIT = 5.0  # seconds for which a process that says nothing lets another one speak


def main() -> NoReturn:
    """Entry point. Exit codes: 0 verified, 1 different, 2 bad input or refused, 70 a fault of grow, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    finished.forget()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (>&-)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without × or a file name that is no UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(prog_name="grow", standalone_mode=False) or 0
    except GrowError as error:
        code = _ended(error, error, error.exit_code)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        emit_usage(error)
        code = _ended(None, error, 2)
    except (KeyboardInterrupt, click.Abort):
        if first_process():
            with unheard("stderr"):
                click.echo(f"interrupted: {plain(finished.sentence())}", err=True)
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the reader of stdout has left before the work was done
        code = 0
    except OSError as error:
        code = _ended(_os_error(error), error, 2)
    except Exception as error:  # a fault of grow itself must not look like the verdict "different" (1)
        if os.environ.get("GROW_DEBUG"):
            raise
        code = _ended(_no_memory(error), error, 2) if _is_memory(error) else _ended(_internal(error), error, INTERNAL)
    _quit(int(code) if isinstance(code, int) else 0)


def _ended(told: GrowError | None, error: Exception, code: int) -> int:
    """Say what was wrong. Of several processes one speaks, and torchrun ends all with the first that ends: it waits for
    nobody, the others for it."""
    speaks = first_process() or getattr(error, "alone", False)
    if several() and speaks:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if told is not None and speaks:
        emit_error(told)
    if not speaks:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(WAIT)
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _internal(error: Exception) -> GrowError:
    return GrowError(
        "grow itself",
        what=f"{type(error).__name__}: {error}",
        why=f"this is a fault of grow, not of the input; {finished.sentence()}",
        fix="report it, with what GROW_DEBUG=1 shows",
    )


def _is_memory(error: Exception) -> bool:
    """Python's own error, or what torch raises in its place on a CPU and on CUDA."""
    said = str(error)
    return isinstance(error, MemoryError) or "CUDA out of memory" in said or "can't allocate memory" in said


def _no_memory(error: Exception) -> GrowError:
    return GrowError(
        "memory",
        what=(str(error).strip().splitlines() or ["is used up"])[0][:200],
        why=f"this machine has not as much; {finished.sentence()}",
        fix="smaller sizes; of training: fewer --batch, more --accumulate, --checkpointing",
    )


def _os_error(error: OSError) -> GrowError:
    return GrowError(
        str(error.filename or "stdout, or a file that is written"),
        what=error.strerror or str(error),
        why=f"the system refused; {finished.sentence()}",
        fix="make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path and its permissions",
    )


def _quit(code: int) -> NoReturn:
    """Exit without a traceback when stdout was closed by `| head`, or takes no more."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except BrokenPipeError:
            dropped(name)
        except OSError:  # a full disk: what was to be read is lost
            dropped(name)
            code = code or 2
    sys.exit(code)
