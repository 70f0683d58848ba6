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
MEANINGS = {
    "batch": "it counts the sequences of a step",
    "length": "it counts the tokens of a sequence",
    "accumulate": "it counts the parts that a step is computed in",
    "steps": "it counts optimizer steps",
    "tokens": "it counts the tokens to train on",
    "save_every": "it counts the steps between checkpoints",
    "eval_every": "it counts the steps between evaluations",
    "log_every": "it counts the steps between lines of the log",
    "keep": "it counts the checkpoints that stay",
    "warmup": "it counts the steps of the warm-up",
    "decay": "it counts the steps of the decay",
    "seed": "order, masks and dropout follow from it",
    "skip": "it counts the sequences of the text that were read before",
    "begin": "it counts the steps before this run",
    "lr": "it is the peak of the learning rate",
    "weight_decay": "every step takes so much, times the rate, from each weight",
    "clip": "it is the largest global norm of a gradient, and 0 is none",
    "rewarm": "new entries take RATIO times the rate at first",
    "plateau": "the run ends where the loss fell by less than NATS over STEPS steps",
}
"""Why a setting must be what it must be."""


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
    if s.rewarm is not None and not (_pair(s.rewarm) and 0 < s.rewarm[0] < 100 and s.rewarm[1] >= 1):
        raise bad("rewarm", _shown(s.rewarm), "RATIO:STEPS, both above 0", "--rewarm 1.25:250")
    if s.plateau is not None and not (_pair(s.plateau) and s.plateau[0] >= 1 and math.isfinite(s.plateau[1])):
        raise bad("plateau", _shown(s.plateau), "STEPS:NATS, at least one step", "--plateau 200:0.01")
    return s


def steps_of(tokens: int, of_a_step: int) -> int:
    """Whole steps of at least so many tokens; BadInput when that is not a number of tokens."""
    _number("tokens", tokens, 1)
    return -(-tokens // of_a_step)


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def bad(name: str, value: Any, wanted: str, fix: str, why: str = "") -> BadInput:
    """The error for a setting; `wanted` goes on behind "must be"."""
    why = why or MEANINGS.get(name, "no other value has a meaning here")
    return BadInput(f"{option(name)} {value}", what=f"must be {wanted}", why=why, fix=fix)


def _number(name: str, value: Any, least: int, most: int = LARGEST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        wanted = f"a whole number, {least} or more" + (f" and {most} at most" if _above(value, most) else "")
        raise bad(name, value, wanted, f"{option(name)} {max(least, 8)}")


def _above(value: Any, most: int) -> bool:
    return isinstance(value, int) and value > most


def _pair(value: Any) -> bool:
    """Whether it is two numbers."""
    numbers = (int, float)
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(x, numbers) for x in value)


def _shown(value: Any) -> str:
    return f"{value[0]}:{value[1]}" if isinstance(value, (tuple, list)) and len(value) == 2 else str(value)
