"""The equation of a growth, proved on the stored weights tensor by tensor.

Let E be the embedding of an axis (coordinate j carries gain[j]·write[j] times its source where a consumer sees it,
write[j] times where a producer writes it). A grown tensor W̃ computes what W did exactly when

    W̃ · E_in  =  E_out · W          for every tensor, with E_in of the axes it reads and E_out of those it writes,

unread coordinates have weight 0 in every consumer, silent ones are never written, and the law holds on every axis.
This is checked on what lies in the files; how the shares of a weight were drawn does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from grow.applying.engine import part_rows, stored_matrix
from grow.applying.tensor_rows import BLOCK
from grow.checkpoint.reader import Checkpoint
from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.maps import BLEND, MEAN, SILENT, UNREAD, AxisMap
from grow.notation.numbers import narrow, widen
from grow.notation.origins import Constant, Drawn, Read, Stack
from grow.planning.tensor import TensorPlan
from grow.verification.weights.norm_equation import check_norm, check_offset_gain
from grow.verification.weights.tensor_faults import TensorCheck, unit_of

F64 = np.dtype(np.float64)
Rows = Callable[[np.ndarray], np.ndarray]  # row numbers -> these rows of the grown tensor, in float64


def check_tensor(t: TensorPlan, source: Checkpoint, grown: Checkpoint, split: str) -> TensorCheck:
    """The intertwining equation on one stored tensor; both sides are read in blocks."""
    checks = [_check_part(part, t.name, begin, source, grown, split) for begin, part in t.parts]
    if not isinstance(t.origin, Stack):
        return checks[0]
    whole = TensorCheck(t, max(check.unit for check in checks))
    whole.worst = max(check.worst for check in checks)
    for (begin, _), check in zip(t.parts, checks):
        for fault in check.faults:
            row, column = (*(fault.at or (0,)), 0)[:2]
            flat = (row + begin) * t.new_matrix[1] + column
            at = tuple(int(i) for i in np.unravel_index(flat, t.new_shape))
            whole.faults.append(replace(fault, tensor=t.name, at=at))
    return whole


def _check_part(t: TensorPlan, name: str, begin: int, source: Checkpoint, grown: Checkpoint, split: str) -> TensorCheck:
    """One matrix (or vector), which stands in the tensor `name` from row `begin` on."""
    factor = t.origin.factor if isinstance(t.origin, Read) else 1.0
    check = TensorCheck(t, unit_of(t, factor, split))

    def own(rows: np.ndarray) -> np.ndarray:
        return grown_rows(grown, name, rows + begin, t.new_matrix[1])

    with np.errstate(invalid="ignore", over="ignore"):  # Inf and NaN are faults, not warnings
        match t.origin:
            case Constant(value=value):
                _check_constant(check, value, own)
            case Drawn(repeat=repeat):
                _check_drawn(check, repeat, own)
            case Read() as read:
                _check_read(check, read, source, grown, own)
            case Stack():
                raise TypeError(f"{name}: a stack is proved part by part")
    return check


def _check_read(check: TensorCheck, read: Read, source: Checkpoint, grown: Checkpoint, own: Rows) -> None:
    t = check.t
    # experts that share one's output are proved together: their sum is as many times the old one
    times = read.factor * (len(read.among) or 1)

    def old(a: int, b: int) -> np.ndarray:
        values = widen(part_rows(source, t.old, a, b), t.old.dtype, F64)
        return values * times if times != 1 else values

    def together(rows: np.ndarray) -> np.ndarray:
        first, *rest = (grown_rows(grown, tensor, rows + begin, t.new_matrix[1]) for tensor, begin in read.among)
        return sum(rest, first)

    new, every = together if read.among else own, np.arange(t.new_shape[0])
    if t.offset:
        check_offset_gain(
            check, read.factor, widen(part_rows(source, t.old, 0, t.shape[0]), t.old.dtype, F64), new(every)
        )
    elif t.roles[0] in (GAIN, SHIFT):
        check_norm(check, old(0, t.shape[0]), new(every))
    else:
        _check_matrix(check, read, old, new)
    if read.among:
        _check_share(check, own)


def grown_rows(grown: Checkpoint, tensor: str, index: np.ndarray, columns: int) -> np.ndarray:
    """(rows, columns) in float64 of a stored tensor as a matrix; neighbours in `index` are read together."""
    runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    blocks = [stored_matrix(grown, tensor, int(run[0]), int(run[-1]) + 1, columns) for run in runs if len(run)]
    return widen(np.concatenate(blocks), grown.tensors[tensor].dtype, F64)


def _check_share(check: TensorCheck, own: Rows) -> None:
    """What a sum over experts cannot show: each of them reads no fresh unit and writes no silent coordinate."""
    t = check.t
    rows, cols = (*t.maps, None)[:2]
    none = np.arange(0)
    unread = none if cols is None or t.roles[1] != READ else cols.fresh(UNREAD)
    silent = none if rows is None or t.roles[0] == READ else rows.fresh(SILENT)
    for some in _blocks(np.arange(t.new_shape[0]), max(1, BLOCK // max(1, t.new_matrix[1]))):
        if len(unread):
            check.zero(own(some)[:, unread], some, unread, "an unread coordinate has weight 0")
        if len(still := np.intersect1d(some, silent)):
            check.zero(own(still), still, np.arange(t.new_matrix[1]), "a silent coordinate is not written")


def _check_constant(check: TensorCheck, value: float, new: Rows) -> None:
    """What keeps an inserted layer silent is the number it must be."""
    t = check.t
    rows, columns = t.new_matrix
    what = "an inserted layer computes the identity" if t.inserted else "what carries nothing yet is 0"
    for some in _blocks(np.arange(rows), max(1, BLOCK // max(1, columns))):
        new_rows = new(some)
        wanted = widen(narrow(np.full(new_rows.shape, value, dtype=F64), t.dtype), t.dtype, F64)
        check.same(new_rows, wanted, some, what)


def _check_drawn(check: TensorCheck, repeat: int, new: Rows) -> None:
    """What was drawn only has to be finite, and as often there as it is repeated."""
    rows, columns = check.t.new_matrix
    for some in _blocks(np.arange(rows), max(1, BLOCK // max(1, columns)) * repeat):
        new_rows = new(some)
        check.note(~np.isfinite(new_rows), new_rows, np.zeros_like(new_rows), some, "a drawn weight is finite")
        first = new_rows[np.arange(len(new_rows)) // repeat * repeat]
        check.note(new_rows != first, new_rows, first, some, "slices of one expert have one row in the router")


def _check_matrix(check: TensorCheck, read: Read, old: Callable[[int, int], np.ndarray], new: Rows) -> None:
    """A matrix, a block of old rows at a time."""
    t = check.t
    rows, cols = (*t.maps, None)[:2]
    n_rows, n_cols = (*t.shape, 1)[:2]
    m_cols = (*t.new_shape, 1)[1]
    step = max(1, BLOCK // max(n_cols, m_cols))
    reads = t.roles[0] == READ
    mean, size = np.zeros(n_cols), np.zeros(n_cols)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        old_rows = old(start, stop)
        mean += old_rows.sum(axis=0)
        size += np.abs(old_rows).sum(axis=0)
        if rows is None:
            _check_columns(check, new(np.arange(start, stop)), old_rows, np.arange(start, stop), cols)
        elif reads:
            total, terms, at = _contract(rows, start, stop, new, m_cols)
            _check_columns(check, total, old_rows, at, cols, terms)
        else:
            for before, after in rows.layers:
                a, b = np.searchsorted(before, (start, stop))
                if a < b:
                    scaled = old_rows[before[a:b] - start] * rows.write[after[a:b]][:, None]
                    _check_columns(check, new(after[a:b]), scaled, after[a:b], cols)
    if rows is not None:
        _check_fresh_rows(check, read.low, new, rows, cols, reads, mean / n_rows, size / n_rows, step)


def _contract(rows: AxisMap, start: int, stop: int, new: Rows, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that share a source, summed as the axis embeds it: (total, Σ|terms|, a row to name)."""
    total, terms = np.zeros((stop - start, width)), np.zeros((stop - start, width))
    at = np.arange(start, stop)
    for k, (before, after) in enumerate(rows.layers):
        a, b = np.searchsorted(before, (start, stop))
        if a < b:
            part = new(after[a:b]) * (rows.gain * rows.write)[after[a:b]][:, None]
            total[before[a:b] - start] += part
            terms[before[a:b] - start] += np.abs(part)
            if k == 0:
                at = after[a:b]
    return total, terms, at


