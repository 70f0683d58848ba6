"""What a person may write after `--to`, and the sizes that it means.

base, SmolLM2-360M          a size of the source's family
2x, 1.5x                    hidden, heads, kv_heads and ffn times a factor; head_dim stays
hidden_size=960,heads=15    config fields or axes; the rest stays
base,layers=8               one of the others, and fields that differ from it
folder, config.json         the sizes of another config of the same family; its depth with `deepen` only
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.upcycling_pairs import PAIRS
from grow.errors import BadInput, Refused, did_you_mean
from grow.files.header import show
from grow.files.regular import read_json
from grow.planning.nearest_sizes import complete
from grow.planning.possible_sizes import check_sizes
from grow.spelling import Either, OneSize, caller, command, option, spelled

LAYERS = "layers"
"""What a person calls the layers of all stacks together."""


@dataclass(frozen=True)
class Target:
    """Axis -> new size for every axis of the source, and what of the target was left aside."""

    sizes: dict[str, int]
    notes: tuple[str, ...] = ()


def resolve(source: Architecture, to: Any, *, deepen: bool = False) -> Target:
    """The sizes that `to` asks for; `BadInput` or `Refused` when they cannot be a model of this family.

    deepen  take a size's or a config's number of layers too; layers that a field names are always taken
    """
    old = source.sizes
    if hasattr(to, "to_dict"):
        to = to.to_dict()
    if isinstance(to, Mapping):
        fields = "model_type" not in to
        target = _from_fields(source, old, dict(to)) if fields else _from_config(source, to, "target", deepen)
    elif isinstance(to, (str, os.PathLike)):
        target = _from_text(source, str(os.fspath(to)), deepen)
    else:
        raise BadInput(
            option(to=to),
            what=f"must be a text, a path, a config or a dict of fields, got {type(to).__name__}",
            why="a target is a size, a factor, a folder, a config, or fields with their sizes",
            fix=option(to="2x"),
        )
    check_sizes(source, target.sizes)
    depths = source.family.depths
    if deepen and all(target.sizes[axis] == old[axis] for axis in depths):
        there = " and ".join(str(old[axis]) for axis in depths)
        told = f"the target has {there} layers, as many as the source, or names none"
        told = f"{option(deepen=True)} has no effect: {told}"
        return replace(target, notes=(*target.notes, told))
    return target


def depth_alone() -> AbstractContextManager[None]:
    """In here a target is a number of layers, as in `grow deepen`, which spells it `layers`."""
    names = {LAYERS, *(family.axes[axis] for family in FAMILIES.values() for axis in family.depths)}
    return spelled(OneSize(LAYERS, names, caller()))


def _from_text(source: Architecture, text: str, deepen: bool) -> Target:
    family = source.family
    if text in family.sizes:
        return _from_config(source, {**source.config, **_only(family, text)}, text, deepen)
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) and not os.path.exists(text):
        kept = ",".join(filter(None, parts))
        raise BadInput(
            option(to=show(text, 80)),
            what="has an empty field" if kept else "is empty",
            why="a target is a size, a factor, a folder, or fields with a comma between two",
            fix=option(to=show(kept, 80) or "2x"),
        )
    if "=" in text:
        first, *rest = text.split(",")
        if "=" in first:
            return _from_fields(source, source.sizes, _once([_parse_field(part) for part in (first, *rest)]))
        base = _from_text(source, first, deepen)
        return Target(_from_fields(source, base.sizes, _once(list(map(_parse_field, rest)))).sizes, base.notes)
    if text[-1:] in ("x", "X") and text[:1] in "0123456789.-+":
        return _from_factor(source, text)
    path = Path(text)
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return _from_config(source, _read_json(path), str(path), deepen)
    hint = did_you_mean(text, family.sizes)
    named = [axis for axis in ("hidden", "heads") if axis in family.axes]
    raise BadInput(
        option(to=text),
        what="is not a size of the family, factor, field list, folder or config.json" + (f"; {hint}" if hint else ""),
        why=f"sizes of {family.model_type}: {', '.join(family.sizes)}",
        fix=f"{option(to='2x')}, or {option(to={family.axes[a]: ... for a in named})}",
    )


def _only(family: Family, name: str) -> dict[str, Any]:
    """A size's fields, with optional ones that the source's config may carry cleared."""
    cleared = {family.axes[a]: None for a in ("kv_heads", "head_dim") if a in family.axes}
    return {**cleared, **family.sizes[name]}


def _parse_field(part: str) -> tuple[str, int]:
    name, _, value = part.partition("=")
    try:
        return name.strip(), int(value)
    except ValueError:
        raise BadInput(
            option(to=show(part.strip(), 80)),
            what=f"{show(value.strip(), 40)!r} is not a whole number",
            why="a field of the target is a size",
            fix=f"{name.strip() or 'hidden_size'}=960",
        ) from None


def _once(fields: list[tuple[str, int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, value in fields:
        if sizes.setdefault(name, value) != value:
            raise _twice(name, sizes[name], value)
    return sizes


def _twice(name: str, one: int, other: int) -> BadInput:
    return BadInput(
        option(to={name: other}),
        what=f"is given twice: {one} and {other}",
        why="an axis has one size",
        fix=f"{name}={other}",
    )


def _from_fields(source: Architecture, old: Mapping[str, int], fields: dict[str, Any]) -> Target:
    family = source.family
    by_field = {field: axis for axis, field in family.axes.items()}
    by_field |= {other: by_field[name] for name, other in family.synonyms.items() if name in by_field}
    given: dict[str, int] = {}
    growable = family.growable
    for name, value in _each_stack(source, fields).items():
        axis = by_field.get(name, name)
        if axis not in old:
            known = [family.axes[a] for a in growable if a in family.axes] + [a for a in growable if a in old]
            hint = did_you_mean(str(name), known)
            raise BadInput(
                option(to={name: value}),
                what=f"{family.model_type} has no such axis" + (f"; {hint}" if hint else ""),
                why="axes: " + ", ".join(known),
                fix="leave it out",
            )
        if not isinstance(value, int) or isinstance(value, bool):
            where = option(to={name: value})
            raise BadInput(where, what="not a whole number", why="a size is one", fix=f"{name}=960")
        if given.setdefault(axis, value) != value:
            raise _twice(name, given[axis], value)
    grown = {axis: value for axis, value in given.items() if axis in growable}
    sizes = complete(source, old, grown)
    for axis, value in given.items():
        if value != sizes[axis]:  # one that follows from the others
            name = next(name for name in fields if by_field.get(name, name) == axis)
            also = f"; it follows the others to {sizes[axis]}" if sizes[axis] != old[axis] else ""
            raise Refused(
                option(to={name: value}),
                what=f"would change {axis} {old[axis]} -> {value}{also}",
                why="axes that grow: " + ", ".join(a for a in growable if a in old),
                fix=f"leave {name} out",
            )
    return Target(sizes)


def _each_stack(source: Architecture, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with a number of layers said of each stack: BadInput where they have several depths."""
    family, old = source.family, source.sizes
    if LAYERS not in fields or LAYERS in old:
        return dict(fields)
    names = [family.axes[axis] for axis in family.depths]
    if len({old[axis] for axis in family.depths}) > 1:
        there = " and ".join(f"{old[axis]} {axis}" for axis in family.depths)
        raise BadInput(
            option(to={LAYERS: fields[LAYERS]}),
            what=f"one number of layers, and the source has {there}",
            why="one number is of all stacks where they have one depth",
            fix=command("widen", to=dict.fromkeys(names, fields[LAYERS])),
        )
    return {k: v for k, v in fields.items() if k != LAYERS} | dict.fromkeys(names, fields[LAYERS])


