"""The map of a stored dimension, made of the maps of its spaces."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from grow.notation.axes import Dim, Label
from grow.notation.maps import AxisMap, behind, concatenate, identity, product


def dim_map(dim: Dim, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> AxisMap | None:
    """The map of a stored dimension from the maps of its spaces; None when no space in it changes."""

    def of(label: Label, side: str = "") -> AxisMap | None:
        found = maps.get(label.space) or maps.get(f"{label.axis}.{side}")
        if found is None or found.is_identity:
            return None
        return found if not label.extra else behind(label.extra, found)

    def joined(labels: tuple[Label, ...], side: str = "") -> AxisMap:
        return _product(tuple(of(label, side) or label.size(sizes) for label in labels))

    axes = [label.axis for label in dim.labels]
    if "qkv" in axes:
        at = axes.index("qkv")
        outer, inner = dim.labels[:at], dim.labels[at + 1 :]
        if not any(of(label, side) for label in (*outer, *inner) for side in "qkv"):
            return None
        sides = concatenate([joined(inner, side) for side in "qkv"])
        return product([joined(outer), sides]) if outer else sides
    return joined(dim.labels) if any(map(of, dim.labels)) else None


@lru_cache(maxsize=16)
def _product(factors: tuple[AxisMap | int, ...]) -> AxisMap:
    """The same map for every layer; a number is an unchanged space of that size."""
    return product([identity(factor) if isinstance(factor, int) else factor for factor in factors])
