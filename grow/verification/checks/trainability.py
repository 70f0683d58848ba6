"""What the grown model can learn: dead parameters and locked twins after a few optimizer steps.

A *dead* parameter never gets a gradient (two zero factors on its path), a *locked* twin is a copy that is still
equal to another one. Both are capacity that was paid for and cannot be used; losslessness does not see them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from grow.architectures import FAMILIES
from grow.architectures.family import Family
from grow.architectures.match import numberless
from grow.notation.origins import Read, Stack
from grow.planning.tensor import TensorPlan
from grow.verification.checks.locked_twins import Part, copy_of, locked_copies, locked_experts, rows_still_equal
from grow.verification.checks.short_training import RATE, STEPS, Trained, train_briefly
from grow.verification.outputs.forward_passes import guard
from grow.verification.outputs.pair import Pair
from grow.verification.verdict import Check

LIMIT = f"after {STEPS} steps of AdamW every new parameter has had a gradient, and copies have parted"
UNKNOWN = -9  # in place of an axis map's source: the dim grew and nobody says how


@guard
def trainability(pair: Pair, tensors: Mapping[str, TensorPlan] | None = None) -> Check:
    """No dead parameter and no locked twin after `STEPS` steps of AdamW, dropout off, weight decay 0.

    tensors  how the growth made each tensor, by any name that ends like the module's; without it an entry is new when
             a dim of its tensor grew, and twins are rows that are equal in the grown model only

    An expert to which tokens were sent in fewer than `OFTEN` steps is left out: it learns when it is used.
    An entry is excused where its tensor has no gradient but for rounding, and when the source's own gradient never
    reached it, or reached nothing in its old row or column (the row of a token that was not in the batch). So is a new
    row of a table that no probe looks up, and a unit that no probe activates where the source has such units too.
    """
    before, after = train_briefly(pair, "source"), train_briefly(pair, "grown")
    if before is None or after is None:
        return Check("trainability", "skip", reason="the class has no float output with a gradient")
    parts = [part for name in after.moved for part in _parts(name, _plan_of(name, tensors or {}), after)]
    rows = [_audit(part, before, after) for part in parts]
    for twins, row in zip(locked_experts(parts), rows):
        row["twins"] += twins
    total = {key: sum(row[key] for row in rows) for key in ("new", "learning", "dead", "twins")}
    measured: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": RATE,
        "dtype": after.dtype,
        "loss": after.losses,
        "parameters": sum(alive.numel() for alive in after.moved.values()),
        **total,
        "share": total["learning"] / total["new"] if total["new"] else None,
        "tensors": _grouped(rows, FAMILIES.get(pair.config("grown").model_type)),
    }
    problems = []
    if not all(map(math.isfinite, after.losses)):
        problems.append("the loss is not finite")
    for key, what in (("dead", "new parameters never get a gradient"), ("twins", "units stay equal to their twin")):
        if total[key]:
            problems.append(f"{total[key]:,} {what}, first in {next(row['rows'] for row in rows if row[key])}")
    return Check("trainability", "fail" if problems else "pass", measured, LIMIT, "; ".join(problems))


def _plan_of(name: str, tensors: Mapping[str, TensorPlan]) -> TensorPlan | None:
    """The plan of a module's parameter; stored names may lack its prefix or have one more."""
    return next(
        (
            t
            for stored, t in tensors.items()
            if name == stored or name.endswith("." + stored) or stored.endswith("." + name)
        ),
        None,
    )


def _parts(name: str, plan: TensorPlan | None, after: Trained) -> list[Part]:
    alive, weight, sent = after.moved[name], after.weights[name], after.used.get(name)
    if plan is None or not isinstance(plan.origin, Stack):
        return [Part(name, plan, alive, weight, sent)]
    sent = torch.ones_like(alive) if sent is None else sent
    flat = [x.reshape(plan.new_matrix) for x in (alive, weight, sent)]
    return [
        Part(name, piece, *(x[begin : begin + piece.new_matrix[0]].reshape(piece.new_shape) for x in flat))
        for begin, piece in plan.parts
    ]


def _before(known: Mapping[str, torch.Tensor], name: str, plan: TensorPlan | None) -> torch.Tensor | None:
    """What is known of the source's tensor that a grown one came from, of the part of it that was read."""
    if plan is not None and plan.old.tensor in known:
        if not isinstance(plan.origin, Read) and not plan.inserted and plan.old.tensor != name:
            return None  # made, not grown: its source says nothing but a scale
        whole, (top, left), (rows, columns) = known[plan.old.tensor], plan.old.corner, plan.old.matrix
        wide = plan.old.columns or (whole.shape[-1] if whole.ndim > 1 else 1)
        part = whole.reshape(-1, wide)[top : top + rows, left : left + columns]
        return part.reshape(plan.shape) if part.numel() == math.prod(plan.shape) else None  # a stack of such matrices
    # a layer that moved, or was filled from another one, is held against that one
    return known.get(_renamed(name, plan))


