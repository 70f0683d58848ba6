"""The keys of a recipe, and the type of value that each takes.

The options of a command are read off its function, those of `grow train` off its settings: neither is listed twice.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from grow import api
from grow.errors import BadInput, GrowError, did_you_mean
from grow.growth.file_options import parse_size
from grow.notation.dtypes import CODES
from grow.optimizer.dual_rule import POLICIES
from grow.planning.change import ROUTES
from grow.planning.choose_maps import NEW_TOKENS
from grow.planning.layers import FILLS, PLACES, is_place
from grow.planning.methods import METHODS
from grow.planning.tensor import SPLITS
from grow.spelling import Pair, option
from grow.training.settings.limits import PAIRS, plateau_of, rewarm_of
from grow.training.settings.run_settings import Settings, check
from grow.verification.rungs import RUNG_OF, RUNGS

Check = Callable[[Any], str]  # says what is wrong with a value, "" when nothing is
CARRIED = ("carry", "drop")  # as in grow.training.begin.from_state, which imports torch


@dataclass(frozen=True)
class Key:
    """A key of a recipe. `default` is the value of a missing one; a needed one may not be missing."""

    check: Check
    default: Any = None
    needed: bool = False


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False) -> Check:
    wanted = f"a {'whole ' if whole else ''}number" + (f", {low:g} or more" if low > -math.inf else "")

    def check(value: Any) -> str:
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        return "" if fits and low <= value <= high else f"must be {wanted}"

    return check


def text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() and value.isprintable() else "must be a text"


def flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return ""
        return f"must be one of {', '.join(choices)}; {did_you_mean(shown(value), choices)}".rstrip("; ")

    return check


def texts(value: Any) -> str:
    fits = isinstance(value, list) and value and not any(map(text, value))
    return "" if fits or not text(value) else "must be a text or a list of texts"


def rungs(value: Any) -> str:
    known = [*RUNGS, *RUNG_OF]
    if not isinstance(value, list) or not value:
        return "must be a list of rungs"
    bad = next((name for name in value if name not in known), None)
    return "" if bad is None else f"{shown(bad)} is not a rung; {did_you_mean(shown(bad), known)}".rstrip("; ")


def sizes(value: Any) -> str:
    """A target in words, or fields with their sizes."""
    if not isinstance(value, Mapping):
        return text(value) and "must be a target in words, or a table of fields"
    bad = next((name for name, size in value.items() if number(1, 1 << 40, whole=True)(size)), None)
    return "" if value and bad is None else f"{bad} must be a whole number, 1 or more" if bad else "it is empty"


def table(value: Any) -> str:
    fits = isinstance(value, Mapping) and not any(text(item) for item in value.values())
    return "" if fits else 'must be a table of texts: {ffn = "copies"}'


def place(value: Any) -> str:
    """Where new layers go: how it is written; whether the model has these layers is known when it is planned."""
    layers = isinstance(value, list) and not any(map(number(0, 1 << 31, whole=True), value))
    return "" if layers or (not text(value) and is_place(value)) else f"must be one of {', '.join(PLACES)}"


def setting(name: str) -> Check:
    """The check of a train setting: the one of `Settings`, applied to this setting alone."""
    kind = type(getattr(Settings(), name))
    parse = {"rewarm": rewarm_of, "plateau": plateau_of}.get(name)

    def check_alone(value: Any) -> str:
        if kind is bool:
            return flag(value)
        if parse is not None and text(value):
            return f"must be a text such as {option(**{name: Pair(PAIRS[name])})}"
        try:
            # what it must be beside other settings is checked when all of them are known
            roomy = {"length": 8, "steps": 1 << 60, **({"batch": value} if name == "accumulate" else {})}
            check(replace(Settings(), **{**roomy, name: parse(value) if parse is not None else value}))
        except GrowError as error:
            hint = error.fix if error.fix.startswith("did") else ""
            return f"{error.what}; {hint}" if hint else error.what
        except (ValueError, OverflowError):
            return "must be two numbers" if parse else "must be a smaller number"
        return ""

    return check_alone


def shard_size(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return "must be a size"
    try:
        parse_size(value)
        return ""
    except (BadInput, ValueError):
        return 'must be a number of bytes, or a number with a unit as in "5GB"'


def shown(value: Any) -> str:
    """A value for a message, cut to a short text; TOML may nest deeply and hold numbers of any length."""
    try:
        return reprlib.repr(value)
    except (ValueError, RecursionError):
        return "a value without end"


def _options(function: Callable, without: str) -> dict[str, Key]:
    """Keys from the keyword parameters of a command's function."""
    keys = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in without.split() and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            needed = parameter.default is inspect.Parameter.empty
            keys[name] = Key(OPTIONS[name], None if needed else parameter.default, needed)
    return keys


