"""The values that a setting may have."""

from __future__ import annotations

from typing import Any

from grow.errors import BadInput
from grow.spelling import LARGEST, Pair, check_whole, option

OPTIMIZERS = ("adamw", "adafactor", "muon")
TRACKERS = ("tensorboard", "trackio", "wandb")
RULES = ("uniform", "mup", "implied")
COMPUTE = ("float32", "bfloat16", "float64")
FARTHEST = 1 << 62  # place in the text: with the sequences of a step added it is still a number of 64 bits
NUMBERS = {"lr": (1e-30, 1e30, 1e-4), "weight_decay": (0.0, 1e6, 0.1), "clip": (0.0, 1e30, 1.0)}
"""Setting -> the least, the most and an example. Products of two of them are numbers of 32 bits."""
PAIRS = {"rewarm": (1.25, 250), "plateau": (200, 0.01)}
"""Setting of two numbers -> an example."""
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
    "warmup": "it counts the steps of the warmup",
    "decay": "it counts the steps of the decay",
    "seed": "the order of the text, masks and dropout follow from it",
    "skip": "it counts the sequences of the text that were read before",
    "begin": "it counts the steps before this run",
    "lr": "it is the peak of the learning rate",
    "weight_decay": "every step takes this share, times the learning rate, from each weight",
    "clip": "it is the largest global norm of a gradient, and 0 sets no limit",
    "rewarm": "updates of new entries are multiplied by RATIO for STEPS steps",
    "plateau": "the run ends where the validation loss fell by less than NATS over STEPS steps",
}
"""Why a setting must be what it must be."""


def steps_of(tokens: int, tokens_per_step: int) -> int:
    """The number of whole steps that have at least `tokens` tokens; BadInput when that is not a number of tokens."""
    check_number("tokens", tokens, 1)
    return -(-tokens // tokens_per_step)


def bad(name: str, value: Any, wanted: str, fix: str, why: str = "") -> BadInput:
    """The error for a setting; `wanted` follows "must be"."""
    why = why or MEANINGS.get(name, "no other value has a meaning here")
    shown = Pair(value) if name in PAIRS and is_pair(value) else value
    return BadInput(option(**{name: shown}), what=f"must be {wanted}", why=why, fix=fix)


def check_number(name: str, value: Any, least: int, most: int = LARGEST) -> None:
    """BadInput unless it is a whole number from `least` to `most`."""
    check_whole(name, value, MEANINGS[name], least=least, most=most, example=max(least, 8))


def check_pair(name: str, value: Any, fits: bool, wanted: str) -> None:
    """BadInput unless it fits."""
    if not fits:
        raise bad(name, value, wanted, option(**{name: Pair(PAIRS[name])}))


def is_pair(value: Any) -> bool:
    """Whether it is two numbers."""
    several = isinstance(value, (tuple, list)) and len(value) == 2
    return several and all(isinstance(number, (int, float)) for number in value)


def rewarm_of(text: str) -> tuple[float, int] | None:
    """RATIO:STEPS as numbers, None for off; RATIO alone stands for 250 steps. ValueError for any other text."""
    if text == "off":
        return None
    ratio, colon, steps = text.partition(":")
    return float(ratio), int(steps) if colon else 250


def plateau_of(text: str) -> tuple[int, float]:
    """STEPS:NATS as numbers; ValueError for any other text."""
    steps, _, nats = text.partition(":")
    return int(steps), float(nats)
