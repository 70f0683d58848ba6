"""A model on one process, or sharded with FSDP2 on several.

`fully_shard` shards every block and the root: a process holds its part of each parameter, gradient and moment. The
processes exchange them with gloo on the CPU and nccl on CUDA.
"""

from __future__ import annotations

import torch
from torch import nn

from grow.processes import World


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: the modules in the outermost lists of modules."""
    repeated: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                repeated.extend(child)
            else:
                walk(child)

    walk(model)
    return [block for block in repeated if any(True for _ in block.parameters())]


def shard(model: nn.Module, world: World) -> None:
    """Shard every block, then the rest; on one process nothing happens."""
    if world.size == 1:
        return
    from torch.distributed.fsdp import fully_shard

    for block in blocks(model):
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh)


def reshard(model: nn.Module) -> None:
    """Shard the root's parameters again, after a forward pass without a backward pass."""
    if callable(again := getattr(model, "reshard", None)):
        again()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def rows_of(tensor: torch.Tensor) -> tuple[int, int]:
    """[first, end): the rows of a tensor that this process holds; all of them on one process."""
    count = tensor.shape[0]
    if not hasattr(tensor, "placements"):
        return 0, count
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    height = -(-count // mesh.size())  # as `fully_shard` does: the last processes may have fewer rows, or none
    first = min(mesh.get_local_rank() * height, count)
    end = min(first + height, count)
    if end - first != local(tensor).shape[0]:
        raise AssertionError(f"{tuple(tensor.shape)} is not sharded by rows over {mesh}")
    return first, end


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor on every process; all of them have to call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The full tensor on every process, each of which gives the part that it holds of `like`; all have to call this."""
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros with the device and dtype of `like`, sharded by rows where `like` is."""
    if not hasattr(like, "placements"):
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    from torch.distributed.tensor import zeros as sharded_zeros

    return sharded_zeros(*shape, dtype=like.dtype, device_mesh=like.device_mesh, placements=like.placements)  # type: ignore[attr-defined]


def part_of(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of `full` that this process holds of `like`; no other process takes part."""
    if not hasattr(like, "placements"):
        return full.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh  # type: ignore[attr-defined]
    made = distribute_tensor(full.to(mesh.device_type), mesh, like.placements, src_data_rank=None)
    return made.to_local()
