"""What a new run takes over from the training state beside its weights.

    moments    of every parameter, where the optimizer is the same
    weights    in full precision, where the state has them: the checkpoint's own may be rounded to 16 bits
    position   `skip`: the order of the text goes on, where text, seed, length and shares are the same
    schedule   with `continue_schedule`: `begin`; steps, learning rates, masks and dropout are counted on

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
from grow.spelling import Either, left_out, option
from grow.training.settings.from_options import continued
from grow.training.settings.run_settings import Settings
from grow.training.sharding import local, rows_of
from grow.training.step.sharded_optimizers import room

CHOICES = ("carry", "drop")
ROUNDED = {"BF16": 2.0**-6, "F16": 2.0**-9, "F32": 2.0**-20, "F64": 2.0**-20}
"""How far stored weights may be from the state's, relative to the largest of a tensor: a little more than rounding."""


class Start:
    """What a new run begins from beside its weights.

    state  the training state; None: the optimizer begins anew
    exact  whether the weights are now those of the state, in full precision
    """

    def __init__(self, state: TrainingState | None = None) -> None:
        self.state, self.exact = state, False
        self.notes = list(state.notes) if state is not None else []

    def document(self) -> dict[str, Any] | None:
        """What run.json and train.json say of it."""
        return self.state.carried.document() if self.state is not None else None

    def continued(self, given: Mapping[str, Any], tokens: int | None, length: int) -> Settings:
        """The settings with which the schedule of the state goes on."""
        if self.state is None:
            what, why = "there is no training state", "a schedule goes on from the step of a training state"
            raise BadInput(option(continue_schedule=True), what=what, why=why, fix=left_out("continue_schedule"))
        c = self.state.carried
        return continued(Settings.from_document(c.settings) if c.settings else None, c.step, given, tokens, length)

    def check(self, settings: Settings) -> None:
        """BadInput unless the run has the optimizer that the state belongs to."""
        if self.state is None:
            return
        written_by = self.state.carried.optimizers
        amsgrad = any("max_exp_avg_sq" in keys for keys in self.state.moments.values())
        if written_by == CLASSES[settings.optimizer] and not amsgrad:
            return
        same = next((name for name, classes in CLASSES.items() if classes == written_by and not amsgrad), None)
        kind = f"{' and '.join(written_by)}{' with amsgrad' if amsgrad else ''}"
        raise BadInput(
            option(optimizer=settings.optimizer),
            what=f"the training state of {self.state.path} belongs to {kind}",
            why="what one optimizer remembers means nothing to another",
            fix=(f"{option(optimizer=same)}, or " if same else "") + f"{option(state='drop')} begins with a fresh one",
        )

    def placed(self, settings: Settings, data: Sequence[Mapping[str, Any]], objective: str) -> Settings:
        """The settings with the place that the earlier run had come to, if the text is the same.

        data  "tokens" (sha256) and "weight" of each corpus
        """
        if self.state is None:
            return settings
        c = self.state.carried
        if c.settings is None or c.seen is None:
            self.notes.append(
                "the text is read from its beginning, because a Trainer does not record its place; "
                f"{option('skip')} says how many sequences were read"
            )
            return settings
        before = {**_text(c.data, c.objective), **{name: c.settings[name] for name in ("seed", "length")}}
        now = {**_text(data, objective), **{name: getattr(settings, name) for name in ("seed", "length")}}
        if other := [name for name in now if now[name] != before[name]]:
            self.notes.append(f"the text is read from its beginning: another {', '.join(other)} than before")
            return settings
        self.notes.append(f"reading goes on after {c.seen:,} sequences")
        return replace(settings, skip=c.seen)

    def fill(
        self, model: Any, optimizers: Iterable[torch.optim.Optimizer], checkpoint: Checkpoint, world: World
    ) -> None:
        """Fill model and optimizers with the state, each process its own rows. BadInput where the checkpoint's weights
        were changed after the state was written: the run would go on without the change."""
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
        self.notes.append(f"continues from the training state after step {c.step:,}: {kept}")


def open_start(path: Path, policy: str | None, trust: bool) -> Start:
    """What a run in a folder begins from: its training state, unless there is none or it is to be dropped. BadInput
    where it is to be carried along and there is none."""
    if policy not in (None, *CHOICES):
        raise BadInput(
            option(state=policy),
            what=no_such("choice", policy, CHOICES) if isinstance(policy, str) else "no such choice",
            why="training takes the state beside the weights as it is, or leaves it; how it grows is said when growing",
            fix=option(state=Either(CHOICES)),
        )
    state = None if policy == "drop" else open_state(path, trust=trust)
    if state is None and policy == "carry":
        raise BadInput(
            option(state="carry"),
            what=f"{path} has no training state",
            why="the optimizer would begin anew",
            fix=f"the checkpoint of a run, or one that has grown from it; or {left_out('state')}",
        )
    return Start(state)


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
    """BadInput unless a growth's weights are what it wrote. They need not be the state's, rounded: where copies share a
    weight by a draw, each dtype has its own."""
    record = read_record(checkpoint.path)
    for name, info in checkpoint.tensors.items() if record is not None else ():
        if checkpoint.sha256(info) != record.tensors.get(name):  # type: ignore[union-attr]
            raise _changed(checkpoint, name, "was changed after the training state beside it was written")


def _changed(checkpoint: Checkpoint, name: str, what: str) -> BadInput:
    return BadInput(
        f"{checkpoint.path}: {name}",
        what=what,
        why="the run would go on from the state's weights, and the change would be lost",
        fix=f"{option(state='drop')} goes on from these weights with a fresh optimizer, or bring the old ones back",
    )


@torch.no_grad()
def fill_weights(state: TrainingState, model: Any) -> bool:
    """Fill this process's rows of the model with the weights of the state; whether it has any."""
    weights = state.weights
    for name, p in model.named_parameters():
        if name in weights:
            _copy(state, weights[name], p)
    return bool(weights)


@torch.no_grad()
def fill_moments(state: TrainingState, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Fill every parameter's optimizer state as it is stored; `Start.check` came before."""
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