def _check_columns(
    check: TensorCheck,
    new_rows: np.ndarray,
    old_rows: np.ndarray,
    at: np.ndarray,
    cols: AxisMap | None,
    terms: np.ndarray | None = None,
    own: np.ndarray | None = None,
) -> None:
    """new_rows (rows, m) against old_rows (rows, n), both for the rows `at` of the equation; `own` (rows, n)."""
    terms = np.abs(new_rows) if terms is None else terms
    if cols is None:
        check.equal(new_rows, old_rows, np.maximum(terms, np.abs(old_rows)), at, "E_out · W", own)
    elif (*check.t.roles, "")[1] == READ:
        total, sizes = np.zeros_like(old_rows), np.zeros_like(old_rows)
        seen = cols.gain * cols.write
        for before, after in cols.layers:
            old, new = _span(before), _span(after)
            total[:, old] += new_rows[:, new] * seen[after]
            sizes[:, old] += terms[:, new] * np.abs(seen[after])
        rule = "the copies' shares sum to the old weight"
        check.equal(total, old_rows, np.maximum(sizes, np.abs(old_rows)), at, rule, own, cols.layers[0][1])
        unread = cols.fresh(UNREAD)
        check.zero(new_rows[:, unread], at, unread, "an unread coordinate has weight 0")
    else:
        for before, after in cols.layers:
            old, new = _span(before), _span(after)
            wanted = old_rows[:, old] * cols.write[after]
            check.equal(
                new_rows[:, new],
                wanted,
                np.maximum(terms[:, new], np.abs(wanted)),
                at,
                "old weight × write",
                columns=after,
            )
        _check_written(check, new_rows, old_rows, at, cols, terms)


