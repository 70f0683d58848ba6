"""Which of five ways each tensor is grown, and why."""

from __future__ import annotations

from enum import Enum

from grow.applying.arithmetic import arithmetic, read_dtypes
from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.maps import MEAN, SILENT, UNREAD, AxisMap
from grow.notation.origins import Read
from grow.planning.tensor import TensorPlan


class Path(Enum):
    """A path and the reason to take it."""

    FILL = "no old number is kept: all of it is one number, or drawn"
    WHOLE = "a norm's gain or bias: small enough to be read and grown whole"
    MOVE = "no old number changes: their bits are put in place, several times faster than through floats"
    STORE = "every number that is computed can be stored: it is before copies are made, and nothing is rounded"
    ROUND = "factors or shares round: each row is computed wide, scaled, and rounded once at the end"


def path_of(t: TensorPlan, split: str) -> Path:
    """The path of a tensor that is no stack."""
    read = t.origin
    if not isinstance(read, Read):
        return Path.FILL
    if t.roles[0] in (GAIN, SHIFT):
        return Path.WHOLE
    still = read.factor == 1 and not read.among and read_dtypes(t, read) == {t.dtype}
    if still and all(_only_moves(m, role, rows=k == 0) for k, (m, role) in enumerate(zip(t.maps, t.roles))):
        return Path.MOVE
    return Path.STORE if arithmetic(t, read, split).storable else Path.ROUND


def _only_moves(axis_map: AxisMap | None, role: str, rows: bool) -> bool:
    """Whether this dim needs no arithmetic: old numbers keep their value, and fresh columns are 0; fresh rows are made
    apart."""
    if axis_map is None:
        return True
    zero = UNREAD if role == READ else SILENT
    if not rows and any(len(axis_map.fresh(kind)) for kind in (SILENT, UNREAD, MEAN) if kind != zero):
        return False
    if role == READ:
        return bool(axis_map.counts.max(initial=1) == 1 and (axis_map.gain * axis_map.write == 1).all())
    return bool((axis_map.write == 1).all())
