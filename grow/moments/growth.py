"""A training state grown from file to file, one tensor after another, beside the weights and by the same plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.apply import BLOCK, grow_tensor
from grow.checkpoint.dcp import check_owner
from grow.engine import write_items
from grow.errors import BadInput, Refused, did_you_mean
from grow.moments.find import SHARDED, kind_of, open_state
from grow.moments.names import bare_model, pairs, refuse_experts
from grow.moments.state import POWERS, TrainingState, as_rows
from grow.moments.trainer import OPTIMIZER, open_trainer, write_trainer
from grow.moments.written import Item, Put, document_of, open_written, write_document
from grow.optimizer import POLICIES, grow_factored, grow_moment
from grow.optimizers import COL, ROW, STEP
from grow.parallel import World
from grow.plan import Plan
from grow.tensors import TensorPlan
from grow.train.checkpoints import STATE


class GrownState:
    """What a growth writes beside the weights; `items` are independent of each other."""

    def __init__(self, path: Path, plan: Plan, policy: str, trust: bool) -> None:
        self.path, self.policy = path, policy
        refuse_plan(plan)
        self.model = bare_model(path)
        refuse_experts(self.model)
        self.grown = bare_model(path, plan.new_config)
        state = open_state(path, trust=trust)
        if state is None:
            raise AssertionError(f"{path} has no training state")
        self.state = state
        try:
            self.items = list(items_of(plan, state, self.model, self.grown, policy))
            self.trainer = open_trainer(path) if (path / OPTIMIZER).is_file() else None
        except BaseException:
            state.close()
            raise

    @property
    def nbytes(self) -> int:
        """On disk; optimizer.pt holds the moments once more."""
        return sum(item.nbytes * (2 if self.trainer and item.name.startswith("optim.") else 1) for item in self.items)

    def document(self) -> dict[str, Any]:
        """Of grow.json."""
        c = self.state.carried
        return {"policy": self.policy, "optimizers": list(c.optimizers), "step": c.step, "tensors": len(self.items)}

    def write(self, folder: Path, shard: int, world: World) -> None:
        """state/, and for a Trainer its own files. Nothing else of the folder is touched."""
        with world.together():
            if world.first:
                (folder / STATE).mkdir()
        # one at a time: what a moment grows from is in memory whole
        write_items(self.items, lambda item, put: item.compute(put), folder / STATE, shard, world=world, threads=1)
        with world.together():
            if world.first:
                self._finish(folder)

    def _finish(self, folder: Path) -> None:
        write_document(folder / STATE, replace(self.state.carried, policy=self.policy))
        if self.trainer is not None:
            with open_written(folder, document_of(folder) or {}) as written:
                write_trainer(folder, self.trainer, written, self.grown)

    def note(self) -> str:
        c = self.state.carried
        return f"the training state came along ({self.policy}): {' and '.join(c.optimizers)} behind step {c.step:,}"

    def close(self) -> None:
        self.state.close()
        if self.trainer is not None:
            self.trainer.close()


def grown_state(path: Path, plan: Plan, policy: str | None, trust: bool) -> tuple[GrownState | None, tuple[str, ...]]:
    """(what to write beside the weights, notes). None where there is no state or it is to be dropped.

    policy  None: "fresh-new", and what cannot grow stays behind with a note
    Raises BadInput where a policy was named and there is no state, or a state is damaged; Refused where it has no rule.
    """
    check_policy(policy)
    if policy == "drop" or not (kind := kind_of(path)):
        if policy in (None, "drop"):
            return None, ()
        raise BadInput(
            f"--state {policy}",
            what=f"{path} has no training state",
            why=f"it says what becomes of the optimizer's state, in {STATE}/ or {OPTIMIZER}",
            fix="the checkpoint of a run (RUN/step-…, checkpoint-…), or no --state",
        )
    try:
        if kind == SHARDED and policy is None and not trust:
            _check_own(path)
        found = GrownState(path, plan, policy or POLICIES[0], trust)
    except Refused as refusal:
        if policy is not None:
            raise
        return None, (f"the training state stays behind: {refusal.where} {refusal.what}",)
    return found, (found.note(),)


def check_policy(policy: str | None) -> None:
    if policy is not None and policy not in POLICIES:
        raise BadInput(
            f"--state {policy}",
            what=f"no such policy {did_you_mean(str(policy), POLICIES)}".rstrip(),
            why="policies: " + ", ".join(POLICIES),
            fix=f"--state {POLICIES[0]}",
        )


def items_of(plan: Plan, state: TrainingState, model: Any, grown: Any, policy: str) -> Iterator[Item]:
    """Every tensor of the grown state; `model` and `grown` give names and shapes alone."""
    weights, moments, copies = state.weights, state.moments, policy == "carry"
    for name, t, new in pairs(plan, model, grown):
        if name in weights:
            wide = _stored_as(t, state.tensors[weights[name]].dtype)
            yield Item(f"model.{new}", wide.dtype, t.new_shape, partial(_weight, wide, plan, state, weights[name]))
        for key, tensor in sorted(moments.get(name, {}).items()):
            compute = partial(_entry, t, state, moments[name], key, copies)
            yield Item(f"optim.{new}.{key}", state.tensors[tensor].dtype, _new_shape(t, key), compute)


def _new_shape(t: TensorPlan, key: str) -> tuple[int, ...]:
    return {STEP: (), ROW: (t.new_shape[0], 1), COL: (1, t.new_shape[-1])}.get(key, t.new_shape)


def _stored_as(t: TensorPlan, dtype: str) -> TensorPlan:
    """The same tensor, read and written in the dtype that a run keeps."""
    pieces = tuple((begin, _stored_as(piece, dtype)) for begin, piece in t.pieces)
    return replace(t, source_dtype=dtype, dtype=dtype, pieces=pieces)


def _weight(t: TensorPlan, plan: Plan, state: TrainingState, tensor: str, put: Put) -> None:
    def rows(start: int, stop: int) -> np.ndarray:
        return as_rows(state.read(tensor, start, stop))

    grow_tensor(t, rows, put, split=plan.split, seed=plan.seed)


def _entry(t: TensorPlan, state: TrainingState, keys: Mapping[str, str], key: str, copies: bool, put: Put) -> None:
    """One entry of a parameter's state. The old one is in memory whole, the new one in blocks of rows."""
    old = state.whole(keys[key])
    if not torch.isfinite(old).all():
        raise BadInput(
            f"{state.path}: {keys[key]}",
            what="is not finite",
            why="a run that continues from it is lost",
            fix="an earlier checkpoint, or --state drop",
        )
    if key == STEP:
        put(0, as_rows(old))
    elif key in (ROW, COL):
        row, col = grow_factored(t, *(state.whole(keys[k]) for k in (ROW, COL)), copies=copies)
        put(0, as_rows(row if key == ROW else col))
    else:
        height = max(1, BLOCK // max(1, t.new_matrix[1]))
        for first in range(0, t.new_shape[0], height):
            rows = (first, min(first + height, t.new_shape[0]))
            put(first, as_rows(grow_moment(t, old, POWERS[key], copies=copies, rows=rows)))


def refuse_plan(plan: Plan) -> None:
    """Refused where the rule does not hold."""
    if plan.lossy:
        raise Refused(
            "--state",
            what=f"cannot follow {plan.method}, which is not exact here",
            why="gradients of a function that changed are not those that its moments were made of",
            fix="--state drop",
        )
    experts = plan.change.maps.get("experts")
    if plan.change.upcycling is not None or (experts is not None and not experts.is_identity):
        raise Refused(
            "--state",
            what="cannot follow experts that are made or added",
            why="what a router sends to each of them, and so its gradient, is no multiple of the old one",
            fix="--state drop",
        )


def _check_own(path: Path) -> None:
    """Nobody asked for the state: a stranger's is left where it is instead of being an error."""
    try:
        check_owner(path / STATE, False)
    except BadInput as error:
        raise Refused(error.where, what=error.what, why=error.why, fix=error.fix) from None
