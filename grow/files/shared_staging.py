"""One staged folder that several processes write into.

The first process makes it and leaves a token in it; who does not see that has another file system under this name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.staging import Staging, refuse_full
from grow.processes import World
from grow.spelling import option

TOKEN = ".shared"
SEEN_AFTER = 10.0  # seconds that a network file system may take to show a new file


@dataclass
class Guest:
    """The staged folder of another process, which becomes `out`."""

    path: Path
    out: Path
    notes: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, int | None] | None = None) -> None:
        """Nothing happens here: the first process gives the folder its final name."""


@contextlib.contextmanager
def staged(out: str | os.PathLike[str], world: World, **options: Any) -> Iterator[Staging | Guest]:
    """`Staging(out, **options)` for all processes; each of them may write into `.path`. Errors are raised on all."""
    if world.size == 1:
        with Staging(out, **options) as alone:
            yield alone
        return
    with ExitStack() as stack:
        stage: Staging | Guest | None = None
        token = secrets.token_hex(16)
        with world.together():
            if world.first:
                stage = stack.enter_context(Staging(out, **options))
                (stage.path / TOKEN).write_text(token)
        path, final, token = world.broadcast((stage and stage.path, stage and stage.out, token))
        if stage is None:
            stage = stack.enter_context(_visiting(Guest(path, final)))
        with world.together():
            _see(stage, token, world)
        with world.together():
            if world.first:
                (path / TOKEN).unlink()
        yield stage


@contextlib.contextmanager
def _visiting(guest: Guest) -> Iterator[Guest]:
    """The others remove what a killed first process has left: nobody holds its lock."""
    try:
        yield guest
    except BaseException as error:
        with contextlib.suppress(OSError):
            fd = os.open(guest.path, os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(guest.path, ignore_errors=True)
            finally:
                os.close(fd)
        refuse_full(guest.out, error)
        raise


def _see(stage: Staging | Guest, token: str, world: World) -> None:
    """BadInput unless the first process's token is here too."""
    until = time.monotonic() + SEEN_AFTER
    while True:
        with contextlib.suppress(OSError):
            if (stage.path / TOKEN).read_text() == token:
                return
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    raise BadInput(
        option(out=stage.out),
        what=f"process {world.rank} on {socket.gethostname()} does not see there what process 0 on "
        f"{world.peers[0][0]} has written",
        why="all processes write into one folder",
        fix=f"{option('out')} on a file system that all nodes share, or the processes of one node",
    )
