"""When a row is there: the switches of the config that add or remove it, and the classes that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grow.architectures.common_fields import COMMON_FIELDS
from grow.deriving.first_table import NotDescribed, first_rows
from grow.deriving.integer_fields import Moves, probed
from grow.deriving.reading import Reads, traced
from grow.deriving.tiny_models import BASE, NotBuilt, TinyModel, built, shapes, stock_config

ANSWERS = "ForQuestionAnswering"
"""Its head has two labels, the beginning and the end, whatever the config says."""


def with_switches(
    model_type: str,
    cls: type,
    moves: Moves,
    rows: dict[str, tuple[str, str]],
    tinies: dict[str, TinyModel],
    notes: list[str],
) -> tuple[dict[str, tuple[str, str]], dict[str, bool]]:
    """Rows that a boolean field of the config adds or takes away, with it as their condition."""
    said = stock_config(model_type, moves.fields).to_dict()
    switches: dict[str, bool] = {}
    usual = [*rows]
    for name, value in said.items():
        if type(value) is not bool or name in COMMON_FIELDS or name in ("tie_word_embeddings",) or name[0] == "_":
            continue
        turned = {**moves.fields, name: not value}
        try:
            after = shapes(cls, stock_config(model_type, turned))
            common = moves.base.keys() & after.keys()
            if after == moves.base or any(moves.base[n] != after[n] for n in common):
                continue
            one = probed(model_type, cls, {name: not value})
            tiny = TinyModel(model_type, cls, one.fields)
            model = built(cls, stock_config(model_type, one.fields))
            found = first_rows(one, model, traced(tiny))
        except (NotBuilt, NotDescribed) as error:
            notes.append(f"{name}={not value}: {error}")
            continue
        tinies[f"{name}={not value}"] = tiny
        switches[name] = value
        for row in (row for row in usual if row not in found):
            rows[row] = (rows[row][0], f"{rows[row][1]} {name if value else 'not ' + name}".strip())
        for row in (row for row in found if row not in rows):
            rows[row] = (found[row], f"{'not ' if value else ''}{name}")
    return rows, switches


def with_classes(
    model_type: str,
    classes: Mapping[str, type],
    main: str,
    moves: Moves,
    rows: dict[str, tuple[str, str]],
    prefix: str,
    tinies: dict[str, TinyModel],
    notes: list[str],
) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """Rows of the other classes, each with the classes that have it as its condition."""
    found: dict[str, dict[str, str]] = {main: {name: s for name, (s, _) in rows.items()}}
    aliases: list[str] = []
    for ending, cls in classes.items():
        if ending == main:
            continue
        try:
            one = probed(model_type, cls)
            if ending == BASE:
                names = {
                    f"{prefix}{name}"
                    for name in first_rows(one, built(cls, stock_config(model_type, one.fields)), Reads())
                }
                found[ending] = dict.fromkeys(names, "")
                continue
            tiny = TinyModel(model_type, cls, one.fields)
            model = built(cls, stock_config(model_type, one.fields))
            own = first_rows(one, model, traced(tiny))
        except (NotBuilt, NotDescribed) as error:
            notes.append(f"{cls.__name__}: {error}")
            continue
        if prefix and not any(n.startswith(prefix) for n in own):
            inner = _common_prefix(own, rows, prefix)
            if inner is None:
                notes.append(f"{cls.__name__}: its names are not those of {classes[main].__name__}")
                continue
            aliases.append(inner)
            own = {prefix + n.removeprefix(inner) if n.startswith(inner) else n: s for n, s in own.items()}
        found[ending], tinies[ending] = own, tiny
    heads = [ending for ending in found if ending != BASE]
    merged: dict[str, tuple[str, str]] = {}
    for name, signature in {n: s for ending in reversed(heads) for n, s in found[ending].items()}.items():
        switch = rows[name][1] if name in rows else ""
        having = [ending for ending in heads if name in found[ending]]
        if set(having) == set(heads) or (switch and name.startswith(prefix)):
            words = "" if BASE not in found or name in found[BASE] or switch else "|".join(having)
        else:
            words = "optional" if name in found.get(BASE, ()) else "|".join(having)
        merged[name] = (signature, f"{words} {switch}".strip())
    order = [*rows, *merged]
    return {name: merged[name] for name in dict.fromkeys(order)}, tuple(dict.fromkeys(aliases))


def _common_prefix(own: Mapping[str, str], rows: Mapping[str, Any], prefix: str) -> str | None:
    inner = [name.removeprefix(prefix) for name in rows if name.startswith(prefix)]
    for name in own:
        for end in inner:
            if name.endswith(f".{end}"):
                return name.removesuffix(end)
    return None
