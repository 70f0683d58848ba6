"""Fields as a stock config class declares them: the values that their annotations and bounds admit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grow.files.json_floats import is_special


@dataclass(frozen=True)
class Declared:
    """A field of the config class: what its annotation admits, and the bounds of its validator."""

    annotation: ast.expr
    default: ast.expr | None

    @property
    def words(self) -> str:
        """`float | int`"""
        return ast.unparse(self.annotation)

    def admits(self, value: Any) -> bool:
        """Whether stock code lets a field have this value, as far as its declaration says."""
        return _admits(self.annotation, value) and self._within(value)

    @property
    def bounds(self) -> dict[str, float]:
        """`interval(min=0.0, max=1.0)(default=0.02)` -> {"min": 0.0, "max": 1.0}"""
        call = self.default.func if isinstance(self.default, ast.Call) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "interval":
            return {}
        arguments = {str(k.arg): k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        return {name: n for name, n in arguments.items() if name in ("min", "max") and isinstance(n, (int, float))}

    @property
    def unset(self) -> bool:
        """Whether the field is null where config.json leaves it out."""
        return isinstance(self.default, ast.Constant) and self.default.value is None

    def _within(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        bounds = self.bounds
        return bounds.get("min", value) <= value <= bounds.get("max", value)


def declared_fields(node: ast.ClassDef) -> Iterator[tuple[str, Declared]]:
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    for line in lines:
        if isinstance(line.target, ast.Name) and "ClassVar" not in ast.unparse(line.annotation):
            yield line.target.id, Declared(line.annotation, line.value)


def _admits(kind: ast.expr, value: Any) -> bool:
    """An annotation against a value of JSON, by the rules of strict dataclasses; True for what is not known here."""
    if isinstance(kind, ast.BinOp):
        return _admits(kind.left, value) or _admits(kind.right, value)
    if isinstance(kind, ast.Constant):
        return value is None if kind.value is None else True
    if isinstance(kind, ast.Subscript):
        inner = list(kind.slice.elts) if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        name = ast.unparse(kind.value).rpartition(".")[2]
        if name in ("Union", "Optional"):
            return (name == "Optional" and value is None) or any(_admits(item, value) for item in inner)
        if name == "Literal":
            literals = [item.value for item in inner if isinstance(item, ast.Constant)]
            return any(type(item) is type(value) and item == value for item in literals)
        if name in ("list", "List"):
            return isinstance(value, list) and all(_admits(inner[0], item) for item in value)
        if name in ("dict", "Dict"):
            return isinstance(value, dict) and all(_admits(inner[-1], item) for item in value.values())
        if name in ("tuple", "Tuple"):
            return isinstance(value, list) and len(value) == len(inner) and all(map(_admits, inner, value))
        return True
    if isinstance(kind, ast.Name):
        if is_special(value):
            return kind.id not in ("int", "str", "bool", "list")
        if kind.id == "int":
            return type(value) is int
        plain_types = {"float": float, "str": str, "bool": bool, "dict": dict, "list": list}
        return isinstance(value, plain_types[kind.id]) if kind.id in plain_types else not _is_scalar(kind.id, value)
    return True


def _is_scalar(name: str, value: Any) -> bool:
    """A typed dict such as RopeParameters is neither a number nor a text; nothing is known of other names."""
    return name.endswith("Parameters") and not isinstance(value, dict)
