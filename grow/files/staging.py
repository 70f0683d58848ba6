"""Staging: a result appears under its final name when it is complete, or not at all.

    .NAME.grow-partial/    beside the target: what is being written, renamed at the end
    .NAME.grow-replaced/   for the moment of that rename: NAME as it was, if it is replaced

Both hold an empty file MARK, by which grow knows its own: another folder of such a name is in the way and never
removed. The first is locked while somebody works in it; one that nobody holds was left by a killed run and is removed,
with a note.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from grow.errors import BadInput, listing
from grow.files import finished
from grow.files.owned import CHECKPOINT, MARK, Kind, check_replaced, remove
from grow.spelling import option


class Staging:
    """`with Staging(out, …) as stage: write into stage.path; stage.commit()`; without commit nothing remains.

    kind  what `out` must be to be replaced, see `grow.files.owned`
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        source: Path | None = None,
        overwrite: bool = False,
        needed: int = 0,
        kind: Kind = CHECKPOINT,
    ) -> None:
        self.out = Path(os.path.abspath(out))
        self.notes: list[str] = []
        self.overwrite, self.kind = overwrite, kind
        self._asked = source, overwrite, needed, kind
        self._fd: int | None = None
        check_output(self.out, *self._asked)
        self.path = self.out.with_name(f".{self.out.name[:200]}.grow-partial")
        self.aside = self.out.with_name(f".{self.out.name[:200]}.grow-replaced")

    def __enter__(self) -> Staging:
        self._check_own(self.path, "the result is prepared there")
        self._check_own(self.aside, "what is replaced is put there for a moment")
        if self.path.exists():
            self._lock()
            self.notes.append(f"removed {self.path.name}, left by an interrupted run")
            shutil.rmtree(self.path)
            self._unlock()
        try:
            _make(self.path)
        except OSError as error:
            raise BadInput(str(self.out.parent), what="cannot be written", why=str(error), fix=_another()) from None
        try:
            self._lock()
            self._settle()
        except BaseException:
            self._abandon()
            raise
        return self

    def commit(self, files: Mapping[str, int | None] | None = None) -> None:
        """Give the finished folder its final name; an overwritten one is removed after that.

        files  relative path -> bytes of what must be there; None: any size
        """
        self._check_whole(files or {})
        _fsync(self.path)
        replaced = False
        try:
            if self.out.exists():
                source, overwrite, _, kind = self._asked
                check_output(self.out, source, overwrite, 0, kind)  # it may have changed meanwhile
                if any(self.out.iterdir()):
                    _make(self.aside)
                    replaced = True
                    self.out.rename(self.aside / self.out.name)
                else:
                    self.out.rmdir()
            self.path.rename(self.out)
        except BaseException:
            if not self.path.exists():
                finished.keep(self.out)
            elif replaced:
                self._bring_back()
            raise
        finished.keep(self.out)
        with contextlib.suppress(OSError):  # behind the rename: who is killed before it has a folder that is grow's own
            (self.out / MARK).unlink()
        _fsync(self.out.parent)
        if replaced:
            self._clear()

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        self._abandon()
        refuse_full(self.out, value)

    def _abandon(self) -> None:
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _check_own(self, path: Path, why: str) -> None:
        """BadInput where a name beside the output is taken by something that grow did not make."""
        if not os.path.lexists(path):
            return
        mine = not path.is_symlink() and path.is_dir() and ((path / MARK).is_file() or not any(path.iterdir()))
        if not mine:
            raise BadInput(
                str(path),
                what="is in the way",
                why=f"{why}, and it is not one that grow has made",
                fix=f"move it elsewhere, or {_another()}",
            )

    def _check_whole(self, files: Mapping[str, int | None]) -> None:
        sizes = {name: _size(self.path / name) for name in files}
        lost = [name for name, size in sizes.items() if size is None]
        other = [name for name, size in files.items() if size is not None and sizes[name] not in (None, size)]
        if lost or other:
            raise BadInput(
                option(out=self.out),
                what=f"{listing(lost + other)} {'went away' if lost else 'changed'} while the result was made",
                why=f"another program works in {self.path.name}; nothing was kept",
                fix="end it, and the same command again",
            )

    def _settle(self) -> None:
        """A rename that a killed run left half done is undone or finished."""
        if not self.aside.exists():
            return
        if (self.aside / self.out.name).exists() and not os.path.lexists(self.out):
            self._bring_back()
            self.notes.append(f"brought back {self.out.name}, which an interrupted run had put aside")
            check_output(self.out, *self._asked)
        else:
            self._clear()

    def _bring_back(self) -> None:
        with contextlib.suppress(OSError):
            (self.aside / self.out.name).rename(self.out)
        self._clear()

    def _clear(self) -> None:
        """Remove what was replaced; what came into it at the last moment, or cannot be removed, stays with a note."""
        old = self.aside / self.out.name
        if not old.exists() or remove(old, self.kind):
            shutil.rmtree(self.aside, ignore_errors=True)
        if self.aside.exists():
            self.notes.append(f"what {self.out.name} was before could not be removed: it is in {self.aside}")

    def _lock(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._unlock()
            raise BadInput(
                str(self.out),
                what="another run is writing it",
                why=f"{self.path.name} is locked",
                fix=f"wait for it, or choose {_another()}",
            ) from None

    def _unlock(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def refuse_full(out: Path, error: BaseException | None) -> None:
    """BadInput where the error is a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise BadInput(
            option(out=out),
            what=f"{error.strerror or 'the disk is full'}; nothing was kept",
            why="the disk filled while the result was written",
            fix=f"make room, or {_another()}",
        ) from error


def check_output(out: Path, source: Path | None, overwrite: bool, needed: int, kind: Kind = CHECKPOINT) -> None:
    """Everything about the output that can be refused before the first byte is read.

    kind  what a folder must be to be replaced
    """
    where = option(out=out)
    replaces = f"{option(overwrite=True)} replaces the whole folder"
    parent = out.parent
    if not out.name or len(os.fsencode(out.name)) > 200:
        raise BadInput(
            where[:120],
            what="is not a usable folder name",
            why="a name has 1 to 200 bytes",
            fix=f"a shorter {option('out')}",
        )
    if not parent.is_dir():
        what = "is not a folder" if parent.exists() else "does not exist"
        raise BadInput(
            where,
            what=f"its parent {parent} {what}",
            why="the result is created inside it",
            fix=f"mkdir -p {parent}",
        )
    if out.is_symlink() and not out.exists():  # to itself, too
        raise BadInput(
            where,
            what="is a dangling link",
            why="the result replaces nothing it cannot see",
            fix=_another(),
        )
    if source is not None:
        check_apart(out, source)
    if out.exists():
        if not out.is_dir():
            raise BadInput(where, what="is a file", why="a checkpoint is a folder", fix=_another())
        if any(out.iterdir()):
            if not overwrite:
                raise BadInput(
                    where,
                    what="exists and is not empty",
                    why="nothing is overwritten unasked",
                    fix=f"{option(overwrite=True)}, or {_another()}",
                )
            check_replaced(out, kind, where, replaces)
            if not os.access(out, os.W_OK | os.X_OK):
                raise BadInput(where, what="is read-only", why=replaces, fix=f"chmod u+w, or {_another()}")
        if out.is_symlink():
            raise BadInput(
                where,
                what="is a link",
                why="the rename at the end would replace the link",
                fix=option(out=os.path.realpath(out)),
            )
    if not os.access(parent, os.W_OK):
        raise BadInput(where, what=f"{parent} is read-only", why="the result is created inside it", fix=_another())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise BadInput(
            where,
            what=f"needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            why="a result is written whole or not at all",
            fix=f"{_another()}, or make room",
        )


def check_apart(out: Path, source: str | os.PathLike[str] | None) -> None:
    """BadInput where writing `out` would touch `source`; one that is not here cannot be touched."""
    if source is None or not os.path.exists(source):
        return
    real, origin = (Path(os.path.realpath(path)) for path in (out, source))  # a link to itself is not one of its own
    if real == origin or origin in real.parents or real in origin.parents:
        raise BadInput(
            option(out=out),
            what="is the source, inside it or around it",
            details=[] if out == source else [("source", str(source))],
            why="source files are never touched",
            fix=_another(),
        )


def _another() -> str:
    return f"another {option('out')}"


def _make(path: Path) -> None:
    """The folder is there and is known to be grow's own; one that exists already is used."""
    own = not path.exists()
    path.mkdir(exist_ok=True)
    try:
        (path / MARK).touch()
    except OSError:
        if own:
            path.rmdir()
        raise


def _size(path: Path) -> int | None:
    """The size of a regular file in bytes, None where there is no such file."""
    return path.stat().st_size if path.is_file() and not path.is_symlink() else None


def _fsync(path: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
