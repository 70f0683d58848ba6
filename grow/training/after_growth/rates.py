"""Learning rates that follow from what a growth did to a parameter.

uniform   every parameter has the same rate
mup       a matrix whose fan-in grew from f to f' learns at f/f' of the rate, tables and vectors at the whole rate: the
          rule of the maximal update parametrisation for Adam (Yang et al., arXiv 2203.03466, table 3; the head counts
          as a matrix, a table that is tied to it as a table). Weight decay takes off the same in each step.
implied   an entry that holds v times an old one and gets γ times its gradient takes AdamW's step with lr · v and
          eps · γ (`grow.optimizer.dual_rule`); entries that hold none take the usual step. Training then commutes with
          growing, exactly for even shares. Copies stay copies, so it is for proofs and short hand-overs.
          Gradients are measured in the source's units: their norm √Σ g² · v/γ is the source's, and so is clipping.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from grow.checkpoint.reader import Checkpoint
from grow.errors import Refused
from grow.notation.axes import READ
from grow.notation.origins import Stack
from grow.optimizer.dual_rule import carries, factors
from grow.planning.parsed_record import Record
from grow.planning.tensor import TensorPlan
from grow.spelling import left_out, option
from grow.training.after_growth.new_entries import NewEntries, parts_of, tensors_of
from grow.training.settings.run_settings import Settings
from grow.training.sharding import World, local, part_of, rows_of

Rated = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Part = tuple[torch.nn.Parameter, "Rated | None"]


@dataclass(frozen=True)
class Treated:
    """How training treats some entries of a grown model differently; None where it treats all alike."""

    new: NewEntries | None = None
    implied: Implied | None = None
    scales: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()


def treat(model: Any, record: Record, grown: Checkpoint, settings: Settings) -> Treated:
    """The treatment that the settings ask for; `model` is already sharded."""
    apart = settings.rewarm is not None or settings.freeze_old
    if not apart and settings.rates == "uniform":
        return Treated()
    if settings.rates != "uniform" and record.change.makes_experts:
        raise Refused(
            option(rates=settings.rates),
            what="has no rule for experts that were made or added",
            why="what a router sends to each of them, and so its gradient, is not a multiple of the old one",
            fix=left_out("rates"),
        )
    made, notes = tensors_of(record, grown), []
    new = NewEntries(model, made, rewarm=settings.rewarm, freeze_old=settings.freeze_old) if apart else None
    if new is not None:
        notes.append(f"{new.count:,} of {new.total:,} entries are new")
    scales = mup_scales(model, made) if settings.rates == "mup" else None
    if scales is not None:
        notes.append(f"learning rates: {in_words(scales)}")
    return Treated(new, Implied(model, made) if settings.rates == "implied" else None, scales, tuple(notes))


def mup_scales(model: Any, tensors: Iterable[TensorPlan]) -> dict[str, float]:
    """Parameter -> its share of the rate."""
    return {name: fan_in(t, t.shape) / fan_in(t, t.new_shape) for name, _, t in parts_of(model, tensors)}


def fan_in(t: TensorPlan, shape: tuple[int, ...]) -> int:
    """How many inputs a row of a matrix sums over; 1 for vectors and for tables, which are looked up."""
    return math.prod(size for size, role in zip(shape, t.roles) if role == READ)


def in_words(scales: Mapping[str, float]) -> str:
    """`× 0.5 for 15 parameters, × 1 for 12`."""
    counts = sorted(Counter(scales.values()).items())
    first, *rest = [f"× {scale:.4g} for {count}" for scale, count in counts]
    return ", ".join([f"{first} parameters", *rest])


class Dimwise:
    """v and γ of a parameter's entries as products of one vector per dim: a row and a column instead of a matrix.

    values     vectors whose product is v, shaped so that it broadcasts to the parameter on this process
    gradients  likewise for γ
    """

    def __init__(self, tensor: TensorPlan, p: torch.nn.Parameter) -> None:
        self.factor = tensor.factor
        self.values: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        for dim, f in enumerate(factors(tensor)):
            if f is None:
                continue
            shape = tuple(-1 if d == dim else 1 for d in range(len(tensor.new_shape)))
            for vectors, values in ((self.values, f.value), (self.gradients, f.gradient)):
                vector = torch.from_numpy(values).to(p.dtype).reshape(shape)
                vectors.append(part_of(vector, p) if dim == 0 else vector.to(p.device))

    def __call__(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(v, γ); both are 1 where an entry holds no old one, or does not get its gradient."""
        v, g = torch.full_like(like, self.factor), torch.full_like(like, 1 / self.factor)
        for vectors, made in ((self.values, v), (self.gradients, g)):
            for vector in vectors:
                made *= vector
        old = (v != 0) & (g != 0)
        return torch.where(old, v, 1), torch.where(old, g, 1)


