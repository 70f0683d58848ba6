"""Checks that every field of a config is known, and that stock code and the table accept its value.

The stock config class says the type of each of its fields (see `grow.architectures.stock_source`); what a number may be
follows from what the field is for. All faults are told at once, before a byte is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from grow.architectures.any_config import NOT_PLAIN, value_and_type
from grow.architectures.architecture import Architecture
from grow.architectures.common_fields import OLDER_ROPE, SIZES, TRAINS
from grow.architectures.family import Family
from grow.architectures.layer_lists import expanded
from grow.architectures.model_sizes import divisor_hint
from grow.architectures.stock_source import Stock, stock_of
from grow.errors import BadInput, Refused, did_you_mean, listing, near_miss
from grow.files.json_floats import is_special
from grow.notation.rope_parameters import HOMES, SPELLED, check_rope
from grow.spelling import option


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# name -> what its value must be; for fields that the family knows.
RULES: tuple[tuple[re.Pattern[str], Callable[[Any], bool], str], ...] = (
    (re.compile(r"\w+_eps(ilon)?"), lambda v: _number(v) and v >= 0, "a number from 0 on"),
    (TRAINS, lambda v: v is None or (_number(v) and 0 <= v <= 1), "a number from 0 to 1"),
    (re.compile(r"logits_scaling"), lambda v: _number(v) and v != 0, "a finite number that is not 0"),
    (re.compile(r"\w+_multiplier"), _number, "a finite number"),
    (re.compile(r"initializer_range|init_std"), lambda v: _number(v) and v >= 0, "a number from 0 on"),
    (re.compile(r"router_\w+_(coef|noise)"), _number, "a finite number"),
    (
        re.compile(r"sliding_window|max_window_layers|chunk_size_feed_forward"),
        lambda v: v is None or (type(v) is int and v >= 0),
        "a whole number from 0 on",
    ),
)

# Judged by rules of their own, here or in `grow.notation.rope_parameters`; the version is nobody's business.
ELSEWHERE = {"architectures", "id2label", "label2id", "dtype", "transformers_version", *HOMES, *SPELLED, *OLDER_ROPE}


def check_fields(architecture: Architecture, harmless: Collection[str] = ()) -> tuple[str, ...]:
    """Refuse a config with a value that stock code does not take, or a field that may change the function.

    harmless  fields that the user vouches for although stock code reads them
    Returns notes on fields that come along although nobody reads them.
    """
    family, config = architecture.family, architecture.config
    _check_values(architecture)
    for name, allowed in family.fixed.items():
        value = config[name] if name in config else family.defaults.get(name)
        if value not in allowed and value is not None:
            raise Refused(
                f"config.json: {name}",
                what=f"{value!r}; {family.model_type} is grown with {listing(map(repr, allowed))}",
                why="another value makes another function than the one the table describes",
                fix="grow a checkpoint without it",
            )
    notes = _check_unknown(architecture, harmless)
    sizes = architecture.sizes
    if family.divides and sizes["hidden"] % sizes["heads"]:
        raise BadInput(
            f"config.json: {family.axes['hidden']}",
            what=f"{sizes['heads']} heads do not divide hidden {sizes['hidden']}",
            why=f"the stock {family.model_type} config refuses it",
            fix=divisor_hint(family.axes["heads"], sizes["hidden"], sizes["heads"]),
        )
    if field := family.attention.rotated:
        rotated = architecture.get(field)
        if type(rotated) is not int or not 0 < rotated <= sizes["head_dim"] or rotated % 2:
            raise BadInput(
                f"config.json: {field}",
                what=f"{rotated!r}; wanted an even number from 2 to head_dim, {sizes['head_dim']}",
                why="so many coordinates of each head turn in pairs",
                fix=f"set {field} to what the model was trained with",
            )
    if family.attention.rope and family.attention.rope != "table":
        for config in architecture.ropes.values():
            check_rope(config, sizes["head_dim"], partial=family.attention.rope == "partial")
    return notes


def _check_unknown(architecture: Architecture, harmless: Collection[str]) -> tuple[str, ...]:
    """Fields that the family does not know: refused where stock code reads them, told of where it does not."""
    family, config = architecture.family, architecture.config
    known = family.known_fields
    unknown = sorted(name for name in config if not family.knows(name) and name not in harmless)
    if not unknown:
        return ()
    stock = stock_of(family.model_type)
    readings = stock.readings(unknown)
    misspelt = {name: near_miss(name, known) for name in unknown}
    generates = {name for name in unknown if name in stock.generates and name not in stock.fields}
    null = {name for name in unknown if config[name] is None and name not in stock.fields}
    idle = {name for name in unknown if not readings[name].at_all and not misspelt[name]}
    idle |= generates | {name for name in null if name in NOT_PLAIN or not readings[name].of_null}
    faults = [name for name in unknown if name not in idle]
    if not faults:
        unread = [name for name in unknown if config[name] is not None and name not in generates]
        return (
            (f"config.json: no stock code reads {listing(unread)}: what is there comes along as it is",)
            if unread
            else ()
        )
    hint = misspelt[faults[0]] or did_you_mean(faults[0], known)
    sizes = [name for name in faults if SIZES.fullmatch(name)]
    raise Refused(
        f"config.json: {listing(faults)}",
        what=f"fields that the family {family.model_type} does not know",
        why="a field that nobody has read may change the function" + (f"; {hint}" if hint else ""),
        fix=f"remove {listing(sizes)} from a copy of config.json: a size that is not an axis here would stay behind"
        if sizes
        else f"if they are harmless: {option(assume_harmless=faults)}",
    )


def _check_values(architecture: Architecture) -> None:
    """BadInput, with all of them, when some fields have values that no model of this family can have."""
    family = architecture.family
    faults = [
        *_contradictions(architecture),
        *_unrepeated(architecture),
        *_faults(architecture, stock_of(family.model_type)),
    ]
    if faults:
        (name, what, fix), *more = faults
        raise BadInput(
            f"config.json: {name}",
            what=what,
            details=[("also", f"{field}: {fault}") for field, fault, _ in more[:8]],
            why=f"stock {family.model_type} cannot be built from it, or would compute something else",
            fix=fix,
        )


def _contradictions(architecture: Architecture) -> Iterator[tuple[str, str, str]]:
    """Two names of one field with two values: stock code takes the one that it sets last. Or two fields that are to be
    equal and are not."""
    config = architecture.config
    for name, other in architecture.family.alike:
        if architecture.get(name) != architecture.get(other):
            values = f"{_show(architecture.get(name))}, and {other}: {_show(architecture.get(other))}"
            yield name, f"{values}: stock code wants them equal", f"set {name} and {other} to one value"
    for name, other in architecture.family.synonyms.items():
        if name in config and other in config and config[name] != config[other]:
            values = f"{_show(config[name])}, and {other}: {_show(config[other])}"
            yield name, f"{values}: both are names of one field", f"remove one of {name} and {other} from config.json"
    for listed in architecture.family.layer_lists:
        given = config.get(listed.field)
        for name, runs in listed.otherwise(given).items() if isinstance(given, list) and given else ():
            if name in config and expanded(config[name]) != expanded(runs):
                what = f"{_show(given)}, and {name} says {_show(config[name])}"
                yield listed.field, what, f"remove {listed.field} from config.json: it follows from {name}"


def _unrepeated(architecture: Architecture) -> Iterator[tuple[str, str, str]]:
    """Numbers that repeat sizes and are others: stock code takes some from here and some from there."""
    config, axes = architecture.config, architecture.family.axes
    for name, parts in architecture.family.attention.repeated.items():
        sizes = [_size(architecture, axis) for axis in parts]
        if name in config and config[name] != (total := sum(size or 0 for size in sizes)):
            what = f"{_show(config[name])}; wanted {total}, {' + '.join(axes[axis] for axis in parts)}"
            yield name, what, f"set {name} to {total}, or remove it from config.json"


def _faults(architecture: Architecture, stock: Stock) -> Iterator[tuple[str, str, str]]:
    family, config = architecture.family, architecture.config
    names = {other: name for name, other in family.synonyms.items()}
    layers = _size(architecture, "layers")
    for field, value in config.items():
        name = names.get(field, field)
        wanted = _wanted(family, stock, name, value, layers)
        if wanted:
            yield field, f"{_show(value)}; wanted {wanted}", f"correct {field} in config.json"
    for needed in family.needed_fields:
        if not any(config.get(name) for name in needed.split("|")):
            name = needed.split("|")[0]
            what = "missing, null or empty, and what stock code makes of that is not known here"
            yield name, what, f"write {name} into config.json, as save_pretrained of the stock class does"
    yield from _architectures(family, stock, config.get("architectures"))
    if family.experts:
        chosen, experts = architecture.top_k, _size(architecture, "experts")
        if type(chosen) is int and experts and chosen > experts:
            what = f"{chosen} of {experts} experts"
            yield family.experts.top_k, what, f"{family.experts.top_k}={experts} or less"


def _wanted(family: Family, stock: Stock, name: str, value: Any, layers: int | None) -> str:
    """What a field's value should have been, "" where it is fine."""
    declared = stock.fields.get(name)
    if name in ELSEWHERE:
        return "an object with whole numbers as keys" if name == "id2label" and not _labels(value) else ""
    if declared is not None and not declared.admits(value):
        low, high = declared.bounds.get("min"), declared.bounds.get("max")
        return declared.words + (f" from {low:g} to {high:g}" if low is not None and high is not None else "")
    default = family.defaults.get(name)
    if value is None:
        # what the stock class sets to something when it is left out is something else when it is null
        is_set = default not in (None, False, []) and not str(default).startswith("=") and name not in family.nulls
        return f"a value, or no such field ({_show(default)} is what stock code takes then)" if is_set else ""
    if declared is None and isinstance(default, bool) and not isinstance(value, bool):
        return "true or false"
    for listed in family.layer_lists:
        if name == listed.field and not listed.fits(value, layers):
            return f"a list of {layers} {listed.kinds}"
        if name in listed.said_too:
            entries = expanded(value)
            if entries is None or len(entries) != layers or any(entry not in listed.entries for entry in entries):
                return f"runs [[kinds, times], …] that make {layers} of {', '.join(map(str, listed.entries))}"
    if (
        family.experts
        and name in (family.experts.top_k, family.experts.layers and family.experts.layers.step)
        and not (type(value) is int and value > 0)
    ):
        return "a whole number from 1 on"
    if family.knows(name):
        for pattern, holds, words in RULES:
            if pattern.fullmatch(name) and not holds(value):
                return words
    return ""


def _labels(value: Any) -> bool:
    keys = isinstance(value, dict) and all(re.fullmatch(r"-?\d+", str(key)) for key in value)
    return value is None or keys


def _size(architecture: Architecture, axis: str) -> int | None:
    axes = architecture.family.axes
    value = architecture.get(axes[axis]) if axis in axes else None
    return value if type(value) is int else None


def _architectures(family: Family, stock: Stock, named: Any) -> Iterator[tuple[str, str, str]]:
    """One class of this family, or none where the tensors are to say which."""
    if named is None:
        return
    where, fix = "architectures", "correct architectures in config.json, or remove it: the tensors then say the class"
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        yield where, f"{_show(named)}; wanted a list with the name of the class", fix
    elif stock.classes and named[0] not in stock.classes:
        hint = did_you_mean(named[0], stock.classes)
        some = listing([name for name in stock.classes if not name.endswith("PreTrainedModel")], 4)
        what = f"{_show(named[0])} is not a class of stock {family.model_type}, which has {some}"
        yield where, f"{what}; {hint}" if hint else what, fix


def _show(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value['__float__']} (float)" if is_special(value) else value_and_type(value)