def _span(index: np.ndarray) -> slice | np.ndarray:
    """The same columns as a slice where they are neighbours: no copy, and several times faster."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _check_written(
    check: TensorCheck, new_rows: np.ndarray, old_rows: np.ndarray, at: np.ndarray, cols: AxisMap, terms: np.ndarray
) -> None:
    """The columns of a written axis that copy no old one."""
    silent, mean = cols.fresh(SILENT), cols.fresh(MEAN)
    check.zero(new_rows[:, silent], at, silent, "a silent coordinate is not written")
    if len(mean):
        wanted = old_rows.mean(axis=1, keepdims=True) * cols.write[mean]
        own = np.abs(old_rows).mean(axis=1, keepdims=True) * cols.write[mean]
        check.equal(
            new_rows[:, mean], wanted, np.maximum(terms[:, mean], np.abs(wanted)), at, "the mean of the row", own, mean
        )


def _check_fresh_rows(
    check: TensorCheck,
    low: float | None,
    new: Rows,
    rows: AxisMap,
    cols: AxisMap | None,
    reads: bool,
    mean: np.ndarray,
    size: np.ndarray,
    step: int,
) -> None:
    """The rows that copy no old one; `mean` and `size` (columns,) are those of all old rows."""
    for some in _blocks(rows.fresh(UNREAD if reads else SILENT), step):
        new_rows = new(some)
        rule = "an unread coordinate has weight 0" if reads else "a silent coordinate is not written"
        check.zero(new_rows, some, np.arange(new_rows.shape[1]), rule)
    if reads:
        return
    for some in _blocks(rows.fresh(BLEND), step):
        new_rows = new(some)
        if low is None:
            check.note(~np.isfinite(new_rows), new_rows, np.full_like(new_rows, np.nan), some, "the row of a new token")
        else:
            wanted = widen(narrow(np.full_like(new_rows, low), check.t.dtype), check.t.dtype, F64)
            check.same(new_rows, wanted, some, "the row of a new token")
    for some in _blocks(rows.fresh(MEAN), step):
        scale = rows.write[some][:, None]
        _check_columns(check, new(some), mean[None] * scale, some, cols, own=size[None] * scale)


def _blocks(index: np.ndarray, step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(index), step):
        yield index[start : start + step]
