"""Optimizers of a run, their parameter groups, and the global norm of a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from grow.processes import World
from grow.training.settings.run_settings import Settings
from grow.training.sharding import local
from grow.training.step.sharded_optimizers import ShardedAdafactor, ShardedMuon

BETAS = (0.9, 0.95)
TABLES = (nn.Embedding,)


def decayed(model: nn.Module) -> dict[str, bool]:
    """Parameter -> whether weight decay applies: it does to matrices, not to norms, biases and tables that are looked
    up (a head that is tied to such a table is that table)."""
    tables = {id(p) for m in model.modules() if isinstance(m, TABLES) for p in m.parameters(recurse=False)}
    return {name: p.ndim > 1 and id(p) not in tables for name, p in model.named_parameters()}


def build_optimizers(
    model: Any, settings: Settings, world: World, scales: Mapping[str, float] | None = None
) -> list[torch.optim.Optimizer]:
    """The optimizers of a run: one, and with muon also AdamW for tables, heads, norms and biases.

    scales  parameter -> its share of the learning rate, 1 where it is not named; its weight decay is larger by as
            much, so that a step takes off the same

    Muon's update has the size of AdamW's (`match_rms_adamw`), so one rate does for both.
    """
    decay = decayed(model)
    named = dict(model.named_parameters())
    head = model.get_output_embeddings()
    heads = {id(p) for p in head.parameters()} if head is not None else set()
    hidden = {name for name, p in named.items() if decay[name] and p.ndim == 2 and id(p) not in heads}

    def groups(names: Iterable[str]) -> list[dict[str, Any]]:
        parts: dict[tuple[bool, float], list[str]] = {}
        for n in names:
            parts.setdefault((decay[n], (scales or {}).get(n, 1.0)), []).append(n)
        return [
            {
                "params": [(n, named[n]) for n in part],
                "weight_decay": settings.weight_decay / scale if on else 0.0,
                "scale": scale,
            }
            for (on, scale), part in sorted(parts.items(), reverse=True)
        ]

    if settings.optimizer == "adafactor":
        whole = torch.optim.Adafactor if world.size == 1 else ShardedAdafactor
        return [whole(groups(named), lr=settings.lr)]
    if settings.optimizer == "muon" and hidden:
        rest = groups(name for name in named if name not in hidden)
        muon = torch.optim.Muon if world.size == 1 else ShardedMuon
        # in the model's order, since a set of names has another order in every process
        first = muon(groups(name for name in named if name in hidden), lr=settings.lr, adjust_lr_fn="match_rms_adamw")
        return [first, torch.optim.AdamW(rest, lr=settings.lr, betas=BETAS)]
    return [torch.optim.AdamW(groups(named), lr=settings.lr, betas=BETAS)]


def set_rate(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)


def states(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[tuple[str, torch.Tensor]]:
    """(`optim.PARAMETER.KEY`, tensor) of everything in the optimizer state."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, p in zip(group["param_names"], group["params"]):
                for key, value in sorted(optimizer.state.get(p, {}).items()):
                    if torch.is_tensor(value):
                        yield f"optim.{name}.{key}", value


def prepare_states(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Make room for a state that will be loaded, by one step at rate 0 without a gradient."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
    set_rate(optimizers, 0.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def gradient_norm(model: nn.Module, world: World) -> float:
    """√Σ g² over all entries on all processes. Sums of squares of shards add up, norms do not."""
    grads = [local(p.grad) for p in model.parameters() if p.grad is not None]
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in grads if g.numel()]
    own = float(torch.stack(squares).sum()) if squares else 0.0
    return math.sqrt(world.sum(own)[0]) if world.size > 1 else math.sqrt(own)


def clip_gradients(model: nn.Module, norm: float, limit: float) -> None:
    """Scale every gradient so that the global norm is at most `limit`; 0 sets no limit."""
    if limit and norm > limit:
        torch._foreach_mul_([local(p.grad) for p in model.parameters() if p.grad is not None], limit / norm)
