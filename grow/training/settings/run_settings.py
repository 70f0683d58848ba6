"""The settings of a run, and which of them may change when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean, no_such
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
    steps_of,
)
from grow.training.settings.schedule import SCHEDULES, SHAPES, rate

FREE = {"save_every", "eval_every", "log_every", "keep", "tensorboard", "tracker", "checkpointing", "compile"}
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


def settings_of(given: Mapping[str, Any], tokens: int | None, length: int) -> Settings:
    """Settings from the options that were given; `length` where none is, `tokens` as steps.

    Without `warmup` and `decay`: a tenth and a fifth of the steps.
    """
    _known(given)
    settings = replace(Settings(), **{"length": length, **given})
    if tokens is not None:
        if "steps" in given:
            raise BadInput("--tokens", what="given with --steps", why="one follows from the other", fix="give one")
        settings = replace(settings, steps=_steps(tokens, settings))
    shares: dict[str, Any] = {"warmup": settings.steps // 10, "decay": settings.steps // 5}
    return check(replace(settings, **{name: n for name, n in shares.items() if name not in given}))


def continued(
    stored: Settings | None, step: int, given: Mapping[str, Any], tokens: int | None, length: int
) -> Settings:
    """Settings of a new run that counts on from `step` of another one, whose schedule goes on: its peak, shape and
    lengths unless they are given. BadInput where a step before would have had another share of the peak.

    stored  of the run before, None where it was not `grow train`: then the schedule has to be given
    tokens  of the new run alone
    """
    _known(given)
    if "begin" in given:
        raise bad("begin", given["begin"], "left out", "--continue-schedule", "it follows from the state")
    if stored is None and tokens is None and "steps" not in given:
        fix = "--steps in all, with --schedule, --warmup, --decay and --lr, or without --continue-schedule"
        why = "a Trainer's schedule is a function in its program, and no file says which"
        raise BadInput("--continue-schedule", what="of a Trainer's checkpoint needs the schedule", why=why, fix=fix)
    inherited = {name: getattr(stored, name) for name in (*RATES, "lr")} if stored else {"warmup": 0}
    wanted = replace(Settings(), **{"length": length, **inherited, **given, "begin": step})
    if tokens is not None:
        if "steps" in given:
            raise BadInput("--tokens", what="given with --steps", why="one follows from the other", fix="give one")
        wanted = replace(wanted, steps=step + _steps(tokens, wanted))
    if stored is None and "decay" not in given:
        wanted = replace(wanted, decay=max(0, wanted.steps - step) // 5)
    if wanted.steps <= step:
        what = f"the state is behind step {step}, and the run ends with step {wanted.steps}"
        raise BadInput("--continue-schedule", what=what, why="no step is left", fix=f"--steps above {step}")
    wanted = check(wanted)
    if stored is not None and any(wanted.share(k) != stored.share(k) for k in range(step)):
        changed = [name for name in RATES if getattr(wanted, name) != getattr(stored, name)]
        raise BadInput(
            "--continue-schedule",
            what=f"with another {', '.join(changed)} the {step} steps so far would have had other rates",
            why="what goes on is a schedule; another one begins at its first step",
            fix="a checkpoint from before the decay, a larger --steps alone, or without --continue-schedule",
        )
    return wanted


def resumed(stored: Settings, given: Mapping[str, Any], tokens: int | None, done: int) -> Settings:
    """The settings of a run that continues after `done` steps: what was given now must be what it was then, unless
    it may change. BadInput names the field.

    The schedule may change as long as no step so far would have had another rate: a stable phase may be prolonged,
    but not one that a plateau may have ended.
    """
    _known(given)
    given = dict(given)
    if tokens is not None:
        given["steps"] = stored.begin + _steps(tokens, stored)
    wanted = check(replace(stored, **given))
    changed = [f.name for f in fields(Settings) if getattr(wanted, f.name) != getattr(stored, f.name)]
    schedule = [name for name in changed if name in RATES]
    if schedule and stored.plateau is None and all(wanted.rate(step) == stored.rate(step) for step in range(done)):
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


def _steps(tokens: int, s: Settings) -> int:
    """Whole steps of at least so many tokens."""
    check(replace(s, steps=(1 << 63) - 1))  # a warm-up and a decay have to fit into what is found here
    return steps_of(tokens, s.batch * s.length)


def _known(given: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(Settings)]
    for name in given:
        if name not in names:
            what = no_such("setting", name, names)
            raise BadInput(name, what=what, why="settings: " + ", ".join(names), fix="check the spelling")
