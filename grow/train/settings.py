"""The settings of a run, and which of them may change when it is resumed. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean
from grow.train.schedule import SCHEDULES, SHAPES, rate

OPTIMIZERS = ("adamw", "adafactor", "muon")
COMPUTE = ("float32", "bfloat16", "float64")
FREE = frozenset({"save_every", "eval_every", "log_every", "keep", "tensorboard", "checkpointing", "compile"})
"""What may change on resume: none of these is part of what is computed, beyond rounding."""
RATES = ("schedule", "steps", "warmup", "decay", "decay_shape")


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
    freeze_old     entries that a growth carried over keep their bits
    documents      tokens see their own document only
    keep           how many checkpoints stay; one with a file KEEP in it always stays
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
    seed: int = 0
    checkpointing: bool = False
    compile: bool = False
    save_every: int = 100
    eval_every: int = 50
    log_every: int = 10
    keep: int = 2
    tensorboard: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        share = rate(
            step,
            schedule=self.schedule,
            steps=self.steps,
            warmup=self.warmup,
            decay=self.decay,
            shape=self.decay_shape,
        )
        return self.lr * share

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "rewarm": list(self.rewarm) if self.rewarm else None}

    @classmethod
    def from_document(cls, stored: Mapping[str, Any]) -> Settings:
        """KeyError, TypeError or ValueError when it is none."""
        names = {f.name for f in fields(cls)}
        if set(stored) != names:
            raise ValueError(f"settings: {sorted(names ^ set(stored))}")
        rewarm = stored["rewarm"]
        return check(cls(**{**stored, "rewarm": None if rewarm is None else (float(rewarm[0]), int(rewarm[1]))}))


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


def settings_of(given: Mapping[str, Any], tokens: int | None, length: int) -> Settings:
    """Settings from the options that were given; `length` where none is, `tokens` as steps.

    Without `warmup` and `decay`: a tenth and a fifth of the steps.
    """
    _known(given)
    settings = replace(Settings(), **{"length": length, **given})
    if tokens is not None:
        if "steps" in given:
            raise BadInput("--tokens", what="given with --steps", why="one follows from the other", fix="give one")
        check(settings)
        settings = replace(settings, steps=max(1, math.ceil(tokens / (settings.batch * settings.length))))
    shares: dict[str, Any] = {"warmup": settings.steps // 10, "decay": settings.steps // 5}
    return check(replace(settings, **{name: n for name, n in shares.items() if name not in given}))


def resumed(stored: Settings, given: Mapping[str, Any], tokens: int | None, done: int) -> Settings:
    """The settings of a run that continues after `done` steps: what was given now must be what it was then, unless
    it may change. BadInput names the field.

    The schedule may change as long as no step so far would have had another rate: a stable phase may be prolonged.
    """
    _known(given)
    given = dict(given)
    if tokens is not None:
        given["steps"] = max(1, math.ceil(tokens / (stored.batch * stored.length)))
    wanted = check(replace(stored, **given))
    changed = [f.name for f in fields(Settings) if getattr(wanted, f.name) != getattr(stored, f.name)]
    schedule = [name for name in changed if name in RATES]
    if schedule and all(wanted.rate(step) == stored.rate(step) for step in range(done)):
        changed = [name for name in changed if name not in RATES]
    for name in changed:
        if name not in FREE:
            raise refuse_change(name, getattr(stored, name), getattr(wanted, name), done)
    return wanted


def refuse_change(name: str, before: Any, now: Any, done: int) -> BadInput:
    return BadInput(
        f"--resume: {name}",
        what=f"is {now}, and the run was begun with {before}",
        why=f"after {done} steps the curve would be that of neither",
        fix=f"leave {name} as it was, or begin a new run from the checkpoint: --from RUN/step-…",
    )


def check(s: Settings) -> Settings:
    """BadInput for a setting that is none."""
    for name in ("batch", "length", "accumulate", "steps", "save_every", "eval_every", "log_every", "keep"):
        _number(name, getattr(s, name), 1)
    for name in ("warmup", "decay", "seed"):
        _number(name, getattr(s, name), 0)
    for name in ("lr", "weight_decay", "clip"):
        value = getattr(s, name)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0 or (name == "lr" and not value):
            raise _bad(name, value, "a finite number of 0 and more; a rate is above 0", "--lr 1e-4")
    for name, known in (
        ("schedule", SCHEDULES),
        ("decay_shape", SHAPES),
        ("optimizer", OPTIMIZERS),
        ("dtype", COMPUTE),
    ):
        if getattr(s, name) not in known:
            hint = did_you_mean(str(getattr(s, name)), known)
            raise _bad(name, getattr(s, name), f"one of {', '.join(known)}", hint or f"{option(name)} {known[0]}")
    if s.warmup > s.steps or (s.schedule == "wsd" and s.warmup + s.decay > s.steps):
        what = f"{s.warmup} steps of warm-up and {s.decay} of decay, of {s.steps}"
        raise BadInput("--warmup", what=what, why="they are parts of the run", fix="fewer of them, or more --steps")
    if s.batch % s.accumulate:
        why = "every part of an accumulated batch has as many sequences"
        raise _bad("accumulate", s.accumulate, why, f"a divisor of --batch {s.batch}")
    if s.rewarm is not None and not (0 < s.rewarm[0] < 100 and s.rewarm[1] >= 1):
        raise _bad("rewarm", f"{s.rewarm[0]}:{s.rewarm[1]}", "RATIO:STEPS, both above 0", "--rewarm 1.25:250")
    return s


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 63:
        raise _bad(name, value, f"a whole number of {least} and more", f"{option(name)} {max(least, 8)}")


def _bad(name: str, value: Any, why: str, fix: str) -> BadInput:
    return BadInput(f"{option(name)} {value}", what="cannot be", why=why, fix=fix)


def _known(given: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(Settings)]
    for name in given:
        if name not in names:
            what = f"no such setting {did_you_mean(name, names)}".rstrip()
            raise BadInput(name, what=what, why="settings: " + ", ".join(names), fix="check the spelling")
