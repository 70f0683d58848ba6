"""Rows that are filled: with one number, or drawn at the scale of the source."""

from __future__ import annotations

import numpy as np

from grow.applying.arithmetic import F64, UNSEEN_RMS, ReadRows, WriteRows, check_finite, rounded
from grow.notation.numbers import Noise, widen
from grow.planning.change import DRAWN
from grow.planning.tensor import TensorPlan


def fill_rows(t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, seed: int, block: int) -> None:
    """A tensor that is one number, or drawn at the scale of the old one (its columns may have become more)."""
    height, width = t.new_matrix
    step = max(1, block // width) * t.repeat
    if t.fill != DRAWN:
        for start in range(0, height, step):
            write_rows(start, rounded(t, np.full((min(step, height - start), width), t.fill, dtype=F64)))
        return
    rms = t.rms
    if rms is None:
        rms = source_rms(t, read_rows, block) * np.sqrt(t.matrix[1] / width)  # who reads more inputs keeps its scale
    for start in range(0, height, step):
        count = min(step, height - start)
        drawn = Noise(seed, t.name + ":drawn", start).uniform((count // t.repeat, width), rms, F64)
        write_rows(start, rounded(t, np.repeat(drawn, t.repeat, axis=0)))


def redrawn(t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, seed: int, block: int) -> WriteRows:
    """`write_rows` that puts drawn weights, at the source's scale, in place of some units."""
    assert t.redraw is not None
    share, name, dim = t.redraw
    units, width = t.new_matrix[dim], t.new_matrix[1]
    order = np.argsort(Noise(seed, name, 0).one_to_two((units,), F64), kind="stable")
    chosen = np.zeros(units, dtype=bool)
    chosen[order[: round(share * units)]] = True
    rms = source_rms(t, read_rows, block) * abs(t.factor)

    def write(first: int, rows: np.ndarray) -> None:
        drawn = Noise(seed, f"{t.name}:{name}", first).uniform((len(rows), width), rms, F64)
        here = chosen[first : first + len(rows), None] if dim == 0 else chosen[None]
        write_rows(first, np.where(here, rounded(t, drawn), rows))

    return write


def source_rms(t: TensorPlan, read_rows: ReadRows, block: int) -> float:
    """√mean(w²) of the source; UNSEEN_RMS where it is all zeros."""
    rows, columns = t.matrix
    step, squares = max(1, block // columns), 0.0
    for start in range(0, rows, step):
        values = widen(read_rows(start, min(start + step, rows)), t.source_dtype, F64)
        check_finite(t.source, values)
        squares += float(np.square(values).sum())
    return np.sqrt(squares / (rows * columns)) or UNSEEN_RMS