class Stackwise:
    """`Dimwise` for each matrix of a stack that this process holds."""

    def __init__(self, tensor: TensorPlan, p: torch.nn.Parameter) -> None:
        own, height = local(p), tensor.new_matrix[0] // tensor.new_shape[0]
        self.columns = tensor.new_matrix[1]
        first, end = (row * height for row in rows_of(p))
        like = torch.nn.Parameter(own.new_empty(0))
        self.parts = [
            (begin - first, begin - first + piece.new_shape[0], Dimwise(piece, like))
            for begin, piece in tensor.parts
            if first <= begin < end and carries(piece) and not piece.unchanged
        ]

    def __call__(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v, g = torch.ones_like(like), torch.ones_like(like)
        rows_v, rows_g = (some.view(-1, self.columns) for some in (v, g))
        for first, end, rate in self.parts:
            rows_v[first:end], rows_g[first:end] = rate(rows_v[first:end])
        return v, g


def rated(tensor: TensorPlan, p: torch.nn.Parameter) -> Rated | None:
    """The implied rates of a parameter; None where all of them are 1."""
    if not carries(tensor) or tensor.unchanged:
        return None
    return Stackwise(tensor, p) if isinstance(tensor.origin, Stack) else Dimwise(tensor, p)


class Implied:
    """AdamW's step at the rates that the growth implies. The optimizer keeps the moments, and this the weights."""

    def __init__(self, model: Any, tensors: Iterable[TensorPlan]) -> None:
        self.parts: list[Part] = [(p, rated(t, p)) for _, p, t in parts_of(model, tensors)]

    @torch.no_grad()
    def gradient_norm(self, world: World) -> float:
        """The norm of the source's gradient, to which this one corresponds, together with that of the new entries."""
        own = 0.0
        for p, rate in self.parts:
            if p.grad is None or not local(p.grad).numel():
                continue
            squares = local(p.grad).double().square()
            if rate is not None:
                v, g = rate(squares)
                squares *= (v / g).abs()
            own += float(squares.sum())
        return math.sqrt(world.sum(own)[0])

    @torch.no_grad()
    def step(self, optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
        """Replaces `optimizer.step()`, which is called at rate 0: the moments move and no weight does."""
        for optimizer in optimizers:
            rates = dict(self.parts)
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = lr
                for p in group["params"]:
                    if p in optimizer.state:
                        _move(p, optimizer.state[p], group, rates.get(p))


def _move(p: torch.nn.Parameter, state: Mapping[str, Any], group: Mapping[str, Any], rate: Rated | None) -> None:
    """w <- (1 - lr · decay) w - lr · v · m̂ / (√ŝ + eps · γ)."""
    w, (beta1, beta2), count = local(p), group["betas"], float(state["step"])
    update = local(state["exp_avg"]) / (1 - beta1**count)
    root = (local(state["exp_avg_sq"]) / (1 - beta2**count)).sqrt_()
    if rate is None:
        update /= root.add_(group["eps"])
    else:
        v, g = rate(w)
        update *= v * g.sign()
        update /= root.add_(g.abs(), alpha=group["eps"])
    w.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
