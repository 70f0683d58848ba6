"""The families that grow knows, and the code that reads their tables.

Each folder, `decoders` and the others, holds one file of data for each family: `decoders/llama.py` holds `LLAMA`. A new
file there is a new family; nothing else lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from grow.architectures import decoders, encoders, experts, state_spaces, vision
from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.stock_source import known_type
from grow.errors import Refused, did_you_mean

GROUPS = (decoders, experts, encoders, vision, state_spaces)


def _families() -> Iterator[Family]:
    for group in GROUPS:
        for file in iter_modules(group.__path__, f"{group.__name__}."):
            family = getattr(import_module(file.name), file.name.rpartition(".")[2].upper())
            assert isinstance(family, Family), file.name
            yield family


FAMILIES: dict[str, Family] = {family.model_type: family for family in _families()}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`; `Refused`, listing what there is, when nobody has written it."""
    if model_type not in FAMILIES:
        # a model of another type does not become one of these by another name
        hint = "" if known_type(model_type) else did_you_mean(model_type, FAMILIES)
        raise Refused(
            "config.json: model_type",
            what=f"{model_type!r} is not a family that grow knows" + (f"; {hint}" if hint else ""),
            why="a family's table says what each tensor reads and writes; without it nothing can be proved",
            fix="known families: " + ", ".join(FAMILIES),
        )
    return FAMILIES[model_type]


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The family of a config, read with it; `Refused` where `family_of` refuses."""
    return Architecture(family_of(str(config.get("model_type"))), config)


def known_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """The family of a config, read with it; None for a model that grow has no table of."""
    family = FAMILIES.get(str(config.get("model_type")))
    return None if family is None else Architecture(family, config)
