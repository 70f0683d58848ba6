"""Parameter groups by what is new in a parameter, for any optimizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput
from grow.files.locate import locate
from grow.growth.results import Growth
from grow.optimizer.dual_rule import new_entries_of
from grow.planning.plan import Plan
from grow.planning.record import NAME, read_record
from grow.planning.tensor import TensorPlan
from grow.training.after_growth.new_entries import parts_of, tensors_of

NEW, PARTLY, OLD = "new", "partly new", "old"


def parameter_groups(
    model: Any,
    growth: Any,
    *,
    lr: float,
    new_lr: float | None = None,
    partly_new_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.….(groups)`: new, partly new and old parameters, each with and without weight decay.

    model          the grown model, plain or sharded
    growth         what made it: a `Growth`, a `Plan`, or a folder with grow.json
    new_lr         for parameters all of whose entries are new (inserted layers); default: `lr`
    partly_new_lr  for those with old and new entries; default: `lr`. `NewEntryUpdates` tells their entries apart
    weight_decay   for the parameters that `Trainer` decays by its own rule: not for biases and norms

    "entries" of a group is "new", "partly new" or "old", and "param_names" names its parameters. Frozen parameters and
    empty groups are left out. BadInput where the growth made another model.
    """
    from transformers import Trainer

    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    rates = {NEW: new_lr, PARTLY: partly_new_lr, OLD: lr}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for kind, rate in rates.items():
        for decay in (True, False):
            made = {"lr": lr if rate is None else rate, "weight_decay": weight_decay if decay else 0.0}
            groups[kind, decay] = {"params": [], "param_names": [], "entries": kind, **made}
    for name, p, t in parts_of(model, tensors_from(growth)):
        if p.requires_grad:
            mask = new_entries_of(t)
            group = groups[NEW if mask.all() else PARTLY if mask.any() else OLD, name in decayed]
            group["params"].append(p)
            group["param_names"].append(name)
    return [group for group in groups.values() if group["params"]]


def tensors_from(growth: Any) -> tuple[TensorPlan, ...]:
    """The tensors of a `Growth`, a `Plan`, or a grown folder; BadInput for anything else."""
    if isinstance(growth, Growth):
        growth = growth.plan
    if isinstance(growth, (Plan, tuple)):
        return growth.tensors if isinstance(growth, Plan) else growth
    if not isinstance(growth, (str, os.PathLike)):
        raise BadInput(
            "growth",
            what=f"must be a Growth, a Plan or a folder, got {type(growth).__name__}",
            why="it says which entries are new",
            fix="give what grow.widen returned, or the folder that it wrote",
        )
    with open_checkpoint(locate(growth)) as checkpoint:
        record = read_record(Path(checkpoint.path))
        if record is None:
            raise BadInput(
                str(checkpoint.path),
                what="is not known to have grown",
                why=f"there is no {NAME} beside the weights, which says what is new",
                fix="give the folder that a growth wrote, or the Growth itself",
            )
        return tensors_of(record, checkpoint)
