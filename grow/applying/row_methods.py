"""Which of five ways each tensor is grown, and why."""

from __future__ import annotations

from enum import Enum

from grow.applying.arithmetic import Arithmetic
from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.maps import MEAN, SILENT, UNREAD, AxisMap
from grow.planning.tensor import TensorPlan


class Path(Enum):
    """A path and the reason to take it."""

    FILL = "no old number is kept: all of it is one number, or drawn"
    WHOLE = "a norm's gain or bias: small enough to be read and grown whole"
    MOVE = "no old number changes: their bits are put in place, several times faster than through floats"
    STORE = "every number that is computed can be stored: it is before copies are made, and nothing is rounded"
    ROUND = "factors or shares round: each row is computed wide, scaled, and rounded once at the end"


def path_of(t: TensorPlan, how: Arithmetic) -> Path:
    """The path of a tensor; `how` is its arithmetic."""
    if t.fill is not None:
        return Path.FILL
    if t.roles[0] in (GAIN, SHIFT):
        return Path.WHOLE
    still = t.factor == 1 and t.share is None and t.dtype == t.source_dtype
    if still and all(_only_moves(m, role, rows=k == 0) for k, (m, role) in enumerate(zip(t.maps, t.roles))):
        return Path.MOVE
    return Path.STORE if how.storable else Path.ROUND


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
