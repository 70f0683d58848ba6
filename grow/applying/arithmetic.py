"""The arithmetic of a grown tensor: the dtype of the work, the sizes of noise, the last rounding.

These are parts of the result, not of the way to it: another work dtype or another block draws other noise. So the
reference and the fast paths both read them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from grow.errors import BadInput, Refused
from grow.notation.axes import READ, WRITE
from grow.notation.maps import UNREAD, is_power_of_two
from grow.notation.numbers import narrow, stored
from grow.notation.origins import Read, SourcePart
from grow.planning.tensor import HALVED, TensorPlan
from grow.spelling import Either, option

ReadRows = Callable[[SourcePart, int, int], np.ndarray]  # rows [start, stop) of a part, as a matrix in stored form
WriteRows = Callable[[int, np.ndarray], None]  # first row, (rows, columns) in stored form

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
UNSEEN_RMS = 0.02  # scale of fresh weights beside a tensor that is all zeros
GROUPS = 16  # of old rows, whose means new tokens are blends of
# Noise of the noisy split, relative to an even share: uniform on ±0.548 of it, 10 dB below it
NOISE = 3**0.5 * 10**-0.5


@dataclass(frozen=True)
class Arithmetic:
    """How precisely a tensor is computed.

    work          float32, or float64 where a factor is not a power of two or numbers of 64 bits are read or written
    storable      every number that is computed is one that the result's dtype stores; what is drawn then loses its last
                  bits, which is faster than rounding and as random
    share_dtype   dtype in which the shares of a consumer's weights are drawn: float64 where a producer's factor rounds
                  them afterwards, for a number is rounded once
    expert_dtype  the same for the shares of experts, which every other factor rounds afterwards
    """

    work: np.dtype
    storable: bool
    share_dtype: str
    expert_dtype: str


def arithmetic(t: TensorPlan, read: Read, split: str) -> Arithmetic:
    """`read` is what the tensor comes from."""
    maps = [(m, role) for m, role in zip(t.maps, t.roles) if m is not None]
    halves = split in HALVED
    powers = all(m.exact_factors for m, _ in maps) and is_power_of_two(read.factor)
    exact = powers and not (halves and t.dtype == "F64")
    still = read.factor == 1 and not read.among and all((m.write == 1).all() for m, _ in maps)
    rounding_producer = any(role == WRITE and not m.exact_factors for m, role in maps)
    dtypes = read_dtypes(t, read)
    return Arithmetic(
        work=F64 if not exact or "F64" in (t.dtype, *dtypes) else F32,
        storable=exact and still and not halves and dtypes == {t.dtype},
        share_dtype="F64" if rounding_producer else t.dtype,
        expert_dtype=t.dtype if exact else "F64",
    )


def read_dtypes(t: TensorPlan, read: Read) -> set[str]:
    """In which the numbers that a tensor is made of are stored."""
    return {t.old.dtype} if read.above is None else {t.old.dtype, read.above.dtype}


def paired(t: TensorPlan, split: str) -> bool:
    """Whether copies of the tensor's units each read one copy of their inputs: diagonal, and both dims have copies."""
    maps = [m for m in t.maps if m is not None and m.counts.max(initial=1) > 1]
    return split == "diagonal" and len(maps) == 2 and set(t.roles) == {READ, WRITE}


def runs(index: np.ndarray, longest: int | None = None) -> Iterator[tuple[int, int]]:
    """(first, stop) positions in `index` of its stretches of consecutive numbers, each at most `longest` long."""
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    for first, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(index)]):
        step = longest or max(1, stop - first)
        for at in range(first, stop, step):
            yield at, min(at + step, stop)


def sum_of_squares(name: str, values: np.ndarray) -> float:
    """Σ w² of a block; BadInput where one of its values is NaN or Inf."""
    flat = values.ravel()
    squares = float(np.dot(flat, flat))
    if not np.isfinite(squares):
        check_finite(name, flat)
        squares = float(np.dot(flat.astype(F64), flat.astype(F64)))
    return squares


def check_finite(name: str, values: np.ndarray) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise BadInput(
            name,
            what=f"{bad} value{'s are' if bad > 1 else ' is'} NaN or Inf",
            why="a network with such a weight has no output to preserve",
            fix="repair the checkpoint",
        )


def rounded(t: TensorPlan, values: np.ndarray) -> np.ndarray:
    """The rows as they are written, rounded to nearest; Refused when the dtype cannot hold them."""
    raw = narrow(values, t.dtype)
    # NaN too: the shares of an Inf are Inf - Inf
    finite = (raw & 0x7F80) != 0x7F80 if t.dtype == "BF16" else np.isfinite(raw)
    if not finite.all():
        raise Refused(
            t.name,
            what=f"a value does not fit into {t.dtype}",
            why="it would be stored as Inf",
            fix=option(dtype=Either(("float32", "bfloat16")) if t.dtype == "F16" else "float64"),
        )
    return raw


def as_drawn(t: TensorPlan, values: np.ndarray, how: Arithmetic) -> np.ndarray:
    """Drawn numbers as they are written."""
    return stored(values, t.dtype) if how.storable else rounded(t, values)


def is_random(kind: int, reads: bool) -> bool:
    """Which side of a fresh coordinate is random: producers of unread ones, consumers of all others."""
    return kind != UNREAD if reads else kind == UNREAD


def taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows; all of them as they lie, for a copy may be summed in another order."""
    return values if len(rows) == len(values) else values[rows]
