"""Processes that work together, and how the error of one ends them all.

torchrun starts them, or anything else that sets WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT. What they tell each
other (errors, sha256, sums) goes through gloo; weights of a growth never do. One process imports no torch for this.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from grow.errors import BadInput, GrowError, one_line
from grow.spelling import option
from grow.torchrun import environment, misset
from grow.waiting import beside

PATIENCE = timedelta(days=30)  # one may verify a large model while the others wait; a lost one is noticed at once
CONNECTION = ("Connection closed by peer", "Connection reset by peer")
"""What gloo and nccl say of a process that is no longer there."""
LARGEST = 1 << 16  # processes of a run
SILENT_FOR = 10  # seconds of waiting for the others, without a word
PAUSE = 0.02  # seconds between two looks at what the others do: a signal is handled in between


class Lost(GrowError):
    """A process of the run has gone; nothing was kept. Exit code 2."""


@dataclass(frozen=True)
class World:
    """rank of `size` processes on `device`; `mesh` is None for one, and where nothing is trained.

    peers  (host, process id) of each
    """

    rank: int
    size: int
    device: Any = None
    mesh: Any = None
    peers: list[tuple[str, int]] = field(default_factory=list)
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def first_here(self) -> bool:
        """Whether this is the first of the processes on this machine."""
        here = socket.gethostname()
        return self.rank == next((k for k, (host, _) in enumerate(self.peers) if host == here), self.rank)

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes, in float64."""
        if self.size == 1:
            return list(map(float, values))
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        """The first process's value, on every one."""
        return self.gathered(value if self.first else None)[0]

    def gathered(self, value: Any, error: Exception | None = None) -> list[Any]:
        """Every process's value, on every one. An error of one is raised on all, its own where it has one."""
        if self.size == 1:
            if error is not None:
                raise error
            return [value]
        sent = self._exchanged((_portable(error), value))
        errors: list[Any] = [failure for failure, _ in sent if failure is not None]
        if errors:
            raised: Any = error or errors[0]
            raised.shared = True
            raise raised
        return [theirs for _, theirs in sent]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails in here on one process fails on all: nobody waits for one that has left."""
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            if self.size == 1 or is_shared(raised):
                raise
            error = raised
        self.gathered(None, error)

    def lost(self) -> list[int]:
        """Processes that are known to have gone, as far as this machine shows."""
        here = socket.gethostname()
        return [k for k, (host, pid) in enumerate(self.peers) if host == here and not _alive(pid)]

    def _exchanged(self, value: Any) -> list[Any]:
        import torch
        import torch.distributed as dist

        raw = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._wait(dist.all_gather(sizes, torch.tensor([len(raw)]), group=self.group, async_op=True))
        longest = max(int(n) for n in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        mine = torch.cat([raw, torch.zeros(longest - len(raw), dtype=torch.uint8)])
        self._wait(dist.all_gather(parts, mine, group=self.group, async_op=True))
        return [pickle.loads(part[: int(n)].numpy().tobytes()) for part, n in zip(parts, sizes)]

    def _wait(self, work: Any) -> None:
        """Wait for `work`; unlike a wait inside gloo, a signal ends this one."""
        pause = 1e-4
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)
        try:
            work.wait()
        except RuntimeError as error:
            raise self._gone() from error

    def _gone(self) -> Lost:
        lost = self.lost()
        which = ", ".join(map(str, lost)) if lost else "one"
        return Lost(
            f"process {which} of {self.size}",
            what="has ended before the work was done",
            why="each process has a share of it, so all end; what was whole before is as it was",
            fix="look for what it printed, or for the system's log (out of memory?), and start again: training with "
            f"{option(resume=True)}",
        )


def is_shared(error: BaseException | None) -> bool:
    """Whether all processes know of the error: it was exchanged, or was raised on account of one that was."""
    while error is not None:
        if getattr(error, "shared", False):
            return True
        error = error.__cause__ or error.__context__
    return False


def processes() -> int:
    """How many torchrun says there are; 1 without it."""
    return environment("WORLD_SIZE", 1, LARGEST, 1)


def several() -> bool:
    """Whether other processes may be there. Unlike `processes` this never fails."""
    return os.environ.get("WORLD_SIZE") not in (None, "", "1")


def _place() -> tuple[int, int]:
    """(processes, which of them this is), once all that the others need to find it is there."""
    size = processes()
    if size == 1:  # a RANK may be left over
        return 1, 0
    rank = environment("RANK", None, size - 1)
    environment("MASTER_PORT", None, 65535, 1)
    if not os.environ.get("MASTER_ADDR", "").strip():
        raise misset("MASTER_ADDR", "is not set", f"{size} processes find each other there")
    return size, rank


@contextlib.contextmanager
def world_of(wanted: int | None, *, train: bool = True) -> Iterator[World]:
    """The processes that torchrun started, or one; BadInput when other than `wanted` are there.

    train  on CUDA devices where there are some, with a mesh to shard a model over; else processes of the CPU
    """
    size, rank = _place()
    if wanted is not None and wanted != size:
        raise BadInput(
            option(world=wanted),
            what=f"{wanted} processes were asked for, WORLD_SIZE is {size}",
            why="every process has its part of the work",
            fix=f"torchrun --nproc-per-node {wanted} -m grow …",
        )
    device = _device() if train else None
    if size == 1:
        yield World(0, 1, device)
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    cuda = device is not None and device.type == "cuda"
    begun = not dist.is_initialized()
    if begun:
        try:
            store = beside(lambda: next(rendezvous("env://"))[0], _Waiting(size, rank).told)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=dist.PrefixStore("grow", store),
                rank=rank,
                world_size=size,
                device_id=device if cuda else None,
            )
        except (RuntimeError, ValueError, OSError) as error:  # an address that does not exist, a port that is taken
            place = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
            why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise misset(f"MASTER_ADDR:MASTER_PORT {place}"[:120], "the processes do not meet there", why) from None
    try:
        mesh = dist.device_mesh.init_device_mesh(device.type, (size,)) if device is not None else None
        world = World(rank, size, device, mesh, group=dist.new_group(backend="gloo", timeout=PATIENCE))
        world.peers.extend(world.gathered((socket.gethostname(), os.getpid())))
        with _ending_together(world):
            yield world
    finally:
        if begun:
            dist.destroy_process_group()


class _Waiting:
    """Says once that the others are not there: variables that torchrun left behind look like that, too."""

    def __init__(self, size: int, rank: int) -> None:
        self.size, self.rank, self.ticks = size, rank, 0

    def told(self) -> None:
        self.ticks += 1
        if self.ticks == SILENT_FOR:
            place = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
            text = f"note: process {self.rank} of {self.size} (WORLD_SIZE) waits for the others at {place}"
            with contextlib.suppress(OSError):
                print(one_line(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ending_together(world: World) -> Iterator[None]:
    """No process leaves before the others have cleaned up: torchrun ends them all when one does."""
    try:
        yield
    except BaseException as error:
        if is_shared(error):
            with contextlib.suppress(Lost):
                world.gathered(None)
            raise
        lost = world.lost()
        broken = isinstance(error, RuntimeError) and any(word in str(error) for word in CONNECTION)
        if broken or (isinstance(error, (Lost, KeyboardInterrupt, RuntimeError)) and lost):
            gone = error if isinstance(error, Lost) else world._gone()
            # the first process speaks for all; when it is the one that was lost, or may be, the next does
            gone.alone = world.rank == min(set(range(world.size)) - set(lost or [0]))  # type: ignore[attr-defined]
            raise gone from None
        error.alone = not isinstance(error, (Lost, KeyboardInterrupt))  # type: ignore[attr-defined]
        raise
    world.gathered(None)


def _device() -> Any:
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    last = torch.cuda.device_count() - 1
    device = torch.device("cuda", environment("LOCAL_RANK", 0, last) if processes() > 1 else 0)
    torch.cuda.set_device(device)
    return device


def _portable(error: Exception | None) -> Exception | None:
    """The error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that was killed has its number until its parent looks
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):  # no such file system, or gone meanwhile: the next look says it
        return True
