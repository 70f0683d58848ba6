"""Rope parameters as any generation of config.json says them, and what of them is understood."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from grow.errors import BadInput, Refused

HOMES = ("rope_scaling", "rope_parameters")
"""Fields that hold rope parameters, the one that stock code prefers first."""
POSITIVE, LENGTH, FACTORS, SWITCH = (
    "a positive number",
    "a whole number from 1 on",
    "a list of positive numbers",
    "a bool",
)
PARAMETERS = {
    "rope_theta": POSITIVE,
    "partial_rotary_factor": POSITIVE,
    "factor": POSITIVE,
    "original_max_position_embeddings": LENGTH,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "short_factor": FACTORS,
    "long_factor": FACTORS,
    "attention_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "mscale": POSITIVE,
    "mscale_all_dim": POSITIVE,
    "short_mscale": POSITIVE,
    "long_mscale": POSITIVE,
    "truncate": SWITCH,
    "alpha": POSITIVE,
    "llama_4_scaling_beta": POSITIVE,
    "max_position_embeddings": LENGTH,
}
FEW = ("alpha", "llama_4_scaling_beta", "max_position_embeddings")
"""Parameters that are read by the stock code of few families, whose view of a config names them in `rope_reads`."""
REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}
OPTIONAL = (
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "factor",
)  # null counts as not given
SPELLED = ("rope_theta", "partial_rotary_factor")
FRACTION_OF_PAIRS = ("proportional",)
"""Types that turn all of the head and let the pairs behind the fraction stand still; none has a factor null."""
OWN_LENGTH = ("yarn", "longrope", "llama3")


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rope parameters as one flat dict, as stock code reads them from any generation of config.json.

    BadInput or Refused for whatever is not understood: nothing is taken for its default but what is not there. Stock
    code prefers `rope_scaling` to `rope_parameters`, and either to fields of their own (`convert_rope_params_to_dict`
    of transformers 5.23); fields that say another thing than the one that counts are refused. `Architecture.ropes`
    says what is not there, and under which names older configs say it.
    """
    homes = {
        name: _home(name, config[name], config.get("rope_reads", ()))
        for name in HOMES
        if config.get(name) not in (None, {})
    }
    rope = dict(next(iter(homes.values()), {"rope_type": "default"}))
    own = config.get("rope_spelling", SPELLED)
    for name, field in zip(SPELLED, own):
        # null is taken for what it says, but for a fraction under its newer name
        said = field in config and (config[field] is not None or field != "partial_rotary_factor")
        value = config[field] if said else config.get(f"default.{name}")
        if said or value is not None:
            rope.setdefault(name, value)
    rope.setdefault("rope_theta", 10_000.0)
    if rope["rope_type"] in OWN_LENGTH and "original_max_position_embeddings" not in rope:
        rope["original_max_position_embeddings"] = config.get("max_position_embeddings")
    for name, value in rope.items():
        if name != "rope_type" and not (value is None and name in OPTIONAL) and not _is(PARAMETERS[name], value):
            raise _unread(f"rope parameter {name}", f"{value!r}; wanted {PARAMETERS[name]}")
    for name in (*REQUIRED[rope["rope_type"]], "rope_theta"):
        if rope.get(name) is None:
            raise _unread(name, f"is missing or null; rope_type={rope['rope_type']!r} needs it")
    stated = [(f"{home}.{name}", name, value) for home, fields in homes.items() for name, value in fields.items()]
    stated += [
        (field, name, config[field])
        for pair in config.get("rope_spellings", (SPELLED,))
        for name, field in zip(SPELLED, pair)
        if field in config
    ]
    for field, name, value in stated:
        if rope.get(name) != value and (value is not None or "." in field):
            raise Refused(
                f"config.json: {field}",
                what=f"{value!r}, and stock code takes {name} {rope.get(name)!r} from another field, or its default",
                why="two fields of config.json contradict each other, and readers differ in which they follow",
                fix=f"set {field} to what the model was trained with, everywhere",
            )
    return rope


def _home(name: str, stated: Any, own: Collection[str]) -> dict[str, Any]:
    """One object of rope parameters, its type under the newer name."""
    if not isinstance(stated, Mapping):
        raise _unread(name, f"{stated!r}; wanted an object")
    nested = [key for key, value in stated.items() if isinstance(value, Mapping)]
    if nested:
        raise _unread(
            name, f"has parameters of its own for {', '.join(map(str, nested))}", "one set for all layers is read"
        )
    older, newer = stated.get("type"), stated.get("rope_type")
    if older is not None and newer is not None and older != newer:
        raise _unread(name, f"type {older!r} and rope_type {newer!r} are two names of one thing")
    kind = newer if "rope_type" in stated else stated.get("type", "default")
    if not isinstance(kind, str) or kind not in REQUIRED:
        raise _unread(f"{name}.rope_type", f"{kind!r}; known rope types: {', '.join(REQUIRED)}")
    known = {"type", "rope_type", *PARAMETERS} - {*FEW} | {*own}
    unknown = sorted(key for key in stated if key not in known)
    if unknown:
        raise _unread(name, f"has parameters that nobody has read: {', '.join(unknown)}")
    return {**{key: value for key, value in stated.items() if key != "type"}, "rope_type": kind}


def _is(wanted: str, value: Any) -> bool:
    if wanted == SWITCH:
        return isinstance(value, bool)
    if wanted == LENGTH:
        return type(value) is int and value >= 1
    if wanted == FACTORS:
        return isinstance(value, list) and bool(value) and all(_is(POSITIVE, item) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _unread(where: str, what: str, why: str = "rotations follow from it, and none is guessed") -> BadInput:
    return BadInput(f"config.json: {where}", what=what, why=why, fix="correct it, or grow a checkpoint without it")


def check_rope(config: Mapping[str, Any], d: int, *, partial: bool) -> None:
    """BadInput or Refused unless the rope parameters are understood and fit heads of size `d`."""
    rope = rope_of(config)
    factor = rope.get("partial_rotary_factor", 1.0)
    if rope["rope_type"] in FRACTION_OF_PAIRS:
        if "factor" in rope and rope["factor"] is None:
            raise _unread("factor", "is null; stock code divides by it")
        if partial and factor != 1.0:
            raise _unread("partial_rotary_factor", f"{factor!r}; this family turns a part of the head by itself")
    elif not partial and factor != 1.0:
        raise _unread("partial_rotary_factor", f"{factor!r}; this family's heads turn as a whole")
    if factor > 1:
        raise _unread("partial_rotary_factor", f"{factor!r}; wanted a fraction of the head, from 0 to 1")
    for name in ("short_factor", "long_factor"):
        pairs = int(d * factor) // 2
        if rope["rope_type"] == "longrope" and len(rope[name]) != pairs:
            raise _unread(name, f"has {len(rope[name])} factors; wanted {pairs}, one for each pair that turns")
