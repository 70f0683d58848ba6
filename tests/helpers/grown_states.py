"""Growths of training states, read back entry by entry, and runs that begin from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import QUICK, curve

import grow
from grow.errors import GrowError
from grow.optimizer.dual_rule import new_entries_of, rates_of
from grow.optimizer.state.find import open_state
from grow.optimizer.state.parameter_names import bare_model, pairs
from grow.optimizer.state.stored_state import POWERS
from grow.optimizer.torch_classes import STEP

# A gradient summed in another order in float64, relative to the tensor's largest: measured up to 3e-14.
EXACT = 1e-12
EVEN = {"split": "even"}
COPIES = {"operators": {"ffn": "copies", "heads": "copies"}, "split": "even"}
STILL: dict[str, Any] = {**QUICK, "lr": 1e-30, "clip": 0.0, "weight_decay": 0.0, "dtype": "float64", "steps": 1}


def widen(source: Path, out: Path, **options: Any) -> grow.Growth:
    given = {"to": {"hidden": 36, "layers": 3}, **EVEN, "verify": False, **options}
    return grow.widen(source, given.pop("to"), out=out, **given)


def values(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Everything that a state holds."""
    with open_state(path, **options) as state:
        return {name: state.whole(name) for name in state.tensors}


def refused(kind: type[GrowError], call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        call(*arguments, **options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    return str(error.value)


def wanted(source: Path, growth: grow.Growth, policy: str) -> dict[str, torch.Tensor]:
    """The moments of a growth, entry by entry from `grow.rates` and its maps: not how it computes them."""
    old, found = values(source), {}
    models = bare_model(source), bare_model(source, growth.plan.new_config)
    for name, t, new in pairs(growth.plan, *models):
        places = [np.arange(n) if m is None else np.maximum(m.source, 0) for m, n in zip(t.maps, t.new_shape)]
        gamma, fresh = rates_of(t).gradient, new_entries_of(t)
        for key, power in {**POWERS, STEP: 0}.items():
            if (before := old.get(f"optim.{name}.{key}")) is None:
                continue
            if key == STEP:
                found[f"optim.{new}.{key}"] = before
                continue
            if before.shape != t.shape:  # of a factored second moment its product is told: see below
                continue
            value = before[np.ix_(*places)] * gamma**power
            found[f"optim.{new}.{key}"] = torch.where(fresh, 0, value) if policy == "fresh-new" else value
    return found


def short() -> dict[str, Any]:
    """Without what belongs to the schedule."""
    return {k: v for k, v in QUICK.items() if k not in ("steps", "warmup", "decay", "lr")}


def going(path: Path) -> list[dict[str, float]]:
    """Of every step, without what is counted from the beginning of a run."""
    return [
        {k: v for k, v in line.items() if k in ("step", "loss", "lr", "grad_norm")}
        for line in curve(path)
        if "lr" in line
    ]