COUNT = number(1, 1 << 62, whole=True)
SEED = number(0, (1 << 63) - 1, whole=True)
OPTIONS: dict[str, Check] = {
    "to": sizes,
    "layers": COUNT,
    "experts": COUNT,
    "top_k": COUNT,
    "granularity": COUNT,
    "every": COUNT,
    "route": one_of(*ROUTES),
    "operators": table,
    "split": one_of(*SPLITS),
    "seed": SEED,
    "dtype": one_of("auto", *CODES),
    "deepen": flag,
    "place": place,
    "fill": one_of(*FILLS),
    "new_tokens": one_of(*NEW_TOKENS),
    "method": one_of(*METHODS),
    "allow_lossy": flag,
    "state": one_of(*POLICIES),
    "max_shard_size": shard_size,
    "verify": flag,
    "assume_harmless": texts,
}
"""Option of a growing command, by its name in Python -> the check of its value."""

# options that the recipe itself sets, or that have no place in one
RUN = "src out optimizer upcycling overwrite trust_checkpoint world revision family progress on_rung"
WIDEN = _options(api.widen, RUN)
ALONE = {k: v for k, v in WIDEN.items() if k not in ("to", "deepen", "new_tokens", "operators")}
ELSEWHERE = ("steps", "seed", "begin", "skip")  # a budget; a key of every stage; two that follow from the stage before
SCHEDULE = ("schedule", "warmup", "decay", "decay_shape", "lr")  # what a stage that continues takes over
SETTINGS = {
    f.name: Key(setting(f.name), getattr(Settings(), f.name)) for f in fields(Settings) if f.name not in ELSEWHERE
} | {"lr": Key(setting("lr"))}  # by default the peak that the weights were trained with goes on
BUDGETS = {"tokens": Key(COUNT), "flops": Key(number(1, 1e40)), "steps": Key(COUNT)}
DATA = {"seed": Key(SEED), "data": Key(texts)}
TRAIN = {**SETTINGS, **DATA}
FROM = {"from": Key(text, needed=True), "revision": Key(text)}
KINDS: dict[str, dict[str, Key]] = {
    "init": {
        **FROM,
        "sizes": Key(sizes, {}),
        "dtype": Key(one_of(*CODES), "float32"),
        "seed": Key(SEED),
        "assume_harmless": Key(texts, ()),
    },
    "load": FROM,
    "train": {**TRAIN, **BUDGETS, "continues": Key(flag, False), "state": Key(one_of(*CARRIED))},
    "widen": WIDEN,
    "deepen": _options(api.deepen, RUN) | ALONE,
    "upcycle": _options(api.upcycle, RUN) | {k: v for k, v in WIDEN.items() if k != "to"},
    "verify": {"rungs": Key(rungs), "seed": Key(SEED), "samples": Key(COUNT)},
}
STARTS, GROWTHS = ("init", "load"), ("widen", "deepen", "upcycle")
TREATED, UNTREATED = ("rewarm", "freeze_old", "rates"), (None, False, "off", "uniform")
"""Settings that treat new entries differently from old ones, and the values with which they do not."""
BASELINE = {name: key for name, key in TRAIN.items() if name not in (*TREATED, "plateau")}
TOP = {"name": Key(text, needed=True), "seed": Key(SEED, 0), "data": Key(texts)}
