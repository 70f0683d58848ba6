"""Infinities and NaN in config.json, which transformers writes as objects."""

from __future__ import annotations

from typing import Any

FLOAT = "__float__"
"""The one key of the object as which transformers writes a float that JSON has no number for."""


def is_special(value: Any) -> bool:
    """Whether a value of config.json stands for a float that JSON has no number for."""
    return isinstance(value, dict) and value.keys() == {FLOAT} and value[FLOAT] in ("Infinity", "-Infinity", "NaN")


def plain(value: Any) -> Any:
    """`value` with infinities and NaN as floats, at any depth: what stock code makes of config.json."""
    if is_special(value):
        return float(value[FLOAT].replace("Infinity", "inf"))
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
