"""What a new run takes over from the training state beside its weights.

    moments    of every parameter, where the optimizer is the same
    weights    in full precision, where the state has them: the checkpoint's own may be rounded to 16 bits
    position   `skip`: the order of the text goes on, where text, seed, length and shares are the same
    schedule   with --continue-schedule: `begin`, and steps, rates, masks and dropout are counted on

Every process reads its own rows of each tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, no_such
from grow.optimizer.state.find import open_state
from grow.optimizer.state.of_grow_train import CLASSES, ShardedState
from grow.optimizer.state.stored_state import TrainingState, check_finite
from grow.optimizer.torch_classes import STEP
from grow.planning.record import read_record
from grow.processes import World
from grow.training.settings.from_options import continued
from grow.training.settings.run_settings import Settings
from grow.training.sharding import local, rows_of
from grow.training.step.sharded_optimizers import room

CHOICES = ("carry", "drop")
ROUNDED = {"BF16": 2.0**-6, "F16": 2.0**-9, "F32": 2.0**-20, "F64": 2.0**-20}
"""How far, relative to the largest of a tensor, stored weights may be from the state's: more than a rounding."""


class Start:
    """What a new run begins from beside its weights.

    state  None: nothing, the optimizer begins anew
    exact  whether the weights are now the state's, in full precision
    """

    def __init__(self, state: TrainingState | None = None) -> None:
        self.state, self.exact = state, False
        self.notes = list(state.notes) if state is not None else []

    def document(self) -> dict[str, Any] | None:
        """Of run.json and train.json."""
        return self.state.carried.document() if self.state is not None else None

    def continued(self, given: Mapping[str, Any], tokens: int | None, length: int) -> Settings:
        """The settings with which the schedule of the state goes on."""
        if self.state is None:
            what, why = "there is no training state", "a schedule goes on from the step that a state is of"
            raise BadInput("--continue-schedule", what=what, why=why, fix="without --continue-schedule")
        c = self.state.carried
        return continued(Settings.from_document(c.settings) if c.settings else None, c.step, given, tokens, length)

    def check(self, settings: Settings) -> None:
        """BadInput unless the run has the optimizer of the state."""
        if self.state is None:
            return
        found = self.state.carried.optimizers
        amsgrad = any("max_exp_avg_sq" in keys for keys in self.state.moments.values())
        if found == CLASSES[settings.optimizer] and not amsgrad:
            return
        same = next((name for name, classes in CLASSES.items() if classes == found and not amsgrad), None)
        kind = f"{' and '.join(found)}{' with amsgrad' if amsgrad else ''}"
        raise BadInput(
            f"--optimizer {settings.optimizer}",
            what=f"the training state of {self.state.path} is of {kind}",
            why="what one optimizer remembers means nothing to another",
            fix=(f"--optimizer {same}, or " if same else "") + "--state drop begins with a fresh one",
        )

    def placed(self, settings: Settings, data: Sequence[Mapping[str, Any]], objective: str) -> Settings:
        """The settings with the place in the text where the state's run was, where it is the same text.

        data  of each corpus: "tokens" (sha256) and "weight"
        """
        if self.state is None:
            return settings
        c = self.state.carried
        if c.settings is None or c.seen is None:
            self.notes.append("the text is read from its beginning: a Trainer keeps no place; --skip N goes on")
            return settings
        before = {**_text(c.data, c.objective), **{name: c.settings[name] for name in ("seed", "length")}}
        now = {**_text(data, objective), **{name: getattr(settings, name) for name in ("seed", "length")}}
        if other := [name for name in now if now[name] != before[name]]:
            self.notes.append(f"the text is read from its beginning: another {', '.join(other)} than before")
            return settings
        self.notes.append(f"reading goes on behind {c.seen:,} sequences")
        return replace(settings, skip=c.seen)

    def fill(
        self, model: Any, optimizers: Iterable[torch.optim.Optimizer], checkpoint: Checkpoint, world: World
    ) -> None:
        """Model and optimizers as the state has them, on every process its rows. BadInput where the checkpoint's
        weights were changed after the state was written: the run would go on without the change."""
        if self.state is None:
            return
        if isinstance(self.state, ShardedState):
            check_weights(self.state, model, checkpoint)
        elif self.state.weights and world.first_here:
            check_written(checkpoint)
        self.exact = fill_weights(self.state, model)
        fill_moments(self.state, optimizers)
        c = self.state.carried
        kept = f"moments of {' and '.join(c.optimizers)}" + (", weights in full precision" if self.exact else "")
        self.notes.append(f"continues from the training state behind step {c.step:,}: {kept}")


