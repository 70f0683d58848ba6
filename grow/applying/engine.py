"""All tensors of a plan, a few at a time, from a source to a sink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Protocol, TypeVar

import numpy as np

from grow.applying.tensor_rows import grow_tensor
from grow.checkpoint.reader import Checkpoint
from grow.files.stored_rows import read_matrix, read_rows
from grow.files.writer import Planned, ShardWriter
from grow.notation.origins import SourcePart
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan
from grow.processes import World
from grow.spelling import here

ALONE = World(0, 1)
THREADS = min(4, os.cpu_count() or 1)
"""numpy and pwrite release the interpreter lock; more threads than cores only take memory."""
FAILED = ".failed"
"""Beside the shards while several processes write them: one of them could not go on."""

Put = Callable[[int, np.ndarray], None]  # first row, rows in stored form
P = TypeVar("P", bound=Planned)


class Source(Protocol):
    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a part of a source tensor in stored form, as a matrix."""
        ...


class FileSource:
    """Rows of a checkpoint on disk, read where they lie."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray:
        return part_rows(self.checkpoint, part, start, stop)


def stored_rows(checkpoint: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a stored tensor as a (rows, columns) matrix of raw values."""
    return read_rows(checkpoint, checkpoint.tensors[name], start, stop)


def part_rows(checkpoint: Checkpoint, part: SourcePart, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a part of a stored tensor, as the matrix that it lies flat as."""
    top, left = part.corner
    whole = stored_matrix(checkpoint, part.tensor, top + start, top + stop, part.columns)
    return whole[:, left : left + part.matrix[1]]


def stored_matrix(checkpoint: Checkpoint, name: str, start: int, stop: int, columns: int | None = None) -> np.ndarray:
    """Rows [start, stop) of a stored tensor that lies flat, see `read_matrix`."""
    return read_matrix(checkpoint, checkpoint.tensors[name], start, stop, columns)


def write_plan(
    plan: Plan,
    source: Source,
    folder: Path,
    max_shard_size: int,
    advance: Callable[[int], None] = lambda n: None,
    world: World = ALONE,
) -> dict[str, str]:
    """Write every tensor of the plan; returns name -> sha256 of all. See `write_items`."""

    def compute(t: TensorPlan, put: Put) -> None:
        for begin, part in t.parts:

            def write(first: int, rows: np.ndarray, begin: int = begin) -> None:
                put(begin + first, rows)

            grow_tensor(part, source.rows, write, split=plan.split, seed=plan.seed)

    return write_items(plan.tensors, compute, folder, max_shard_size, advance, world)


def write_items(
    items: Sequence[P],
    compute: Callable[[P, Put], None],
    folder: Path,
    max_shard_size: int,
    advance: Callable[[int], None] = lambda n: None,
    world: World = ALONE,
    threads: int = THREADS,
) -> dict[str, str]:
    """Items that know nothing of each other as safetensors in `folder`, this process its share; on disk when this
    returns name -> sha256 of all, in their order.

    compute  hands out the rows of an item, in any order
    advance  is told of bytes as they are written
    What fails on one process is raised on all, which stop at their next item.
    """
    with ExitStack() as stack:
        with world.together():
            made = ShardWriter(folder, items, max_shard_size) if world.first else None
        with world.together():
            writer = made or ShardWriter(folder, items, max_shard_size, create=False)
        stack.callback(writer.abandon)
        with world.together():
            own = _write_share(share(items, world), compute, writer, advance, world.size > 1, threads)
            writer.close()
    digests = {name: digest for some in world.gathered(own) for name, digest in some.items()}
    return {item.name: digests[item.name] for item in items}


def _write_share(
    items: Sequence[P],
    compute: Callable[[P, Put], None],
    writer: ShardWriter,
    advance: Callable[[int], None],
    shared: bool,
    threads: int,
) -> dict[str, str]:
    def one(item: P) -> tuple[str, str]:
        def put(first: int, rows: np.ndarray) -> None:
            if stop.is_set():
                raise InterruptedError
            writer.write_rows(item.name, first, rows)
            advance(rows.nbytes)

        if shared and (writer.folder / FAILED).exists():
            return item.name, ""
        compute(item, put)
        return item.name, writer.sha256(item.name)

    stop, work = Event(), here(one)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            return dict(job.result() for job in as_completed(jobs))
        except BaseException:
            stop.set()  # what runs ends at its next block, what waits never starts
            for job in jobs:
                job.cancel()
            if shared:
                _say_failed(writer.folder)
            raise


def share(items: Sequence[P], world: World) -> list[P]:
    """The items of this process, in their order: each goes, the largest first, to whom has the fewest bytes."""
    loads, owner = [0] * world.size, {}
    for item in sorted(items, key=lambda item: -item.nbytes):
        rank = loads.index(min(loads))
        loads[rank] += item.nbytes
        owner[item.name] = rank
    return [item for item in items if owner[item.name] == world.rank]


def _say_failed(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the others then end a little later, at the end of their share
        (folder / FAILED).touch()
