"""The equation of a norm's gain or bias, which is read whole."""

from __future__ import annotations

import numpy as np

from grow.notation.axes import SHIFT
from grow.verification.weights.tensor_faults import TensorCheck


def check_norm(check: TensorCheck, old_rows: np.ndarray, new_rows: np.ndarray) -> None:
    """A gain or a bias, whole."""
    t = check.t
    axis_map = t.maps[0]
    if axis_map is None:
        check.equal(new_rows, old_rows, np.abs(old_rows), np.arange(len(new_rows)), "unchanged")
        return
    shift = t.roles[0] == SHIFT
    if t.tied:
        weight = axis_map.write if shift else axis_map.write**2
        total, terms = np.zeros_like(old_rows), np.zeros_like(old_rows)
        for old, new in axis_map.layers:
            total[old] += new_rows[new] * weight[new][:, None]
            terms[old] += np.abs(new_rows[new] * weight[new][:, None])
        check.equal(total, old_rows, terms, axis_map.layers[0][1], "shares of the head's norm sum to the old one")
    else:
        for old, new in axis_map.layers:
            wanted = old_rows[old] * (1.0 if shift else axis_map.gain[new][:, None])
            check.equal(new_rows[new], wanted, np.abs(wanted), new, "copied" if shift else "old gain × gain")
    if shift:
        fresh = np.flatnonzero(axis_map.source < 0)
        check.zero(new_rows[fresh], fresh, [0], "a fresh coordinate has bias 0")


def check_offset_gain(check: TensorCheck, factor: float, old_rows: np.ndarray, new_rows: np.ndarray) -> None:
    """A gain that is stored without its offset: the equation of `check_norm`, with the offset taken out of the sum.

    Copies whose gain is 0 are left out, so that where as many copies as it takes have the old gain, nothing rounds.
    """
    t, axis_map = check.t, check.t.maps[0]
    if axis_map is None:
        check.equal(new_rows, old_rows, np.abs(old_rows), np.arange(len(new_rows)), "unchanged")
        return
    slack = abs(t.offset) * (check.unit > 0)
    if t.tied:
        total, terms, active = np.zeros_like(old_rows), np.zeros_like(old_rows), np.zeros_like(old_rows)
        weight = axis_map.write[:, None] ** 2
        for old, new in axis_map.layers:
            on = new_rows[new] != -t.offset
            total[old] += np.where(on, new_rows[new] * weight[new], 0)
            active[old] += on * weight[new]
            terms[old] += (np.abs(new_rows[new]) + slack) * weight[new]
        wanted = old_rows * factor + t.offset * (factor - active)
        check.equal(total, wanted, terms, axis_map.layers[0][1], "shares of the head's norm sum to the old one")
        return
    for old, new in axis_map.layers:
        times = axis_map.gain[new][:, None] * factor
        wanted = old_rows[old] * times + t.offset * (times - 1)
        check.equal(new_rows[new], wanted, np.abs(wanted) + slack, new, "old gain × gain")
