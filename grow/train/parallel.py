"""One process or many: the same loop, sharded with FSDP2 where there are several.

Every block and the root are sharded by `fully_shard`: parameters, gradients and moments of a process are its part of
each tensor. gloo on the CPU, nccl on CUDA; rank and world size come from torchrun's environment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from grow.errors import BadInput


@dataclass(frozen=True)
class World:
    """rank of `size` processes on `device`; `mesh` is None for one."""

    rank: int
    size: int
    device: torch.device
    mesh: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sums over all processes, in float64."""
        if self.size == 1:
            return list(map(float, values))
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, value: Any) -> Any:
        """The first process's value, on every one."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, on every one."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What fails in here on one process fails on all: nobody waits for one that has left."""
        error: BaseException | None = None
        try:
            yield
        except Exception as found:
            error = found
        failed = next((e for e in self.gathered(error) if e is not None), None) if self.size > 1 else error
        if failed is not None:
            raise error or failed


@contextlib.contextmanager
def world_of(wanted: int | None) -> Iterator[World]:
    """The processes that torchrun started, or one; BadInput when other than `wanted` are there."""
    size, rank = (_environment(name, default) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if wanted is not None and wanted != size:
        raise BadInput(
            f"--world {wanted}",
            what=f"{wanted} processes were asked for, WORLD_SIZE is {size}",
            why="every process computes its part of each batch",
            fix=f"torchrun --nproc-per-node {wanted} -m grow train …",
        )
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", _environment("LOCAL_RANK", 0)) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    begun = not dist.is_initialized()
    if begun:
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield World(rank, size, device, dist.device_mesh.init_device_mesh(device.type, (size,)))
    finally:
        if begun:
            dist.destroy_process_group()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: what stands in the outermost lists of modules."""
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(child)
            else:
                walk(child)

    walk(model)
    return [block for block in found if any(True for _ in block.parameters())]


def shard(model: nn.Module, world: World) -> None:
    """Every block, then what is left; nothing happens on one process."""
    if world.size == 1:
        return
    from torch.distributed.fsdp import fully_shard

    for block in blocks(model):
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh)


def reshard(model: nn.Module) -> None:
    """Behind a forward pass without a backward one: the root's parameters are parts again."""
    if callable(again := getattr(model, "reshard", None)):
        again()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part, the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def rows_of(tensor: torch.Tensor) -> tuple[int, int]:
    """[first, end): the rows of a tensor that this process holds; all of them on one process."""
    count = tensor.shape[0]
    if not hasattr(tensor, "placements"):
        return 0, count
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    height = -(-count // mesh.size())  # as `fully_shard` deals them: the last ones may have fewer, or none
    first = min(mesh.get_local_rank() * height, count)
    end = min(first + height, count)
    if end - first != local(tensor).shape[0]:
        raise AssertionError(f"{tuple(tensor.shape)} is not dealt by rows over {mesh}")
    return first, end


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor on every process; all of them have to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def part_of(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of `full` that this process holds of `like`, without asking anybody."""
    if not hasattr(like, "placements"):
        return full.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh  # type: ignore[attr-defined]
    made = distribute_tensor(full.to(mesh.device_type), mesh, like.placements, src_data_rank=None)
    return made.to_local()


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise BadInput(f"{name}={text}", what="is no number", why="torchrun sets it", fix=f"unset {name}")
    return int(text)
