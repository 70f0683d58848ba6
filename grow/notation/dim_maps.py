"""The map of a stored dimension, from the maps of the spaces that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from grow.notation.axes import Dim
from grow.notation.maps import AxisMap, concatenate, identity, product
from grow.notation.spaces import Concatenation, Dealt, Fixed, Label, Product, Space, dealt


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
    if isinstance(space, Dealt):
        behind: np.ndarray = np.concatenate([coordinates(part, label, sizes) for part in space.parts])
        shares: np.ndarray = behind[dealt([part.size(sizes) for part in space.parts], space.by.size(sizes))]
        return shares
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
    together = not isinstance(space, Product)
    inner = space.factors if isinstance(space, Product) else space.parts
    grown = tuple(_map(part, maps, sizes) for part in inner)
    if all(m is None for m in grown):
        return None
    whole = tuple(part.size(sizes) if m is None else m for part, m in zip(inner, grown))
    if isinstance(space, Dealt):
        by = maps.get(space.by.space) if isinstance(space.by, Label) else None
        shares = space.by.size(sizes)
        return _dealt(whole, shares, shares if by is None else by.m)
    return _joined(whole, together=together)


@lru_cache(maxsize=32)
def _dealt(parts: tuple[AxisMap | int, ...], shares: int, new_shares: int) -> AxisMap:
    """The map of parts one behind the other, in the order in which they are dealt before and after."""
    behind = _joined(parts, together=True)
    old, new = ([size if isinstance(size, int) else getattr(size, of) for size in parts] for of in ("n", "m"))
    where = dealt(new, new_shares)
    place = np.argsort(dealt(old, shares))
    source = behind.source[where]
    columns = {name: getattr(behind, name)[where] for name in ("write", "read", "gain")}
    return AxisMap(behind.n, np.where(source >= 0, place[np.maximum(source, 0)], source), **columns)


@lru_cache(maxsize=32)
def _joined(parts: tuple[AxisMap | int, ...], *, together: bool) -> AxisMap:
    """The same map for every layer; a number is an unchanged space of that size."""
    whole = [identity(part) if isinstance(part, int) else part for part in parts]
    return concatenate(whole) if together else product(whole)
