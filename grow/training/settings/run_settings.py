"""The settings of a run: all that it is a function of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean
from grow.spelling import check_flags, option
from grow.training.settings.limits import (
    COMPUTE,
    FARTHEST,
    NUMBERS,
    OPTIMIZERS,
    RULES,
    TRACKERS,
    bad,
    check_number,
    check_pair,
    is_pair,
)
from grow.training.settings.schedule import SCHEDULES, SHAPES, rate


@dataclass(frozen=True)
class Settings:
    """Everything a run is a function of, JSON-ready.

    batch          sequences of a step, over all processes; computed in `accumulate` parts
    length         tokens of a sequence
    lr             the peak; `schedule`, `warmup` and `decay` (steps) say the share of it
    weight_decay   on matrices only: not on norms, biases and embeddings
    clip           largest global norm of a gradient; 0: no limit
    dtype          the dtype of the computation; weights, gradients and moments are float32 (float64 with float64)
    rewarm         (ratio, steps) of the updates of new entries, see `schedule.rewarm`
    rates          whether parameters learn at one rate, or by what a growth did to them: `training.after_growth.rates`
    freeze_old     keep the bits of the entries that a growth carried over
    plateau        (steps, nats): the run ends early, see `grow.training.log.plateau`
    documents      let tokens attend to their own document only
    tracker        wandb, trackio or tensorboard: where else the metrics go
    keep           how many checkpoints stay; one that holds a file KEEP always stays
    skip           sequences of the data's order that were read before the first step
    begin          number of the first step: the schedule, masks and dropout go on from there
    """

    batch: int = 8
    length: int = 0  # 0: what the model takes, 512 at most
    accumulate: int = 1
    steps: int = 100
    lr: float = 1e-4
    schedule: str = "wsd"
    warmup: int = 10
    decay: int = 20
    decay_shape: str = "sqrt"
    weight_decay: float = 0.1
    clip: float = 1.0
    optimizer: str = "adamw"
    dtype: str = "float32"
    documents: bool = False
    rewarm: tuple[float, int] | None = None
    freeze_old: bool = False
    rates: str = "uniform"
    plateau: tuple[int, float] | None = None
    seed: int = 0
    checkpointing: bool = False
    compile: bool = False
    save_every: int = 100
    eval_every: int = 50
    log_every: int = 10
    keep: int = 2
    tensorboard: bool = False
    tracker: str = ""
    skip: int = 0
    begin: int = 0

    @property
    def seen(self) -> int:
        """Sequences of the data's order that come before step 0, negative where steps are counted on."""
        return self.skip - self.begin * self.batch

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.lr * self.share(step)

    def share(self, step: int) -> float:
        """The share of the peak that a step has."""
        return rate(
            step,
            schedule=self.schedule,
            steps=self.steps,
            warmup=self.warmup,
            decay=self.decay,
            shape=self.decay_shape,
        )

    def document(self) -> dict[str, Any]:
        pairs = {name: list(pair) if (pair := getattr(self, name)) else None for name in ("rewarm", "plateau")}
        return {**asdict(self), **pairs}

    @classmethod
    def from_document(cls, stored: Mapping[str, Any]) -> Settings:
        """The settings that a document holds; KeyError, TypeError or ValueError when it holds none."""
        names = {f.name for f in fields(cls)}
        if set(stored) != names:
            raise ValueError(f"settings: {sorted(names ^ set(stored))}")
        rewarm, plateau = stored["rewarm"], stored["plateau"]
        pairs: dict[str, Any] = {
            "rewarm": None if rewarm is None else (float(rewarm[0]), int(rewarm[1])),
            "plateau": None if plateau is None else (int(plateau[0]), float(plateau[1])),
        }
        return check(cls(**{**stored, **pairs}))


def check(s: Settings) -> Settings:
    """The settings; BadInput for a value that a setting cannot have."""
    for name in ("batch", "length", "accumulate", "steps", "save_every", "eval_every", "log_every", "keep"):
        check_number(name, getattr(s, name), 1)
    for name in ("warmup", "decay", "seed"):
        check_number(name, getattr(s, name), 0)
    for name in ("skip", "begin"):
        check_number(name, getattr(s, name), 0, FARTHEST)
    for name, (least, most, example) in NUMBERS.items():
        value = getattr(s, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise bad(name, value, f"a number from {least:g} to {most:g}", option(**{name: example}))
    for name in ("documents", "freeze_old", "checkpointing", "compile", "tensorboard"):
        check_flags(**{name: getattr(s, name)})
    for name, known in (
        ("schedule", SCHEDULES),
        ("decay_shape", SHAPES),
        ("optimizer", OPTIMIZERS),
        ("dtype", COMPUTE),
        ("tracker", ("", *TRACKERS)),
        ("rates", RULES),
    ):
        if getattr(s, name) not in known:
            names = [choice for choice in known if choice]
            hint = did_you_mean(getattr(s, name), names) if isinstance(getattr(s, name), str) else ""
            raise bad(name, getattr(s, name), f"one of {', '.join(names)}", hint or option(**{name: names[0]}))
    if s.warmup > s.steps or (s.schedule == "wsd" and s.warmup + s.decay > s.steps):
        raise BadInput(
            option(warmup=s.warmup),
            what=f"{s.warmup} steps of warmup and {s.decay} of decay do not fit into {s.steps} steps",
            why="both are parts of the run",
            fix=f"a smaller {option('warmup')} or {option('decay')}, or more {option('steps')}",
        )
    if s.batch % s.accumulate:
        why = "every part of an accumulated batch has as many sequences"
        raise bad("accumulate", s.accumulate, f"a divisor of {option(batch=s.batch)}", option(accumulate=1), why)
    if s.rates != "uniform" and s.optimizer != "adamw":
        raise bad(
            "rates",
            s.rates,
            f"uniform with {option(optimizer=s.optimizer)}",
            option(optimizer="adamw"),
            f"it is a rule for AdamW, not for {s.optimizer}",
        )
    if s.rewarm is not None:
        fits = is_pair(s.rewarm) and 0 < s.rewarm[0] < 100 and s.rewarm[1] >= 1
        check_pair("rewarm", s.rewarm, fits, "a ratio and a number of steps (RATIO:STEPS), both above 0")
    if s.plateau is not None:
        fits = is_pair(s.plateau) and s.plateau[0] >= 1 and math.isfinite(s.plateau[1])
        check_pair("plateau", s.plateau, fits, "a number of steps and a loss (STEPS:NATS), at least one step")
    return s


@dataclass(frozen=True)
class Training:
    """A finished or interrupted run.

    path        the run's folder
    checkpoint  the last checkpoint in it
    step        optimizer steps so far, of `settings.steps`
    loss        the loss of the last step; val_loss: that of the last evaluation, None without validation text
    stopped     the signal that ended the run early, or ""
    """

    path: Path
    checkpoint: Path
    step: int
    tokens: int
    loss: float | None
    val_loss: float | None
    seconds: float
    settings: Settings
    stopped: str = ""
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "schema": 1,
            **{k: v for k, v in asdict(self).items() if k not in ("settings", "notes")},
            "path": str(self.path),
            "checkpoint": str(self.checkpoint),
            "settings": self.settings.document(),
            "notes": list(self.notes),
        }
