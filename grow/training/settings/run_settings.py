"""The settings of a run: all that it is a function of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean
from grow.training.settings.limits import (
    COMPUTE,
    FARTHEST,
    NUMBERS,
    OPTIMIZERS,
    RULES,
    TRACKERS,
    as_typed,
    bad,
    check_number,
    is_pair,
    option,
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
    dtype          of the computation; weights, gradients and moments are float32 (float64 with float64)
    rewarm         (ratio, steps) of the updates of new entries, see `schedule.rewarm`
    rates          one for all, or by what the growth did to a parameter, see `grow.training.after_growth.rates`
    freeze_old     entries that a growth carried over keep their bits
    plateau        (steps, nats): the run ends early, see `grow.training.log.plateau`
    documents      tokens see their own document only
    tracker        wandb, trackio or tensorboard: where the metrics go as well
    keep           how many checkpoints stay; one with a file KEEP in it always stays
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
        """Of the peak."""
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
        """KeyError, TypeError or ValueError when it is none."""
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
    """BadInput for a setting that is none."""
    for name in ("batch", "length", "accumulate", "steps", "save_every", "eval_every", "log_every", "keep"):
        check_number(name, getattr(s, name), 1)
    for name in ("warmup", "decay", "seed"):
        check_number(name, getattr(s, name), 0)
    for name in ("skip", "begin"):
        check_number(name, getattr(s, name), 0, FARTHEST)
    for name, (least, most, fix) in NUMBERS.items():
        value = getattr(s, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise bad(name, value, f"a number from {least:g} to {most:g}", f"{option(name)} {fix}")
    for name in ("documents", "freeze_old", "checkpointing", "compile", "tensorboard"):
        if not isinstance(getattr(s, name), bool):
            raise bad(name, getattr(s, name), "on or off", f"{name}=True")
    for name, known in (
        ("schedule", SCHEDULES),
        ("decay_shape", SHAPES),
        ("optimizer", OPTIMIZERS),
        ("dtype", COMPUTE),
        ("tracker", ("", *TRACKERS)),
        ("rates", RULES),
    ):
        if getattr(s, name) not in known:
            hint = did_you_mean(str(getattr(s, name)), known)
            names = [n for n in known if n]
            raise bad(name, getattr(s, name), f"one of {', '.join(names)}", hint or f"{option(name)} {names[0]}")
    if s.warmup > s.steps or (s.schedule == "wsd" and s.warmup + s.decay > s.steps):
        what = f"{s.warmup} steps of warm-up and {s.decay} of decay, of {s.steps}"
        raise BadInput("--warmup", what=what, why="they are parts of the run", fix="fewer of them, or more --steps")
    if s.batch % s.accumulate:
        why = "every part of an accumulated batch has as many sequences"
        raise bad("accumulate", s.accumulate, f"a divisor of --batch {s.batch}", "--accumulate 1", why)
    if s.rates != "uniform" and s.optimizer != "adamw":
        raise bad(
            "rates",
            s.rates,
            f"uniform with --optimizer {s.optimizer}",
            "--optimizer adamw",
            f"it is a rule for AdamW, not for {s.optimizer}",
        )
    if s.rewarm is not None and not (is_pair(s.rewarm) and 0 < s.rewarm[0] < 100 and s.rewarm[1] >= 1):
        raise bad("rewarm", as_typed(s.rewarm), "RATIO:STEPS, both above 0", "--rewarm 1.25:250")
    if s.plateau is not None and not (is_pair(s.plateau) and s.plateau[0] >= 1 and math.isfinite(s.plateau[1])):
        raise bad("plateau", as_typed(s.plateau), "STEPS:NATS, at least one step", "--plateau 200:0.01")
    return s


@dataclass(frozen=True)
class Training:
    """A finished or interrupted run.

    path        the run's folder
    checkpoint  the last checkpoint in it
    step        optimizer steps so far, of `settings.steps`
    loss        of the last step; val_loss: of the last evaluation, None without validation text
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