def _from_factor(source: Architecture, text: str) -> Target:
    old = source.sizes
    try:  # as a fraction 1e999999999 has a thousand million digits
        factor = Fraction(text[:-1]) if len(text) <= 32 and "e" not in text.lower()[:-1] else Fraction(0)
    except (ValueError, ZeroDivisionError):
        factor = Fraction(0)
    if not 1 <= factor <= 1024:
        why = "a factor is a number from 1 to 1024"
        raise BadInput(option(to=text), what="not a factor", why=why, fix=option(to="2x"))
    own = ("hidden", "heads", "kv_heads", *source.family.units)
    scaled = [axis for axis in own if axis in old and axis not in source.followed]
    broken = [axis for axis in scaled if (old[axis] * factor).denominator != 1]
    if broken:
        step = gcd(*(old[a] for a in scaled))
        below = int(factor * step)
        near = [Fraction(k, step) for k in (below, below + 1) if k > step]
        raise Refused(
            option(to=text),
            what=", ".join(f"{a} {old[a]} × {float(factor):g} = {float(old[a] * factor):g}" for a in broken),
            why="every width is a whole number",
            fix=f"{option(to=Either(tuple(f'{_factor(f)}x' for f in near)))}, or name the fields",
        )
    return Target(complete(source, old, {axis: int(old[axis] * factor) for axis in scaled}))


def _factor(f: Fraction) -> str:
    """`1.5` where decimals are exact, else `4/3`."""
    text = f"{float(f):g}"
    return text if Fraction(text) == f else str(f)


def _from_config(source: Architecture, config: Mapping[str, Any], name: str, deepen: bool) -> Target:
    family, old = source.family, source.sizes
    if config.get("model_type") != family.model_type:
        if any((pair.source, pair.target) == (family.model_type, config.get("model_type")) for pair in PAIRS):
            other = Architecture(FAMILIES[str(config["model_type"])], config)
            raise Refused(
                name,
                what=f"model_type {other.family.model_type!r} has experts, the source is {family.model_type!r}",
                why="what they are made of is a choice that a config does not make",
                fix=command("upcycle", experts=other.sizes["experts"], to=name),
            )
        raise Refused(
            name,
            what=f"model_type {config.get('model_type')!r}, the source is {family.model_type!r}",
            why="widen keeps the architecture",
            fix="a target of the source's family",
        )
    sizes = source.with_config(config).sizes
    named = (*family.widths, *family.mirrors, "experts")
    new = complete(source, old, {axis: sizes[axis] for axis in named if axis in sizes})
    notes = []
    for axis in (*family.depths, "vocab", "positions"):
        if axis not in old or sizes[axis] == old[axis]:
            continue
        if sizes[axis] > old[axis] and (axis not in family.depths or deepen):
            new[axis] = sizes[axis]
        elif axis in family.depths and deepen:
            raise Refused(
                option(deepen=True, to=name),
                what=f"{axis} {old[axis]} -> {sizes[axis]}",
                why="a layer that is left out takes its function with it",
                fix=f"leave {option('deepen')} out: the layers then stay",
            )
        else:
            more = (
                f"; {option(deepen=True)} takes its depth too" if sizes[axis] > old[axis] else ", and nothing shrinks"
            )
            notes.append(f"{axis} stay {old[axis]} ({name} has {sizes[axis]}){more}")
    return Target(new, tuple(notes))


def _read_json(path: Path) -> dict[str, Any]:
    config = read_json(path, "a config.json")
    if not isinstance(config, dict):
        raise BadInput(str(path), what="is not a JSON object", why="a config is one", fix="a config.json")
    return config
