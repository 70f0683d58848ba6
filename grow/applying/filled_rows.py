"""Rows that are filled: with one number, or drawn at the scale of the source."""

from __future__ import annotations

import numpy as np

from grow.applying.arithmetic import F64, UNSEEN_RMS, ReadRows, WriteRows, check_finite, rounded
from grow.notation.numbers import Noise, widen
from grow.notation.origins import Constant, Drawn, Read, Redrawn
from grow.planning.tensor import TensorPlan


def fill_rows(
    t: TensorPlan, origin: Constant | Drawn, read_rows: ReadRows, write_rows: WriteRows, seed: int, block: int
) -> None:
    """Every row of a tensor that is one number, or drawn."""
    height, width = t.new_matrix
    step = max(1, block // width)
    if isinstance(origin, Constant):
        for start in range(0, height, step):
            write_rows(start, rounded(t, np.full((min(step, height - start), width), origin.value, dtype=F64)))
        return
    step, repeat, rms = step * origin.repeat, origin.repeat, origin.rms
    if rms is None:
        rms = source_rms(t, read_rows, block) * np.sqrt(t.matrix[1] / width)  # who reads more inputs keeps its scale
    for start in range(0, height, step):
        count = min(step, height - start)
        drawn = Noise(seed, t.name + ":drawn", start).uniform((count // repeat, width), rms, F64)
        write_rows(start, rounded(t, np.repeat(drawn, repeat, axis=0)))


def redrawn(
    t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, read: Read, redraw: Redrawn, seed: int, block: int
) -> WriteRows:
    """`write_rows` that puts drawn weights, at the source's scale, in place of some units."""
    units, width = t.new_matrix[redraw.dim], t.new_matrix[1]
    order = np.argsort(Noise(seed, redraw.name, 0).one_to_two((units,), F64), kind="stable")
    chosen = np.zeros(units, dtype=bool)
    chosen[order[: round(redraw.share * units)]] = True
    rms = source_rms(t, read_rows, block) * abs(read.factor)

    def write(first: int, rows: np.ndarray) -> None:
        drawn = Noise(seed, f"{t.name}:{redraw.name}", first).uniform((len(rows), width), rms, F64)
        here = chosen[first : first + len(rows), None] if redraw.dim == 0 else chosen[None]
        write_rows(first, np.where(here, rounded(t, drawn), rows))

    return write


def source_rms(t: TensorPlan, read_rows: ReadRows, block: int) -> float:
    """√mean(w²) of the source; UNSEEN_RMS where it is all zeros."""
    rows, columns = t.matrix
    step, squares = max(1, block // columns), 0.0
    for start in range(0, rows, step):
        values = widen(read_rows(t.old, start, min(start + step, rows)), t.old.dtype, F64)
        check_finite(t.old.tensor, values)
        squares += float(np.square(values).sum())
    return np.sqrt(squares / (rows * columns)) or UNSEEN_RMS