def _audit(part: Part, source: Trained, after: Trained) -> dict[str, Any]:
    """New, learning and dead entries and locked twins of one parameter."""
    name, plan, alive, weight = part.name, part.plan, part.alive, part.weight
    before, equal = _before(source.moved, name, plan), source.equal.get(_renamed(name, plan))
    old_shape = tuple(before.shape) if before is not None else None
    sources = _sources(alive.shape, old_shape, plan)
    new = torch.ones(alive.shape, dtype=torch.bool)
    if all(source is not None for source in sources):
        first = [torch.from_numpy(_first(source)) for source in sources]  # type: ignore[arg-type]
        made = plan is not None and (plan.inserted or copy_of(part) != 0)
        new[torch.meshgrid(*first, indexing="ij") if first else ()] = made
    unsent = new & ~part.sent if part.sent is not None else torch.zeros_like(new)
    dead = new & ~alive & ~unsent
    if before is not None and dead.any():
        dead &= ~_excused(dead, before, sources)
        dead &= ~_resting(part, before)
        last = _in_the_last_layer(name, source.moved, after.moved)
        if last is not None and last.shape == before.shape:
            dead &= ~_excused(dead, last, sources)
    if name in after.still:
        dead[:] = False
    if name in after.tables:
        dead &= alive.any(dim=1, keepdim=True)  # a row that no probe looks up learns when it is used
    count = {"new": int(new.sum()), "dead": int(dead.sum())}
    twins = locked_copies(alive, weight, plan) if plan else 0
    if plan is None or plan.inserted:  # of a new layer the plan draws what an older growth may have copied
        twins = max(twins, rows_still_equal(name, equal, after))
    learning = count["new"] - count["dead"] - int(unsent.sum())
    return {"rows": name, **count, "learning": learning, "twins": twins}


def _renamed(name: str, plan: TensorPlan | None) -> str:
    """The source's parameter that a grown one came from."""
    if plan is None or plan.source == plan.name:
        return name
    new, old = (re.search(r"\.(\d+)\.", stored) for stored in (plan.name, plan.source))
    return name.replace(f".{new[1]}.", f".{old[1]}.", 1) if new and old else name


def _in_the_last_layer(
    name: str, source: Mapping[str, torch.Tensor], grown: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    """What is known of the source's last layer, where a parameter is in the last one of the grown model.

    Nothing may read all that a last layer computes, whichever layer it was made of; None where it is not the last.
    """
    index = re.search(r"\.(\d+)\.", name)
    if index is None:
        return None

    def at(layer: int) -> str:
        return name[: index.start()] + f".{layer}." + name[index.end() :]

    if at(int(index[1]) + 1) in grown:
        return None
    behind = (layer for layer in range(int(index[1]), -1, -1) if at(layer) in source)
    return next((source[at(layer)] for layer in behind), None)


def _sources(shape: Sequence[int], old: Sequence[int] | None, plan: TensorPlan | None) -> list[np.ndarray | None]:
    """Per dim: the old coordinate of each new one, negative when fresh or unknown; None without an old tensor."""
    if old is None or len(old) != len(shape):
        return [None] * len(shape)
    coordinates: list[np.ndarray | None] = []
    for d, (n, m) in enumerate(zip(old, shape)):
        axis_map = plan.maps[d] if plan and len(plan.maps) == len(shape) else None
        if axis_map is not None and axis_map.m == m:
            coordinates.append(np.asarray(axis_map.source))
        else:
            coordinates.append(np.arange(m) if n == m else np.full(m, UNKNOWN))
    return coordinates


def _first(source: np.ndarray) -> np.ndarray:
    """Positions of the first copy of each old coordinate."""
    where = np.flatnonzero(source >= 0)
    return where[np.unique(source[where], return_index=True)[1]]


def _excused(dead: torch.Tensor, before: torch.Tensor, sources: Sequence[np.ndarray | None]) -> torch.Tensor:
    """Entries whose old row, old column or old entry never got a gradient in the source either."""
    excused = torch.zeros_like(dead)
    if any(source is None for source in sources):
        return excused
    known = [torch.from_numpy(np.asarray(source)) for source in sources]
    for d, source in enumerate(known):
        others = tuple(k for k in range(before.ndim) if k != d)
        unreached = ~(before.any(dim=others) if others else before)
        hit = torch.where(source >= 0, unreached[source.clamp(min=0)], torch.zeros(()).bool())
        excused |= hit.reshape([-1 if k == d else 1 for k in range(before.ndim)])
    if all((source >= 0).all() for source in known):
        excused |= ~before[torch.meshgrid(*known, indexing="ij")]
    return excused


def _resting(part: Part, before: torch.Tensor) -> torch.Tensor:
    """Entries of units that no probe activates, as may be with a ReLU, where the source has such units in this tensor.

    What such a unit reads with is not zero, unlike in a unit of which both factors are: that one stays dead. Of a
    tensor that never has a gradient in the source these are all entries.
    """
    alive = part.alive
    if not before.any():
        return torch.ones_like(alive)
    resting = torch.zeros_like(alive)
    if alive.ndim == before.ndim == 1 and not before.all():
        return ~alive
    if alive.ndim == before.ndim == 2:
        if not before.any(1).all():
            resting |= (~alive.any(1) & (part.weight != 0).any(1))[:, None]
        if not before.any(0).all():
            resting |= ~alive.any(0)
    return resting


def _grouped(rows: Sequence[Mapping[str, Any]], family: Family | None) -> list[dict[str, Any]]:
    """One line per kind of tensor, the layers summed."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = numberless(row["rows"], family)
        into = kinds.setdefault(kind, {"rows": kind, "new": 0, "learning": 0, "dead": 0, "twins": 0})
        for key in ("new", "learning", "dead", "twins"):
            into[key] += row[key]
    return list(kinds.values())
