"""The values that a setting may have."""

from __future__ import annotations

from typing import Any

from grow.errors import BadInput

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


def steps_of(tokens: int, of_a_step: int) -> int:
    """Whole steps of at least so many tokens; BadInput when that is not a number of tokens."""
    check_number("tokens", tokens, 1)
    return -(-tokens // of_a_step)


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def bad(name: str, value: Any, wanted: str, fix: str, why: str = "") -> BadInput:
    """The error for a setting; `wanted` goes on behind "must be"."""
    why = why or MEANINGS.get(name, "no other value has a meaning here")
    return BadInput(f"{option(name)} {value}", what=f"must be {wanted}", why=why, fix=fix)


def check_number(name: str, value: Any, least: int, most: int = LARGEST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        wanted = f"a whole number, {least} or more" + (f" and {most} at most" if _above(value, most) else "")
        raise bad(name, value, wanted, f"{option(name)} {max(least, 8)}")


def _above(value: Any, most: int) -> bool:
    return isinstance(value, int) and value > most


def is_pair(value: Any) -> bool:
    """Whether it is two numbers."""
    numbers = (int, float)
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(x, numbers) for x in value)


def as_typed(value: Any) -> str:
    return f"{value[0]}:{value[1]}" if isinstance(value, (tuple, list)) and len(value) == 2 else str(value)


def rewarm_of(text: str) -> tuple[float, int] | None:
    """RATIO:STEPS as numbers, None for off; ValueError when they are none. RATIO alone is for 250 steps."""
    if text == "off":
        return None
    ratio, colon, steps = text.partition(":")
    return float(ratio), int(steps) if colon else 250


def plateau_of(text: str) -> tuple[int, float]:
    """STEPS:NATS as numbers; ValueError when they are none."""
    steps, _, nats = text.partition(":")
    return int(steps), float(nats)
