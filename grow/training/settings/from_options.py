"""The settings that follow from the options: of a new run, of one that goes on with a schedule, of a resumed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from grow.errors import BadInput, no_such
from grow.spelling import LARGEST, Pair, left_out, option
from grow.training.settings.limits import PAIRS, bad, check_number, steps_of
from grow.training.settings.run_settings import Settings, check

FREE = {"save_every", "eval_every", "log_every", "keep", "tensorboard", "tracker", "checkpointing", "compile"}
"""Settings that may change when a run is resumed: none of them changes what is computed, beyond rounding."""
RATES = ("schedule", "steps", "warmup", "decay", "decay_shape")


def settings_of(given: Mapping[str, Any], tokens: int | None, length: int) -> Settings:
    """The settings of a new run; `length` where none is given, `tokens` as steps.

    Unless they are given, `warmup` is a tenth and `decay` a fifth of the steps.
    """
    _known(given)
    settings = replace(Settings(), **{"length": length, **given})
    if tokens is not None:
        _refuse_both(tokens, given)
        settings = replace(settings, steps=_steps(tokens, settings))
    check_number("steps", settings.steps, 1)
    shares: dict[str, Any] = {"warmup": settings.steps // 10, "decay": settings.steps // 5}
    return check(replace(settings, **{name: n for name, n in shares.items() if name not in given}))


def continued(
    stored: Settings | None, step: int, given: Mapping[str, Any], tokens: int | None, length: int
) -> Settings:
    """The settings of a new run that counts on from `step` of another one and goes on with its schedule: its peak,
    shape and lengths, unless they are given. BadInput where an earlier step would have had another share of the peak.

    stored  the settings of the run before, None where it was not `grow train`: then the schedule has to be given
    tokens  the tokens of the new run alone
    """
    continues = option(continue_schedule=True)
    _known(given)
    if "begin" in given:
        raise bad("begin", given["begin"], "left out", continues, "it follows from the training state")
    if stored is None and tokens is None and "steps" not in given:
        schedule = ", ".join(map(option, ("schedule", "warmup", "decay")))
        raise BadInput(
            continues,
            what="needs the schedule, because the checkpoint is a Trainer's",
            why="a Trainer's schedule is a function in its program, and no file says which",
            fix=f"give {option('steps')} in all, {schedule} and {option('lr')}, or {left_out('continue_schedule')}",
        )
    inherited = {name: getattr(stored, name) for name in (*RATES, "lr")} if stored else {"warmup": 0}
    wanted = replace(Settings(), **{"length": length, **inherited, **given, "begin": step})
    if tokens is not None:
        _refuse_both(tokens, given)
        wanted = replace(wanted, steps=step + _steps(tokens, wanted))
    if stored is None and "decay" not in given:
        wanted = replace(wanted, decay=max(0, wanted.steps - step) // 5)
    if wanted.steps <= step:
        what = f"the training state is that after step {step}, and the run ends with step {wanted.steps}"
        raise BadInput(continues, what=what, why="no step is left", fix=f"{option('steps')} above {step}")
    wanted = check(wanted)
    if stored is not None and any(wanted.share(k) != stored.share(k) for k in range(step)):
        moved = [name for name in RATES if getattr(wanted, name) != getattr(stored, name)]
        raise BadInput(
            continues,
            what=f"a change of {', '.join(moved)} would have given the {step} steps so far other learning rates",
            why="one schedule goes on; another one begins at its first step",
            fix=f"a checkpoint from before the decay, a larger {option('steps')} alone, or "
            f"{left_out('continue_schedule')}",
        )
    return wanted


def resumed(stored: Settings, given: Mapping[str, Any], tokens: int | None, done: int) -> Settings:
    """The settings of a run that is resumed after `done` steps. BadInput names a setting that differs from what the
    run was begun with and may not change.

    The schedule may change as long as no step so far would have had another learning rate: a stable phase may be
    prolonged, unless a plateau may have ended it.
    """
    _known(given)
    given = dict(given)
    if tokens is not None:
        given["steps"] = stored.begin + _steps(tokens, stored)
    wanted = check(replace(stored, **given))
    differing = [f.name for f in fields(Settings) if getattr(wanted, f.name) != getattr(stored, f.name)]
    schedule = [name for name in differing if name in RATES]
    if schedule and stored.plateau is None and all(wanted.rate(step) == stored.rate(step) for step in range(done)):
        differing = [name for name in differing if name not in RATES]
    for name in differing:
        if name not in FREE:
            raise refuse_change(name, getattr(stored, name), getattr(wanted, name), done)
    return wanted


def refuse_change(name: str, before: Any, now: Any, done: int) -> BadInput:
    """The error for an option that a resumed run must have as it was."""
    before, now = (Pair(value) if name in PAIRS else value for value in (before, now))
    return began_otherwise(option(**{name: now}), option(**{name: before}), done)


def began_otherwise(now: str, before: str, done: int) -> BadInput:
    """The error for something that differs from what the run was begun with; both in words."""
    return BadInput(
        f"{option(resume=True)}: {now}",
        what=f"the run was begun with {before}",
        why=f"after {done} steps the curve would belong to neither",
        fix=f"leave it as it was, or begin a new run from the checkpoint: {option(src='RUN/step-…')}",
    )


def _refuse_both(tokens: Any, given: Mapping[str, Any]) -> None:
    """BadInput where the length of a run is given twice."""
    if "steps" in given:
        raise BadInput(
            option(tokens=tokens),
            what=f"is given beside {option(steps=given['steps'])}",
            why="each of them follows from the other",
            fix="give one of them",
        )


def _steps(tokens: int, s: Settings) -> int:
    """The number of whole steps that have at least `tokens` tokens."""
    check(replace(s, steps=LARGEST))  # warmup and decay have to fit into the steps that are found here
    return steps_of(tokens, s.batch * s.length)


def _known(given: Mapping[str, Any]) -> None:
    names = [f.name for f in fields(Settings)]
    for name in given:
        if name not in names:
            what = no_such("setting", name, names)
            raise BadInput(option(name), what=what, why="settings: " + ", ".join(names), fix="check the spelling")
