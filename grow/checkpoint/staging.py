"""The result appears under its final name complete and verified, or not at all.

Everything is written to `.NAME.grow-partial` beside the target and renamed at the end. The folder is locked while
somebody works in it; one that nobody holds was left by a killed run and is removed, with a note.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path

from grow.errors import BadInput


class Staging:
    """`with Staging(out, …) as stage: write into stage.path; stage.commit()`; without commit nothing remains."""

    def __init__(
        self,
        out: str | os.PathLike,
        *,
        source: Path | None = None,
        overwrite: bool = False,
        needed: int = 0,
        kind: str = "config.json",
    ) -> None:
        self.out = Path(os.path.abspath(out))
        self.notes: list[str] = []
        self.overwrite = overwrite
        self._fd: int | None = None
        check_output(self.out, source, overwrite, needed, kind)
        self.path = self.out.with_name(f".{self.out.name[:200]}.grow-partial")

    def __enter__(self) -> Staging:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise BadInput(str(self.path), what="is in the way", why="the result is prepared there", fix="remove it")
        if self.path.exists():
            self._lock()
            self.notes.append(f"removed {self.path.name}, left by an interrupted run")
            shutil.rmtree(self.path)
            self._unlock()
        try:
            self.path.mkdir()
        except OSError as error:
            raise BadInput(
                str(self.out.parent), what="cannot be written", why=str(error), fix="another --out"
            ) from None
        self._lock()
        return self

    def commit(self) -> None:
        """Give the finished folder its final name; an overwritten one is removed after that."""
        _fsync(self.path)
        aside = self.out.with_name(f".{self.out.name[:200]}.grow-replaced")
        if self.out.exists():
            if self.overwrite and any(self.out.iterdir()):
                if aside.exists():
                    shutil.rmtree(aside)
                self.out.rename(aside)
            else:
                self.out.rmdir()
        try:
            self.path.rename(self.out)
        except OSError:
            if aside.exists() and not self.out.exists():
                aside.rename(self.out)
            raise
        _fsync(self.out.parent)
        if aside.exists():
            shutil.rmtree(aside)

    def __exit__(self, kind, value, trace) -> None:
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()
        refuse_full(self.out, value)

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
                fix="wait for it, or choose another --out",
            ) from None

    def _unlock(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def refuse_full(out: Path, error: BaseException | None) -> None:
    """BadInput where the error is a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise BadInput(
            f"--out {out}",
            what=f"{error.strerror or 'the disk is full'}; nothing was kept",
            why="the disk filled while the result was written",
            fix="make room, or another --out",
        ) from error


def check_output(out: Path, source: Path | None, overwrite: bool, needed: int, kind: str = "config.json") -> None:
    """Everything about the output that can be refused before the first byte is read.

    kind  the file that a folder must hold to be replaced: what it is known by
    """
    where = f"--out {out}"
    parent = out.parent
    if not out.name or len(os.fsencode(out.name)) > 200:
        raise BadInput(
            where[:120],
            what="is no usable folder name",
            why="a name has 1 to 200 bytes",
            fix="a shorter --out",
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
            fix="another --out",
        )
    if source is not None:
        check_apart(out, source)
    if out.exists():
        if not out.is_dir():
            raise BadInput(where, what="is a file", why="a checkpoint is a folder", fix="another --out")
        if any(out.iterdir()):
            if not overwrite:
                raise BadInput(
                    where,
                    what="exists and is not empty",
                    why="nothing is overwritten unasked",
                    fix="--overwrite, or another --out",
                )
            if not (out / kind).is_file():
                raise BadInput(
                    where,
                    what="is not a checkpoint folder" if kind == "config.json" else f"holds no {kind}",
                    why="--overwrite replaces the whole folder",
                    fix="another --out",
                )
        if out.is_symlink():
            raise BadInput(
                where,
                what="is a link",
                why="the rename at the end would replace the link",
                fix=f"--out {os.path.realpath(out)}",
            )
    if not os.access(parent, os.W_OK):
        raise BadInput(where, what=f"{parent} is read-only", why="the result is created inside it", fix="another --out")
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise BadInput(
            where,
            what=f"needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            why="a result is written whole or not at all",
            fix="another --out, or make room",
        )


def check_apart(out: Path, source: str | os.PathLike | None) -> None:
    """BadInput where writing `out` would touch `source`; one that is not here cannot be touched."""
    if source is None or not os.path.exists(source):
        return
    real, origin = (Path(os.path.realpath(path)) for path in (out, source))  # a link to itself is none of its own
    if real == origin or origin in real.parents or real in origin.parents:
        raise BadInput(
            f"--out {out}",
            what="is the source, inside it or around it",
            details=[] if out == source else [("source", str(source))],
            why="source files are never touched",
            fix="another --out",
        )


def _fsync(path: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
