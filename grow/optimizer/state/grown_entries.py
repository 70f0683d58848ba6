"""Every tensor of a grown training state, and how it is computed from the old one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from grow.applying.tensor_rows import BLOCK, grow_tensor
from grow.notation.origins import SourcePart
from grow.optimizer.dual_rule import carries, grow_factored, grow_moment
from grow.optimizer.state.of_growth import Item, Put
from grow.optimizer.state.parameter_names import pairs, places
from grow.optimizer.state.stored_state import POWERS, TORCH, TrainingState, as_rows, check_finite, shape_of
from grow.optimizer.torch_classes import COL, ROW, STEP
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan

Places = Mapping[str, tuple[str, int]]


def anew(plan: Plan) -> list[str]:
    """Names of the tensors whose gradient is not a multiple of an old one: experts that are made or added, and routers.

    A shared expert has the FFN's gradient where it carries all of it, or where it existed before.
    """
    if not plan.change.makes_experts:
        return []
    experts, how = plan.family.experts, plan.change.upcycling
    assert experts is not None
    every = (row for row in plan.family.rows if "experts" in row.signature.axes or "{experts}" in row.name)
    rows = {row.name for row in every}
    if how is not None:
        rows |= {experts.shared_gate, *(experts.shared if how.route == "routed" else ())}
    patterns = [row.pattern for row in plan.family.rows if row.name in rows]
    return [t.name for t in plan.tensors if any(pattern.match(t.canonical) for pattern in patterns)]


def items_of(plan: Plan, state: TrainingState, model: Any, grown: Any, policy: str) -> Iterator[Item]:
    """Every tensor of the grown state; `model` and `grown` only give names and shapes."""
    weights, moments, copies = state.weights, state.moments, policy == "carry"
    there, fresh = places(model), set(anew(plan))
    for name, t, new in pairs(plan, model, grown):
        if name in weights:
            wide = t.stored_as(state.tensors[weights[name]].dtype, before=True)  # in the one that a run keeps
            yield Item(f"model.{new}", wide.dtype, t.new_shape, partial(_weight, wide, plan, state, there))
        if any(part.name in fresh for _, part in (*t.parts, (0, t))):
            continue  # without a state its first step counts as the first for bias correction too
        for key, tensor in sorted(moments.get(name, {}).items()):
            compute = partial(_entry, t, state, moments[name], key, copies, there)
            yield Item(f"optim.{new}.{key}", state.tensors[tensor].dtype, shape_of(key, t.new_shape), compute)


def _weight(t: TensorPlan, plan: Plan, state: TrainingState, there: Places, put: Put) -> None:
    for begin, part in t.parts:

        def rows(part: SourcePart, start: int, stop: int) -> np.ndarray:
            name, top = there[part.tensor]
            return as_rows(_cut(part, state, f"model.{name}", top, start, stop))

        def write(first: int, some: np.ndarray, begin: int = begin) -> None:
            put(begin + first, some)

        grow_tensor(part, rows, write, split=plan.split, seed=plan.seed)


def _cut(part: SourcePart, state: TrainingState, tensor: str, top: int, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of the source of a part of a parameter; `top` is the first row of its stored tensor."""
    at, left = top + part.corner[0], part.corner[1]
    some = state.rows(tensor, at + start, at + stop)
    return some[:, left : left + part.matrix[1]] if some.ndim > 1 else some


def _entry(
    t: TensorPlan, state: TrainingState, keys: Mapping[str, str], key: str, copies: bool, there: Places, put: Put
) -> None:
    """Compute one entry of a parameter's state. In memory are a matrix of the old state and blocks of the new one."""
    tensor = keys[key]
    if key == STEP:
        put(0, as_rows(_finite(state, tensor, state.whole(tensor))))
    elif key in (ROW, COL):
        row, col = (_finite(state, keys[k], state.whole(keys[k])) for k in (ROW, COL))
        made = dict(zip((ROW, COL), grow_factored(t, row, col, copies=copies)))
        put(0, as_rows(made[key]))
    else:
        for begin, part in t.parts:
            _moment(part, begin, state, tensor, key, copies, there, put)


def _moment(
    part: TensorPlan, begin: int, state: TrainingState, tensor: str, key: str, copies: bool, there: Places, put: Put
) -> None:
    count, columns = part.new_matrix
    height = max(1, BLOCK // max(1, columns))
    old = None
    if carries(part, copies):
        whole = part.old
        old = _finite(state, tensor, _cut(whole, state, tensor, there[whole.tensor][1], 0, whole.matrix[0]))
    for first in range(0, count, height):
        end = min(first + height, count)
        if old is None:
            some = torch.zeros(end - first, columns, dtype=TORCH[state.tensors[tensor].dtype])
        else:
            some = grow_moment(part, old, POWERS[key], copies=copies, rows=(first, end))
        put(begin + first, as_rows(some))


def _finite(state: TrainingState, tensor: str, old: torch.Tensor) -> torch.Tensor:
    check_finite(state, tensor, old, why="a run that continued from it would be lost")
    return old
