"""A model on one process, or sharded with FSDP2 on several.

Every block and the root are sharded by `fully_shard`: parameters, gradients and moments of a process are its part of
each tensor. gloo on the CPU, nccl on CUDA.
"""

from __future__ import annotations

import torch
from torch import nn

from grow.processes import World


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


def gathered(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The full tensor on every process, of which each has the part that it holds of `like`; all of them have to ask."""
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Dealt by rows where `like` is, on its device and of its dtype."""
    if not hasattr(like, "placements"):
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    from torch.distributed.tensor import zeros as dealt

    return dealt(*shape, dtype=like.dtype, device_mesh=like.device_mesh, placements=like.placements)  # type: ignore[attr-defined]


def part_of(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of `full` that this process holds of `like`, without asking anybody."""
    if not hasattr(like, "placements"):
        return full.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh  # type: ignore[attr-defined]
    made = distribute_tensor(full.to(mesh.device_type), mesh, like.placements, src_data_rank=None)
    return made.to_local()
