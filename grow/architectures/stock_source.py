"""What the installed transformers does with a config, read from its source code.

    fields    name -> annotation and default of every field of the config class (a strict dataclass refuses others)
    classes   the model classes of the family
    reads     whether any code that can see a config reads a field of that name, and whether null is then no value

Importing a config class would import torch, and a plan needs none. Where the source has another form than these rules
know (another version), less is known: then nothing counts as unread.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeGuard

from grow.architectures.stock_declarations import Declared, declared_fields
from grow.architectures.stock_files import parsed, stock_files
from grow.architectures.stock_reads import Reading, search


@dataclass(frozen=True)
class Stock:
    """The source of one model type. `fields` is empty where this version declares none."""

    model_type: str
    fields: Mapping[str, Declared] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    root: Path | None = None
    _readings: dict[str, Reading] = field(default_factory=dict, repr=False, compare=False)

    def readings(self, names: Iterable[str]) -> dict[str, Reading]:
        """How each of these is read; where there is no source to tell, all count as read."""
        names = [*names]
        if self.root is None:
            return dict.fromkeys(names, Reading(True, True))
        wanted = [name for name in names if name not in self._readings]
        if wanted:
            self._readings.update(search(self.root, self.model_type, wanted))
        return {name: self._readings[name] for name in names}

    @property
    def generates(self) -> frozenset[str]:
        """Fields that only generation takes from a config: the parameters of the generation config."""
        return _generation_fields(self.root) if self.root else frozenset()


@cache
def stock_of(model_type: str) -> Stock:
    """The stock code of a model type; one that knows nothing when transformers is not there or has no such type."""
    root = root_of_transformers()
    place = stock_files(root, model_type) if root else None
    if root is None or place is None:
        return Stock(model_type)
    tree, common = parsed(place.config), _common_fields(root)
    if tree is None or common is None:
        return Stock(model_type)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _says(node, model_type)]
    strict = classes and any("strict" in ast.unparse(d) for d in classes[0].decorator_list)
    fields = {**common, **dict(declared_fields(classes[0]))} if strict and common else {}
    models = parsed(place.model)
    return Stock(model_type, fields, _exported(models) if models else (), root)


@cache
def _common_fields(root: Path) -> Mapping[str, Declared] | None:
    """The fields of every config; None where their file cannot be parsed."""
    base = parsed(root / "configuration_utils.py")
    if base is None:
        return None
    classes = (node for node in base.body if _is_class(node, "PreTrainedConfig"))
    return {name: declared for node in classes for name, declared in declared_fields(node)}


@cache
def _generation_fields(root: Path) -> frozenset[str]:
    """The arguments that the constructor of `GenerationConfig` takes out of its `kwargs`."""
    tree = parsed(root / "generation" / "configuration_utils.py")
    classes = [node for node in ast.walk(tree) if _is_class(node, "GenerationConfig")] if tree else []
    calls = (node for cls in classes for node in ast.walk(cls) if isinstance(node, ast.Call))
    return frozenset(
        str(call.args[0].value)
        for call in calls
        if _is_call_of(call, "kwargs", "pop") and call.args and isinstance(call.args[0], ast.Constant)
    )


@cache
def root_of_transformers() -> Path | None:
    """Where the package lies, without importing it."""
    try:
        spec = importlib.util.find_spec("transformers")
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def known_type(model_type: str) -> bool:
    """Whether the installed transformers has models of this type."""
    root = root_of_transformers()
    return root is not None and stock_files(root, model_type) is not None


def _is_class(node: ast.AST, name: str) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and node.name == name


def _is_call_of(call: ast.Call, owner: str, method: str) -> bool:
    called = call.func
    named = isinstance(called, ast.Attribute) and called.attr == method
    return (
        named and isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == owner
    )


def _says(node: ast.ClassDef, model_type: str) -> bool:
    return any(
        isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Constant)
        and line.value.value == model_type
        and any(isinstance(target, ast.Name) and target.id == "model_type" for target in line.targets)
        for line in node.body
    )


def _exported(tree: ast.Module) -> tuple[str, ...]:
    for line in tree.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__":
            return tuple(str(name.value) for name in getattr(line.value, "elts", ()) if isinstance(name, ast.Constant))
    return ()
