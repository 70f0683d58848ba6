"""Locked twins: copies that are still equal after training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.origins import Read
from grow.planning.tensor import TensorPlan
from grow.verification.checks.short_training import RATE, Trained

APART = {torch.float64: 1e-7, torch.float32: 1e-4}  # of a step: above what rounding does to equal gradients
PARTED = 0.1  # of a unit's entries: a few may have been reached once, or by rounding alone
FEWEST = 8  # entries with a gradient that it takes to tell twins apart


@dataclass
class Part:
    """One parameter, or one matrix of a stack, after training; `sent` where tokens were sent to its expert."""

    name: str
    plan: TensorPlan | None
    alive: torch.Tensor
    weight: torch.Tensor
    sent: torch.Tensor | None


def locked_experts(parts: Sequence[Part]) -> list[int]:
    """Per part: rows that are still those of the expert it is a copy of."""
    first = {_origin(part): part for part in parts if copy_of(part) == 0}
    locked = []
    for part in parts:
        twin = first.get(_origin(part)) if copy_of(part) else None
        if twin is None or part.weight.ndim != 2:
            locked.append(0)
            continue
        rows = np.arange(len(part.weight))
        both = torch.cat([twin.weight, part.weight]), torch.cat([twin.alive, part.alive])
        locked.append(_together(*both, rows + len(rows), rows))
    return locked


def copy_of(part: Part) -> int | None:
    """Which of the copies of an expert it belongs to, 0 for what is there once; None where it holds no old numbers."""
    read = part.plan.origin if part.plan else None
    if not isinstance(read, Read):
        return None
    return read.twin.place if read.twin else 0


def _origin(part: Part) -> tuple:
    """The same for copies of one expert's matrix in one layer, and for nothing else."""
    assert part.plan is not None or part.name
    if part.plan is None:
        return (part.name,)
    layer = re.search(r"\.(\d+)\.", part.plan.canonical)
    return part.plan.old.tensor, part.plan.old.corner, layer and layer[1], str(part.plan.signature)


def locked_copies(alive: torch.Tensor, weight: torch.Tensor, plan: TensorPlan) -> int:
    """Copies of a unit whose producers have not parted from the first copy's."""
    locked = 0
    if weight.ndim < 2 or len(plan.maps) != weight.ndim:
        return 0
    for d, (axis_map, role) in enumerate(zip(plan.maps, plan.roles)):
        if axis_map is None or role in (READ, GAIN, SHIFT) or len(axis_map.layers) < 2:
            continue
        base = dict(zip(*(x.tolist() for x in axis_map.layers[0])))
        units, reached = (x.movedim(d, 0).reshape(weight.shape[d], -1) for x in (weight, alive))
        for olds, news in axis_map.layers[1:]:
            locked += _together(units, reached, news, np.array([base[i] for i in olds.tolist()]))
    return locked


def _together(units: torch.Tensor, alive: torch.Tensor, a: np.ndarray, b: np.ndarray) -> int:
    """How many pairs of units (a[k], b[k]) are still as good as equal where they got gradients.

    Adam moves every such entry by about RATE per step. Twins in lock-step differ by what rounding makes of equal
    gradients, 1e-7 of that and less; twins that part differ by a good share of it, but for entries that got a single
    gradient, whose first step is RATE times its sign and nothing else.
    """
    together = 0
    for i, j in zip(a.tolist(), b.tolist()):
        moved = alive[i] | alive[j]
        if int(moved.sum()) >= FEWEST:
            parted = (units[i] - units[j])[moved].abs() >= APART[units.dtype] * RATE
            together += float(parted.double().mean()) < PARTED
    return together


def rows_still_equal(name: str, source: torch.Tensor | None, after: Trained) -> int:
    """Rows that were equal to another one and have not parted, beyond the equal rows that the source has."""
    first = after.equal.get(name)
    if first is None:
        return 0
    later = torch.nonzero(first != torch.arange(len(first))).flatten()
    inherited = int((source != torch.arange(len(source))).sum()) if source is not None else 0
    locked = _together(after.weights[name], after.moved[name], later.numpy(), first[later].numpy())
    return max(0, locked - inherited)
