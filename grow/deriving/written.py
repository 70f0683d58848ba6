"""A derived family as a file of Python: the table, the facts, and beside each what proves it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from grow.architectures import facts, layer_lists
from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.family import Family
from grow.deriving.derivation import Derived, constant
from grow.deriving.search import PROVED, Axis, Value

WIDTH = 118


def file_text(derived: Derived, transformers: str) -> str:
    """The text of FILE.py. The family is called as its type, and nothing in the file runs but its constructor."""
    family = derived.family
    assert family is not None
    name = constant(derived.model_type)
    body = list(_arguments(derived, family))
    imports = ["from grow.architectures.family import Family"]
    for module in (facts, layer_lists):
        own = [name for name, cls in vars(module).items() if is_dataclass(cls) and cls.__module__ == module.__name__]
        if used := sorted(name for name in own if any(f"{name}(" in line for line in body)):
            imports.append(f"from {module.__name__} import {', '.join(used)}")
    if any("ELEMENTWISE" in line for line in body):
        imports.append("from grow.architectures.common_fields import ELEMENTWISE")
    lines = [
        f'"""{derived.model_type}, derived from its stock class by `grow families --derive {derived.model_type}` '
        f"(transformers {transformers}).",
        "",
        *_summary(derived),
        '"""',
        "",
        *sorted(imports),
        "",
        *_comments(_about_rows(derived.axes)),
        'TABLE = """',
        *family.table.strip("\n").splitlines(),
        '"""' + ("  # noqa: E501" if any(len(line) > WIDTH for line in family.table.splitlines()) else ""),
        "",
        f"{name} = Family(",
        *body,
        ")",
        "",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _summary(derived: Derived) -> Iterator[str]:
    yield "Tiny random models of it were grown along each axis, in true float64; off is max |Δ| / std of an output. The"
    yield "comments say what other values of a fact give."
    yield ""
    for axis in derived.axes:
        yield f"    {axis.axis:<10}  {axis.status}: {_found(axis)}"
    for note in derived.notes:
        yield f"    left out    {note}"


def _found(axis: Axis) -> str:
    if axis.status != PROVED:
        return axis.why
    others = len([value for value in axis.values if value.fails])
    idle = len([value for value in axis.values if value.idle])
    told = f"off {axis.off_when_exact:.0e} at {axis.sizes}"
    told += f"; {others} other values of its facts fail" if others else ""
    return told + (f", {idle} make no difference" if idle else "")


def _about_rows(axes: Sequence[Axis]) -> list[str]:
    """One line for each fact that is about rows."""
    found: dict[str, list[str]] = {}
    for axis in axes:
        for value in axis.values:
            if _belongs(value) is None:
                found.setdefault(value.fact, []).append(_told(value))
    return [f"{fact}: {'; '.join(words)}" for fact, words in found.items()]


def _belongs(value: Value) -> str | None:
    """The argument of Family that a fact belongs to; None for one of the table."""
    if value.fact in ("kind of the norms", "place of the norms"):
        return "norm"
    return "attention" if value.fact in ("scores", "rotation") else None


def _told(value: Value) -> str:
    return f"{value.value} " + ("makes no difference" if value.idle else f"gives {value.words}")


def _arguments(derived: Derived, family: Family) -> Iterator[str]:
    """The arguments of the constructor that are not what they are by default."""
    evidence: dict[str, list[str]] = {}
    for axis in derived.axes:
        for value in axis.values:
            if (argument := _belongs(value)) is not None:
                evidence.setdefault(argument, []).append(f"{value.fact}: {_told(value)}")
    for name, words in derived.fields.items():
        argument = "harmless" if name in family.harmless else "fixed"
        evidence.setdefault(argument, []).append(f"{name}: {words}")
    usual = Family("", "", "", {}, norm=facts.Norm("rms"), attention=facts.Attention(), tie=None, sizes={})
    required = ("model_type", "table", "prefix", "axes", "norm", "attention", "tie", "sizes")
    for one in fields(Family):
        value = getattr(family, one.name)
        if one.name in required or value != getattr(usual, one.name):
            yield from (f"    {line}" for line in _comments(evidence.get(one.name, ())))
            text = "TABLE" if one.name == "table" else _shown(value)
            first, *rest = f"{one.name}={text},".splitlines()
            yield f"    {first}"
            yield from (f"    {line}" for line in rest)


def _shown(value: Any, indent: str = "") -> str:
    """A value as Python, one entry per line where it is long."""
    if value is ELEMENTWISE:
        return "ELEMENTWISE"
    if is_dataclass(value) and not isinstance(value, type):
        said = [f"{f.name}={_shown(v)}" for f in fields(value) if (v := getattr(value, f.name)) != _usual(f)]
        return _bracketed(f"{type(value).__name__}(", said, ")", indent)
    if isinstance(value, Mapping):
        return _bracketed("{", [f"{_shown(k)}: {_shown(v, indent + '    ')}" for k, v in value.items()], "}", indent)
    if isinstance(value, frozenset):
        return f"frozenset({_shown(sorted(value), indent)})" if value else "frozenset()"
    if isinstance(value, (tuple, list)):
        open_, close = "()" if isinstance(value, tuple) else "[]"
        items = [_shown(one, indent + "    ") for one in value]
        if isinstance(value, tuple) and len(items) == 1:
            return f"({items[0]},)"
        return _bracketed(open_, items, close, indent)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _bracketed(open_: str, items: Sequence[str], close: str, indent: str) -> str:
    """On one line where that fits, else one line for each item."""
    line = f"{open_}{', '.join(items)}{close}"
    if len(line) + len(indent) <= 90 and "\n" not in line:
        return line
    return open_ + "\n" + "".join(f"{indent}    {item},\n" for item in items) + indent + close


def _usual(one: Any) -> Any:
    """The default of a field, which a family leaves out."""
    made = one.default_factory
    return made() if one.default is MISSING and made is not MISSING else one.default


def _comments(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        words, text = line.split(), "#"
        for word in words:
            if len(text) + len(word) + 1 > WIDTH - 4:
                yield text
                text = "#  "
            text += f" {word}"
        yield text


def document(derived: Derived) -> dict[str, Any]:
    """A derivation as JSON."""
    return {
        "schema": 1,
        "model_type": derived.model_type,
        "why": derived.why,
        "whole": derived.whole,
        "axes": [
            {
                "axis": axis.axis,
                "status": axis.status,
                "grown": axis.sizes,
                "off": axis.off_when_exact,
                "why": axis.why,
                "others": [
                    {"fact": v.fact, "value": v.value, "came_to": v.words, "fails": v.fails, "no_difference": v.idle}
                    for v in axis.values
                ],
            }
            for axis in derived.axes
        ],
        "fields": dict(derived.fields),
        "left_out": list(derived.notes),
    }
