"""The folder of a run: new or its own, and locked while a process works in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from grow.data.corpus import FILES
from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.owned import MARK, Kind, foreign, remove
from grow.files.regular import read_json
from grow.files.staging import check_apart, check_output
from grow.spelling import left_out, option
from grow.training.log.metrics import METRICS
from grow.zoo import TEXTS

RUN, LOCK = "run.json", ".lock"
BUNDLED = "sotu-heldout"  # the text of a run that names none
FOLDERS = {name: "data" if name == BUNDLED else f"data-{name}" for name in TEXTS}
"""Bundled text -> the folder of its tokens in a run's folder."""
BEGINNING = (
    f".{RUN}.partial",
    *(f"{folder}/{name}" for folder in FOLDERS.values() for name in FILES),
    *(f".{folder}.grow-partial/{name}" for folder in FOLDERS.values() for name in (MARK, *FILES)),
)
STARTED = (RUN, *BEGINNING, "tensorboard/", "wandb/", f".{METRICS}.partial", ".step-*.partial/")
"""What a run's folder holds before its first step; a name that ends in a slash is a whole folder."""


def opened(run: Path, resume: bool, sources: Iterable[Any], stack: ExitStack) -> bool:
    """Hold the run's folder as long as the stack is open; whether there is a run in it to go on with. BadInput.

    sources  what the run reads, none of which may be touched
    """
    for source in () if resume else sources:
        check_apart(run, source)
    check_run(run, resume)
    run.mkdir(exist_ok=True)
    stack.enter_context(locked(run))
    going_on = check_run(run, resume)  # another process may have begun one before the lock was held
    if going_on:
        keep(run, f"holds what was saved so far; {option(resume=True)} goes on with it")
    else:
        stack.enter_context(removed_unless_begun(run))
    return going_on


def check_run(run: Path, resume: bool) -> bool:
    """Whether there is a run to go on with; BadInput where no run can begin in the folder, or none can go on."""
    left = _left_over(run)
    if resume and not left:
        if (run / RUN).is_file():
            return True
        what = "is not a run to resume" if run.exists() else "does not exist"
        fix = f"the folder of the run; for a new run, {left_out('resume')}"
        raise BadInput(option(out=run), what=what, why=f"a run has a {RUN}", fix=fix)
    if not left and run.is_dir() and any(run.iterdir()):
        fix = f"{option(resume=True)} continues it" if (run / RUN).is_file() else f"another {option('out')}"
        raise BadInput(option(out=run), what="exists and is not empty", why="a run never writes over another", fix=fix)
    check_output(run, None, left, 0, UNBEGUN)
    return False


def _left_over(run: Path) -> bool:
    """Whether the folder holds only what a run left that ended before it began: a lock, and bundled texts."""
    return run.is_dir() and not run.is_symlink() and not _fault(run) and not foreign(run, UNBEGUN)


def _fault(run: Path) -> str:
    if not (run / LOCK).is_file():
        return f"no {LOCK}"
    texts = [(name, run / folder) for name, folder in FOLDERS.items() if (run / folder).exists()]
    return next((f"{folder.name} is not of {name}" for name, folder in texts if not _is_bundled(folder, name)), "")


UNBEGUN = Kind("an unbegun run", (LOCK, *BEGINNING), _fault)


def _is_bundled(folder: Path, name: str) -> bool:
    """Whether the token files were made of that text, so that making them again gives the same."""
    file = folder / "manifest.json"
    try:
        return [s["name"] for s in read_json(file)["sources"]] == [name]
    except (OSError, BadInput, KeyError, TypeError):
        return False


@contextmanager
def removed_unless_begun(run: Path) -> Iterator[None]:
    """Remove what is in a new run's folder when it fails before its first step."""
    remove(run, replace(UNBEGUN, files=BEGINNING))  # the lock is held
    try:
        yield
    except BaseException:
        if not (run / METRICS).exists():
            _remove_started(run)
        raise
    finally:
        keep(run, f"holds what was saved so far; {option(resume=True)} goes on with it")


def _remove_started(run: Path) -> None:
    """Remove what grow made before the first step; a file that another program put there stays."""
    for path in list(run.iterdir()):
        if path.is_dir() and any(fnmatch(f"{path.name}/", name) for name in STARTED):
            shutil.rmtree(path, ignore_errors=True)
    remove(run, replace(UNBEGUN, files=(LOCK, *STARTED)))


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Only one run at a time writes a folder. BadInput where another one holds it."""
    fd = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fix = f"wait for it, or choose another {option('out')}"
            raise BadInput(
                option(out=run), what="another run is writing it", why=f"{LOCK} is locked", fix=fix
            ) from None
        yield
    finally:
        os.close(fd)
