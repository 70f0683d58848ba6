"""Muon and Adafactor where every process holds some rows of each tensor.

Muon        the momentum is gathered, one matrix at a time; every process orthogonalises it and keeps its rows
Adafactor   norms and means over rows are summed over the processes. A matrix's factor `row_var` is sharded as its rows
            are, `col_var` is whole on every process; a stack is sharded by matrices, and so are both of its factors

States have torch's names and shapes, so any number of processes continues what any other number saved. torch's
own classes (2.13) are for whole tensors: with DTensors Muon fails where there are fewer rows than processes; Adafactor
fails for matrices, and takes the norm of a part of a vector for the norm of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from grow.errors import Refused, listing
from grow.optimizer.state.stored_state import shape_of
from grow.optimizer.torch_classes import COL, ROW
from grow.training.sharding import gathered, local, rows_of, zeros

State = dict[str, torch.Tensor]
WHOLE = ("lr", "weight_decay", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")


def room(p: torch.Tensor, key: str) -> torch.Tensor:
    """Zeros for an entry of a parameter's state, sharded as that entry is."""
    shape = shape_of(key, tuple(p.shape))
    return torch.zeros(shape, dtype=p.dtype, device=p.device) if key == COL and p.ndim == 2 else zeros(shape, p)


class _Sharded(torch.optim.Optimizer):
    """An optimizer that steps one parameter after another, in one order, since each update waits for all processes."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p, group in _due(self.param_groups):
            self._update(p, local(p.grad), self.state[p], group)  # type: ignore[arg-type]
        return loss

    def _update(self, p: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
        """Step one parameter; `grad` is this process's part of its gradient."""
        raise NotImplementedError


class ShardedMuon(_Sharded, torch.optim.Muon):
    """torch.optim.Muon; the same momentum gives the same bits."""

    def _update(self, p: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["momentum_buffer"] = room(p, "momentum_buffer")
        moment, share = local(state["momentum_buffer"]), group["momentum"]
        moment.lerp_(grad, 1 - share)
        update = gathered(grad.lerp(moment, share) if group["nesterov"] else moment, p)
        # torch's class steps a whole matrix, in which the rows of other processes are zero and are not kept
        stand_in, (first, end) = torch.zeros_like(update), rows_of(p)
        stand_in[first:end] = local(p)
        stand_in.grad = update
        torch.optim.Muon([stand_in], momentum=0.0, nesterov=False, **{name: group[name] for name in WHOLE}).step()
        local(p).copy_(stand_in[first:end])


class ShardedAdafactor(_Sharded, torch.optim.Adafactor):
    """torch.optim.Adafactor, except that sums are in another order."""

    def _update(self, p: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({key: room(p, key) for key in ((ROW, COL) if p.ndim > 1 else ("variance",))})
        own, (eps1, eps2) = local(p), group["eps"]
        eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
        grad = -grad if group["maximize"] else grad
        state["step"] += 1
        step, size = state["step"].item(), p.numel() ** 0.5
        share, rate = step ** group["beta2_decay"], min(group["lr"], 1 / step**0.5)
        estimate, norm = _estimated(p, grad, state, share, eps1)
        own.mul_(1 - group["lr"] * group["weight_decay"])
        update = estimate.clamp_(min=eps1 * eps1).rsqrt_().mul_(grad)
        (square,) = _summed(p, _square(update))
        limited = max(1.0, square.item() ** 0.5 / (size * group["d"]))
        own.add_(update, alpha=-max(eps2, norm / size) * rate / limited)


def _estimated(
    p: torch.Tensor, grad: torch.Tensor, state: State, share: float, eps1: float
) -> tuple[torch.Tensor, float]:
    """(this process's estimate of the squared gradient, norm of the whole parameter); updates `state`."""
    norm = _square(local(p))
    if p.ndim == 1:
        (norm,) = _summed(p, norm)
        return local(state["variance"]).lerp_(grad * grad, share).clone(), norm.sqrt().item()
    rows, columns = local(state[ROW]), local(state[COL])
    rows.lerp_(_squares(grad, -1).div_(p.shape[-1]), share)
    mean, fresh = rows.sum(dim=-2, keepdim=True), _squares(grad, -2)
    if p.ndim == 2:  # all processes share a matrix's rows, but a stack's matrices are whole
        norm, mean, fresh = _summed(p, norm, mean, fresh)
    else:
        (norm,) = _summed(p, norm)
    columns.lerp_(fresh.div_(p.shape[-2]), share)
    return (rows @ columns).div_(mean.div_(p.shape[-2]).clamp_(min=eps1)), norm.sqrt().item()


def _squares(grad: torch.Tensor, dim: int) -> torch.Tensor:
    """Σ g² along a dim, which is kept with size 1."""
    return torch.linalg.vector_norm(grad, dim=dim, keepdim=True).square_()


def _square(part: torch.Tensor) -> torch.Tensor:
    """Σ x², in float64."""
    return torch.linalg.vector_norm(part, dtype=torch.float64).square()


def _summed(p: torch.Tensor, *parts: torch.Tensor) -> list[torch.Tensor]:
    """Each part summed over the processes that share `p`, in float64."""
    total = torch.cat([part.double().reshape(-1) for part in parts])
    dist.all_reduce(total, group=p.device_mesh.get_group())  # type: ignore[attr-defined]
    sums = total.split([part.numel() for part in parts])
    return [some.reshape(part.shape).to(part.dtype) for some, part in zip(sums, parts)]


def _due(groups: Iterable[dict[str, Any]]) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Every parameter that has a gradient, with its group; Refused where it has one on some processes alone."""
    every = [(name, p, g) for g in groups for name, p in zip(g["param_names"], g["params"])]
    if not every:
        return []
    mesh = every[0][1].device_mesh
    has_gradient = torch.tensor([p.grad is not None for _, p, _ in every], dtype=torch.int32, device=mesh.device_type)
    dist.all_reduce(has_gradient, group=mesh.get_group())
    counts = has_gradient.tolist()
    if odd := [name for (name, _, _), n in zip(every, counts) if n not in (0, mesh.size())]:
        refusal = Refused(
            listing(odd, 3),
            what="has a gradient on some of the processes only",
            why="a step needs whole tensors, and every process has a part of them",
            fix="one process, or a model all of whose parameters take part in every step",
        )
        refusal.shared = True  # type: ignore[attr-defined]  # every process has raised it
        raise refusal
    return [(p, g) for (_, p, g), n in zip(every, counts) if n]