def open_start(path: Path, policy: str | None, trust: bool) -> Start:
    """From the state of a folder, or without one where there is none or "drop" was asked for. BadInput where "carry"
    was."""
    if policy not in (None, *CHOICES):
        raise BadInput(
            f"--state {policy}",
            what=no_such("choice", str(policy), CHOICES),
            why="the state beside the weights is taken as it is, or left; grow widen --state says how it grows",
            fix="--state carry, or --state drop",
        )
    found = None if policy == "drop" else open_state(path, trust=trust)
    if found is None and policy == "carry":
        raise BadInput(
            "--state carry",
            what=f"{path} has no training state",
            why="the optimizer would begin anew",
            fix="the checkpoint of a run, one that has grown from it, or no --state",
        )
    return Start(found)


def _text(data: Sequence[Mapping[str, Any]], objective: str) -> dict[str, Any]:
    return {
        "text": [d["tokens"] for d in data],
        "weights": [d["weight"] for d in data],
        "objective": objective,
    }


@torch.no_grad()
def check_weights(state: TrainingState, model: Any, checkpoint: Checkpoint) -> None:
    """BadInput unless the model's weights are those of the run's state, rounded as the checkpoint stores them."""
    weights = state.weights
    rounded = max(ROUNDED.get(info.dtype, 0.0) for info in checkpoint.tensors.values())
    for name, p in model.named_parameters():
        if name not in weights or not local(p).numel():
            continue
        now = local(p)
        stored = state.read(weights[name], *rows_of(p)).to(now.device, torch.float64).reshape(now.shape)
        apart, largest = float((now.double() - stored).abs().max()), float(stored.abs().max())
        if apart > rounded * largest:
            raise _changed(checkpoint, name, f"differs by {apart:.2g} from the training state beside it")


def check_written(checkpoint: Checkpoint) -> None:
    """BadInput unless a growth's weights are what it wrote. They are not the state's, rounded: where copies share a
    weight by chance, each dtype has its own draw."""
    record = read_record(checkpoint.path)
    for name, info in checkpoint.tensors.items() if record is not None else ():
        if checkpoint.sha256(info) != record.tensors.get(name):  # type: ignore[union-attr]
            raise _changed(checkpoint, name, "was changed after the training state beside it was written")


def _changed(checkpoint: Checkpoint, name: str, what: str) -> BadInput:
    return BadInput(
        f"{checkpoint.path}: {name}",
        what=what,
        why="the run would go on from the state's weights, and the change would be lost",
        fix="--state drop goes on from these weights with a fresh optimizer, or bring the old ones back",
    )


@torch.no_grad()
def fill_weights(state: TrainingState, model: Any) -> bool:
    """Whether the state has weights; this process's rows are then those."""
    weights = state.weights
    for name, p in model.named_parameters():
        if name in weights:
            _copy(state, weights[name], p)
    return bool(weights)


@torch.no_grad()
def fill_moments(state: TrainingState, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Every parameter's state as it is stored, in place of what there was; `Start.check` came before."""
    moments = state.moments
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, p in zip(group["param_names"], group["params"]):
                optimizer.state.pop(p, None)
                if keys := moments.get(name):
                    optimizer.state[p] = {key: _entry(state, key, tensor, p) for key, tensor in keys.items()}


def _entry(state: TrainingState, key: str, tensor: str, p: torch.Tensor) -> torch.Tensor:
    if key == STEP:
        return state.whole(tensor).to(torch.float32)
    value = room(p, key)
    _copy(state, tensor, value)
    return value


def _copy(state: TrainingState, tensor: str, into: torch.Tensor) -> None:
    first, end = rows_of(into)
    values = state.read(tensor, first, end)
    check_finite(state, tensor, values, why="the run would be lost with its first step")
    local(into).copy_(values)
