"""The settings that follow from the options: of a new run, of one that goes on with a schedule, of a resumed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from grow.errors import BadInput, no_such
from grow.training.settings.limits import bad, steps_of
from grow.training.settings.run_settings import Settings, check

FREE = {"save_every", "eval_every", "log_every", "keep", "tensorboard", "tracker", "checkpointing", "compile"}
"""What may change on resume: none of these is part of what is computed, beyond rounding."""
RATES = ("schedule", "steps", "warmup", "decay", "decay_shape")


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
