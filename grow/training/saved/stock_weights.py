"""The stock weights of a run's checkpoints, under the names and in the dtypes of its source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grow.applying.fused import Slab, layout, spellings
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput
from grow.files.regular import MAX_BESIDE, read_file
from grow.files.writer import ShardWriter
from grow.notation.dtypes import ITEMSIZE
from grow.notation.numbers import narrow
from grow.planning.record import raw_record
from grow.processes import World
from grow.training.sharding import whole

SHARD = 5 * 10**9


@dataclass(frozen=True)
class Origin:
    """What every checkpoint of a run takes over from the one it began with; it is read once, since that may go away."""

    config: dict[str, Any]
    dtypes: dict[str, str]
    files: dict[str, bytes]
    record: dict[str, Any] | None

    @classmethod
    def of(cls, source: Checkpoint) -> Origin:
        record = raw_record(source.path)
        files = {name: read_file(source.path / name, most=MAX_BESIDE) for name in source.companions}
        return cls(source.config, {name: info.dtype for name, info in source.tensors.items()}, files, record)


@dataclass(frozen=True)
class Stored:
    """A tensor of the stock file, for `ShardWriter`: the rows of `value` from `first` on, see `grow.applying.fused`."""

    name: str
    new_shape: tuple[int, ...]
    dtype: str
    value: torch.Tensor
    first: int = 0

    @property
    def new_matrix(self) -> tuple[int, int]:
        rows = self.new_shape[0] if self.new_shape else 1
        return rows, self.numel // max(1, rows)

    @property
    def numel(self) -> int:
        return math.prod(self.new_shape)

    @property
    def nbytes(self) -> int:
        return ITEMSIZE[self.dtype] * self.numel

    def cut(self, full: torch.Tensor) -> torch.Tensor:
        """The tensor's own numbers, cut from the whole `value`."""
        begin = self.first * (full.shape[-1] if full.ndim > 1 else 1)
        return full.reshape(-1)[begin : begin + self.numel].reshape(self.new_shape)


def write_stock(folder: Path, source: Origin, model: Any, world: World) -> None:
    """Write the stock weights, gathered tensor by tensor; only the first process writes. All processes take part to the
    end, whatever fails."""
    tensors = list(stock_tensors(source, model))
    writer: ShardWriter | None = None
    error: Exception | None = None
    try:
        writer = ShardWriter(folder, tensors, SHARD) if world.first else None
    except OSError as raised:
        error = raised
    full, of = torch.empty(0), None
    for tensor in tensors:
        if of is not tensor.value:  # a parameter that holds several tensors is gathered once
            full, of = whole(tensor.value), tensor.value
        if writer is None or error is not None:
            continue
        try:
            values = narrow(tensor.cut(full.detach()).cpu().numpy(), tensor.dtype)
            if tensor.dtype == "F16" and not torch.isfinite(torch.from_numpy(values)).all():
                raise _overflow(tensor.name)
            writer.write_rows(tensor.name, 0, values)
        except (OSError, BadInput) as raised:
            error = raised
    with world.together():
        if writer is not None:
            try:
                if error is None:
                    writer.close()
            finally:
                writer.abandon()
        if error is not None:
            raise error


def stock_tensors(source: Origin, model: Any) -> Iterator[Stored]:
    """The tensors of the stock file, with the source's names and dtypes; a tied table appears once."""
    dtypes = set(source.dtypes.values())
    usual = dtypes.pop() if len(dtypes) == 1 else "F32"
    parameters = dict(model.named_parameters())
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {n: v for n, v in model.state_dict().items() if n not in every and v.is_floating_point()}
    parts = [(parameters[name], slab) for name, slabs in layout(model).items() for slab in slabs]
    parts += [(value, Slab(name, 0, tuple(value.shape))) for name, value in buffers.items()]
    for value, slab in parts:
        there = next((n for n in spellings(model, slab.name) if n in source.dtypes), None)
        dtype = source.dtypes[there] if there else usual
        yield Stored(there or slab.name, slab.shape, dtype, value, slab.first)


def _overflow(name: str) -> BadInput:
    return BadInput(
        name,
        what="has numbers beyond float16",
        why="the source is stored in float16, whose largest number is 65504; an infinite weight is useless",
        fix="begin from a float32 or bfloat16 copy of the source",
    )
