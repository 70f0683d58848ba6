"""Runs a plan: tensors from a source to a sink, a few at a time, none of them whole in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Protocol

import numpy as np

from grow.apply import grow_tensor
from grow.checkpoint.reader import Checkpoint
from grow.checkpoint.writer import ShardWriter
from grow.numerics import RAW
from grow.plan import Plan
from grow.tensors import TensorPlan


class Source(Protocol):
    def rows(self, t: TensorPlan, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the source tensor in stored form, as a matrix."""
        ...


class FileSource:
    """Rows of a checkpoint on disk, read where they lie."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def rows(self, t: TensorPlan, start: int, stop: int) -> np.ndarray:
        return part_rows(self.checkpoint, t, start, stop)


def stored_rows(checkpoint: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a stored tensor as a (rows, columns) matrix of raw values."""
    info = checkpoint.tensors[name]
    raw = RAW[info.dtype]
    columns = int(np.prod(info.shape[1:], dtype=np.int64))
    width = columns * raw.itemsize
    return np.frombuffer(checkpoint.read(info, start * width, stop * width), dtype=raw).reshape(-1, columns)


def part_rows(checkpoint: Checkpoint, t: TensorPlan, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of the part of its source that a tensor is read from; a stack of matrices lies flat."""
    top, left = t.corner
    return stored_matrix(checkpoint, t.source, top + start, top + stop)[:, left : left + t.matrix[1]]


def stored_matrix(checkpoint: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of a stored tensor whose matrices, if it is a stack, lie flat."""
    info = checkpoint.tensors[name]
    raw, columns = RAW[info.dtype], info.shape[-1] if len(info.shape) > 1 else 1
    width = columns * raw.itemsize
    return np.frombuffer(checkpoint.read(info, start * width, stop * width), dtype=raw).reshape(-1, columns)


def write_plan(
    plan: Plan, source: Source, writer: ShardWriter, advance: Callable[[int], None] = lambda n: None
) -> dict[str, str]:
    """Write every tensor of the plan; returns name -> sha256. `advance` is told of bytes as they are written."""

    def one(t: TensorPlan) -> tuple[str, str]:
        def put(begin: int, first: int, rows: np.ndarray) -> None:
            if stop.is_set():
                raise InterruptedError
            writer.write_rows(t.name, begin + first, rows)
            advance(rows.nbytes)

        for begin, part in t.parts:
            above = partial(source.rows, replace(part, source=part.above)) if part.above else None
            write = partial(put, begin)
            grow_tensor(part, partial(source.rows, part), write, split=plan.split, seed=plan.seed, read_above=above)
        return t.name, writer.sha256(t.name)

    stop = Event()
    # numpy and pwrite release the interpreter lock; more threads than cores only take memory
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(one, t) for t in plan.tensors]
        try:
            return dict(job.result() for job in as_completed(jobs))
        except BaseException:
            stop.set()  # what runs ends at its next block, what waits never starts
            for job in jobs:
                job.cancel()
            raise
