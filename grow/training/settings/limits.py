"""The values that a setting may have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from grow.errors import BadInput, did_you_mean
from grow.training.settings.schedule import SCHEDULES, SHAPES

if TYPE_CHECKING:
    from grow.training.settings.run_settings import Settings

OPTIMIZERS = ("adamw", "adafactor", "muon")
TRACKERS = ("tensorboard", "trackio", "wandb")
RULES = ("uniform", "mup", "implied")
COMPUTE = ("float32", "bfloat16", "float64")
LARGEST = (1 << 63) - 1
FARTHEST = 1 << 62  # of a place in the text, which is a number of 64 bits with those of a step added
NUMBERS = {"lr": (1e-30, 1e30, "1e-4"), "weight_decay": (0.0, 1e6, "0.1"), "clip": (0.0, 1e30, "1")}
"""least, most and an example. Their products are numbers of 32 bits."""


def check(s: Settings) -> Settings:
    """BadInput for a setting that is none."""
    for name in ("batch", "length", "accumulate", "steps", "save_every", "eval_every", "log_every", "keep"):
        _number(name, getattr(s, name), 1)
    for name in ("warmup", "decay", "seed"):
        _number(name, getattr(s, name), 0)
    for name in ("skip", "begin"):
        _number(name, getattr(s, name), 0, FARTHEST)
    for name, (least, most, fix) in NUMBERS.items():
        value = getattr(s, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise bad(name, value, f"a number of {least:g} to {most:g}", f"{option(name)} {fix}")
    for name in ("documents", "freeze_old", "checkpointing", "compile", "tensorboard"):
        if not isinstance(getattr(s, name), bool):
            raise bad(name, getattr(s, name), "it is on or off", f"{name}=True")
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
        raise bad("accumulate", s.accumulate, why, f"a divisor of --batch {s.batch}")
    if s.rates != "uniform" and s.optimizer != "adamw":
        raise bad("rates", s.rates, f"it is a rule for AdamW, not for {s.optimizer}", "--optimizer adamw")
    if s.rewarm is not None and not (_pair(s.rewarm) and 0 < s.rewarm[0] < 100 and s.rewarm[1] >= 1):
        raise bad("rewarm", _shown(s.rewarm), "RATIO:STEPS, both above 0", "--rewarm 1.25:250")
    if s.plateau is not None and not (_pair(s.plateau) and s.plateau[0] >= 1 and math.isfinite(s.plateau[1])):
        raise bad("plateau", _shown(s.plateau), "STEPS:NATS, at least one step", "--plateau 200:0.01")
    return s


def steps_of(tokens: int, of_a_step: int) -> int:
    """Whole steps of at least so many tokens; BadInput when that is no number of tokens."""
    _number("tokens", tokens, 1)
    return -(-tokens // of_a_step)


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def bad(name: str, value: Any, why: str, fix: str) -> BadInput:
    return BadInput(f"{option(name)} {value}", what="cannot be", why=why, fix=fix)


def _number(name: str, value: Any, least: int, most: int = LARGEST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        why = f"a whole number of {least} and more" + (f", {most} at most" if _above(value, most) else "")
        raise bad(name, value, why, f"{option(name)} {max(least, 8)}")


def _above(value: Any, most: int) -> bool:
    return isinstance(value, int) and value > most


def _pair(value: Any) -> bool:
    """Whether it is two numbers."""
    numbers = (int, float)
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(x, numbers) for x in value)


def _shown(value: Any) -> str:
    return f"{value[0]}:{value[1]}" if isinstance(value, (tuple, list)) and len(value) == 2 else str(value)
