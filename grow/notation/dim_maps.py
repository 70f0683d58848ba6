"""The map of a stored dimension, from the maps of the spaces that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from grow.notation.axes import Concatenation, Dim, Fixed, Label, Space
from grow.notation.maps import AxisMap, concatenate, identity, product


def dim_map(dim: Dim, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> AxisMap | None:
    """None when no space in it changes.

    maps   space -> its map; a space that has none does not change
    sizes  axis -> old size, of the axes in the dim
    """
    axis_map = _map(dim.space, maps, sizes)
    return axis_map if axis_map is None or not dim.behind else axis_map.ungained


def coordinates(space: Space, label: str, sizes: Mapping[str, int]) -> np.ndarray:
    """(size,) True for the coordinates that belong to the space of this name, `head_dim.k`, of all in the dim."""
    if isinstance(space, Label):
        return np.full(space.size(sizes), space.space == label)
    if isinstance(space, Fixed):
        return np.zeros(space.count, dtype=bool)
    if isinstance(space, Concatenation):
        return np.concatenate([coordinates(part, label, sizes) for part in space.parts])
    whole = np.zeros(1, dtype=bool)
    for factor in space.factors:
        whole = (whole[:, None] | coordinates(factor, label, sizes)[None, :]).ravel()
    return whole


def _map(space: Space, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> AxisMap | None:
    if isinstance(space, Fixed):
        return None
    if isinstance(space, Label):
        axis_map = maps.get(space.space)
        return None if axis_map is None or axis_map.is_identity else axis_map
    together = isinstance(space, Concatenation)
    inner = space.parts if isinstance(space, Concatenation) else space.factors
    grown = tuple(_map(part, maps, sizes) for part in inner)
    if all(m is None for m in grown):
        return None
    whole = tuple(part.size(sizes) if m is None else m for part, m in zip(inner, grown))
    return _joined(whole, together=together)


@lru_cache(maxsize=32)
def _joined(parts: tuple[AxisMap | int, ...], *, together: bool) -> AxisMap:
    """The same map for every layer; a number is an unchanged space of that size."""
    whole = [identity(part) if isinstance(part, int) else part for part in parts]
    return concatenate(whole) if together else product(whole)
