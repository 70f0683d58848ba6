"""The growth of a norm's gain or bias, whole."""

from __future__ import annotations

import numpy as np

from grow.applying.arithmetic import F64, NOISE, check_finite, rounded
from grow.notation.axes import SHIFT
from grow.notation.maps import AxisMap, identity
from grow.notation.numbers import Noise, representable, split_even, split_exact, widen
from grow.notation.origins import Read
from grow.planning.tensor import HALVED, TensorPlan, offset_shares


def grow_norm(t: TensorPlan, read: Read, old: np.ndarray, split: str, seed: int) -> np.ndarray:
    """(m, 1) a norm's gain or bias. In front of a tied head it is shared among copies like a consumer's weight."""
    values = widen(old, t.old.dtype, F64).ravel()
    check_finite(t.old.tensor, values)
    axis_map = identity(len(values)) if t.maps[0] is None else t.maps[0]
    if t.offset:
        return rounded(t, _offset_gain(t, read.factor, values, axis_map)[:, None])
    values, shift = values * read.factor, t.roles[0] == SHIFT
    shares = [values[None]] * len(axis_map.layers)
    if t.tied and split in HALVED:
        shares = split_even(values[None], axis_map.counts)
    elif t.tied:
        dtype = t.dtype if axis_map.exact_factors else "F64"  # what a factor rounds afterwards is not rounded before
        whole, noise = representable(values[None], dtype), Noise(seed, t.name, 0)
        shares = split_exact(whole, axis_map.counts, dtype, noise, NOISE if split == "noisy" else None)
    new = np.zeros(axis_map.m) if shift else np.abs(values).mean() * axis_map.gain
    for share, (source, place) in zip(shares, axis_map.layers):
        scale = np.ones(len(place)) if shift else axis_map.gain[place]
        new[place] = share[0, source] * (scale / axis_map.write[place] if t.tied else scale)
    return rounded(t, new[:, None])


def _offset_gain(t: TensorPlan, factor: float, values: np.ndarray, axis_map: AxisMap) -> np.ndarray:
    """(m,) a gain stored as w that means offset + w: its f-fold is stored as f·w + (f - 1)·offset.

    So written, a gain that stays is the same number bit for bit, and one that becomes 0 is -offset exactly.
    """
    fresh: np.ndarray = np.abs(values + t.offset).mean() * axis_map.gain - t.offset
    factors, old = offset_shares(axis_map, factor, tied=t.tied), np.maximum(axis_map.source, 0)
    grown: np.ndarray = np.where(axis_map.source >= 0, values[old] * factors + (factors - 1) * t.offset, fresh)
    return grown
