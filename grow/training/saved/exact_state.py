"""Weights and moments of a run, exact and sharded.

The format's index (`.metadata`) is a pickle; `grow.files.distributed_checkpoint` says how it is read.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from grow.errors import BadInput, listing
from grow.files.distributed_checkpoint import PiecedFolder
from grow.files.distributed_index import INDEX, IndexUnpickler
from grow.files.regular import opened
from grow.processes import World
from grow.spelling import option
from grow.training.step.parameter_groups import prepare_states, states


class _Reader(dcp.FileSystemReader):
    """`read_metadata` without a free pickle; tensors are read with weights_only=True by the library itself."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with opened(Path(self.path) / INDEX) as file:
            metadata: Metadata = IndexUnpickler(file).load()
        meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        meta.load_id, metadata.storage_meta = self.load_id, meta
        return metadata


def tensors(model: Any, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Everything that a run continues from, by name; a tied table appears once."""
    named = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    every = {f"model.{name}" for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {f"model.{name}": value for name, value in model.state_dict().items()}
    named |= {name: value for name, value in buffers.items() if name not in every}
    return named | dict(states(optimizers))


def save_state(folder: Path, model: Any, optimizers: list[torch.optim.Optimizer], world: World) -> None:
    """Every process writes its part; the files are on disk when this returns."""
    writer = dcp.FileSystemWriter(folder, sync_files=True)
    try:
        with _quiet():
            dcp.save(tensors(model, optimizers), storage_writer=writer, no_dist=world.size == 1)
    except CheckpointException as error:  # no Exception: it would pass by whoever cleans up
        _left(error)
        raise _failure(error) from None


def load_state(folder: Path, model: Any, optimizers: list[torch.optim.Optimizer], world: World) -> None:
    """Fill model and optimizers in place, however many processes wrote the state. BadInput, before anything is filled,
    when a part of it is missing."""
    reader = _Reader(folder)
    try:
        index = reader.read_metadata().state_dict_metadata
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError, TypeError) as error:
        raise _lost(folder, f"its index cannot be read: {error}") from None
    prepare_states(optimizers)
    wanted = tensors(model, optimizers)
    lost = [name for name in wanted if name not in index]
    odd = [
        name
        for name, value in wanted.items()
        if isinstance(meta := index.get(name), TensorStorageMetadata) and tuple(meta.size) != tuple(value.shape)
    ]
    more = [name for name in index if name not in wanted]
    if lost or odd or more:
        parts = ((lost, "missing"), (odd, "of another shape"), (more, "of no parameter"))
        raise _lost(folder, "; ".join(f"{what}: {listing(names, 3)}" for names, what in parts if names))
    with world.together(), PiecedFolder(folder, trust=True) as stored:  # its owner was checked before
        stored.check(world.rank, world.size)
    try:
        with _quiet():
            dcp.load(wanted, storage_reader=reader, no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:  # the library collects what went wrong on every process
        _left(error)
        raise _lost(folder, str(error).strip().splitlines()[-1][:200]) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warning that only one process takes part: that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _left(error: BaseException) -> None:
    """KeyboardInterrupt where a signal ended the work: the library takes it for a failure of its own."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    if any(isinstance(failure, KeyboardInterrupt) for failure, _ in failures):
        raise KeyboardInterrupt from None


def _failure(error: CheckpointException) -> OSError:
    """The error that the system gave one of the processes."""
    failures = [failure for failure, _ in error.failures.values()]
    for one in failures:
        cause: BaseException | None = one
        while cause is not None:  # a file that could not be written fails again when it is closed
            if isinstance(cause, OSError):
                return cause
            cause = cause.__cause__ or cause.__context__
    return OSError(errno.EIO, (str(failures[0]).strip().splitlines() or [type(failures[0]).__name__])[0][:200])


def _lost(folder: Path, why: str) -> BadInput:
    return BadInput(
        str(folder),
        what="is not a complete state of this run",
        why=why,
        fix="move this checkpoint away to resume from an earlier one, or begin a new run from its weights: "
        f"{option(src='RUN/step-…', state='drop')}",
    )
