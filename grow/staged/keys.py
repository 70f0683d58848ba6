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
from grow.planning.layers import FILLS
from grow.planning.methods import METHODS
from grow.planning.tensor import SPLITS
from grow.training.settings.limits import plateau_of, rewarm_of
from grow.training.settings.run_settings import Settings, check
from grow.verification.rungs import RUNG_OF, RUNGS

Check = Callable[[Any], str]  # what is wrong with a value; "" when nothing is
CARRIED = ("carry", "drop")  # as in grow.training.begin.from_state, which imports torch


@dataclass(frozen=True)
class Key:
    """`default` stands in for a missing one; a needed one has to be there."""

    check: Check
    default: Any = None
    needed: bool = False


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False) -> Check:
    wanted = f"a {'whole ' if whole else ''}number" + (f" of {low:g} and more" if low > -math.inf else "")

    def found(value: Any) -> str:
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        return "" if fits and low <= value <= high else f"wanted {wanted}"

    return found


def text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() and value.isprintable() else "wanted a text"


def flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "wanted true or false"


def one_of(*choices: str) -> Check:
    def found(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return ""
        return f"one of {', '.join(choices)}; {did_you_mean(shown(value), choices)}".rstrip("; ")

    return found


def texts(value: Any) -> str:
    fits = isinstance(value, list) and value and not any(map(text, value))
    return "" if fits or not text(value) else "wanted a text or a list of texts"


def rungs(value: Any) -> str:
    known = [*RUNGS, *RUNG_OF]
    if not isinstance(value, list) or not value:
        return "wanted a list of rungs"
    bad = next((name for name in value if name not in known), None)
    return "" if bad is None else f"{shown(bad)} is not a rung; {did_you_mean(shown(bad), known)}".rstrip("; ")


def sizes(value: Any) -> str:
    """A target in words, or fields with their sizes."""
    if not isinstance(value, Mapping):
        return text(value) and "wanted a target in words, or a table of fields"
    bad = next((name for name, size in value.items() if number(1, 1 << 40, whole=True)(size)), None)
    return "" if value and bad is None else f"{bad}: wanted a whole number of 1 and more" if bad else "it is empty"


def table(value: Any) -> str:
    fits = isinstance(value, Mapping) and not any(text(item) for item in value.values())
    return "" if fits else 'wanted a table of texts: {ffn = "copies"}'


def place(value: Any) -> str:
    layers = isinstance(value, list) and not any(map(number(0, 1 << 31, whole=True), value))
    return "" if layers or not text(value) else 'wanted "spread", "top", "after:K" or a list of layers'


def setting(name: str) -> Check:
    """The check of a train setting is the setting's own."""
    kind = type(getattr(Settings(), name))
    parse = {"rewarm": rewarm_of, "plateau": plateau_of}.get(name)

    def found(value: Any) -> str:
        if kind is bool:
            return flag(value)
        if parse is not None and text(value):
            return 'wanted "RATIO:STEPS"' if name == "rewarm" else 'wanted "STEPS:NATS"'
        try:
            # alone: what it must be beside the others is asked when all are known
            roomy = {"length": 8, "steps": 1 << 60, **({"batch": value} if name == "accumulate" else {})}
            check(replace(Settings(), **{**roomy, name: parse(value) if parse is not None else value}))
        except GrowError as error:
            hint = error.fix if error.fix.startswith("did") else ""
            return f"{error.what}; {hint}" if hint else error.what
        except (ValueError, OverflowError):
            return "wanted two numbers" if parse else "out of range"
        return ""

    return found


def shard_size(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return "wanted a size"
    try:
        parse_size(value)
        return ""
    except (BadInput, ValueError):
        return 'wanted a number of bytes, or one with a unit as in "5GB"'


def shown(value: Any) -> str:
    """A value for a message, short whatever it is; TOML nests as deep and counts as far as anybody likes."""
    try:
        return reprlib.repr(value)
    except (ValueError, RecursionError):
        return "a value without end"


def _options(function: Callable, without: str) -> dict[str, Key]:
    """Keys from the keyword parameters of a command's function."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in without.split() and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            needed = parameter.default is inspect.Parameter.empty
            found[name] = Key(OPTIONS[name], None if needed else parameter.default, needed)
    return found


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
"""Of the growing commands, in Python's words."""

# what a recipe itself says, or nobody
RUN = "src out optimizer upcycling overwrite trust_checkpoint world revision progress on_rung"
WIDEN = _options(api.widen, RUN)
ALONE = {k: v for k, v in WIDEN.items() if k not in ("to", "deepen", "new_tokens", "operators")}
ELSEWHERE = ("steps", "seed", "begin", "skip")  # a budget; of all stages; what follows from the stage before
SCHEDULE = ("schedule", "warmup", "decay", "decay_shape", "lr")  # what a stage that continues takes over
SETTINGS = {
    f.name: Key(setting(f.name), getattr(Settings(), f.name)) for f in fields(Settings) if f.name not in ELSEWHERE
} | {"lr": Key(setting("lr"))}  # where nobody says it, the one that the weights were trained with goes on
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
TREATED, UNTREATED = ("rewarm", "freeze_old", "rates"), (None, False, "off", "uniform")  # by what a growth made new
BASELINE = {name: key for name, key in TRAIN.items() if name not in (*TREATED, "plateau")}
TOP = {"name": Key(text, needed=True), "seed": Key(SEED, 0), "data": Key(texts)}


def bad_setting(where: str, error: BadInput) -> tuple[str, str]:
    """What `settings` says of values that do not go together, as a fault of a recipe."""
    return f"{where}: {error.where.removeprefix('--')}", f"{error.what}, {error.why}"
