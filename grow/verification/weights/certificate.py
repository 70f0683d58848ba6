"""The certificate: a proof of the growth on the stored weights, tensor by tensor.

Let E be the embedding of an axis (coordinate j carries gain[j]·write[j] times its source where a consumer sees it,
write[j] times where a producer writes it). A grown tensor W̃ computes what W did exactly when

    W̃ · E_in  =  E_out · W          for every tensor, with E_in of the axes it reads and E_out of those it writes,

unread coordinates have weight 0 in every consumer, silent ones are never written, and the law holds on every axis.
This is checked on what lies in the files; how the shares of a weight were drawn does not matter.

Tolerance. Where every factor is a power of two the equation holds exactly for stored numbers, and 0 is asked for.
Where weights had to be rounded, each stored number is within its unit roundoff of the real one, so the sum may differ
by u · Σ|terms| and no more; a single weight off by two units in the last place shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from grow.applying.arithmetic import paired
from grow.applying.engine import part_rows, stored_matrix
from grow.applying.tensor_rows import BLOCK
from grow.checkpoint.reader import Checkpoint
from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.dtypes import BITS, SMALLEST, STORES
from grow.notation.maps import BLEND, MEAN, SILENT, UNREAD, AxisMap, is_power_of_two
from grow.notation.numbers import narrow, widen
from grow.planning.change import DRAWN
from grow.planning.tensor import HALVED, TensorPlan, stays

F64 = np.dtype(np.float64)
# The proof itself runs in float64: a few roundings of products and sums. Only float64 checkpoints notice.
OWN_ROUNDING = 16 * 2.0**-53


@dataclass
class Fault:
    """The first element of a tensor that breaks the equation, and how many do; None where it cannot be told."""

    tensor: str
    at: tuple[int, ...] | None
    found: float | None
    wanted: float | None
    count: int
    rule: str

    def __str__(self) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        place = ", ".join(map(str, self.at or ()))
        return f"{self.tensor}[{place}]{more}: {self.rule}: found {self.found:.9g}, wanted {self.wanted:.9g}"

    def document(self) -> dict[str, Any]:
        return {
            "tensor": self.tensor,
            "index": None if self.at is None else list(self.at),
            "found": self.found,
            "wanted": self.wanted,
            "rule": self.rule,
        }


@dataclass
class TensorCheck:
    """Collects the faults of one tensor and its largest residual relative to the tolerance's scale.

    unit  what rounding may change of each term, relative to it
    """

    t: TensorPlan
    unit: float
    faults: list[Fault] = field(default_factory=list)
    worst: float = 0.0

    def __post_init__(self) -> None:
        self.floor = subnormal_floor(self.t) if self.unit > 0 else 0.0

    def equal(
        self, found: np.ndarray, wanted: np.ndarray, terms: np.ndarray, rows, rule: str, own=None, columns=None
    ) -> None:
        """found (rows, columns) == wanted, within unit · terms; `own` sizes the sums of the proof itself.

        rows, columns  where these numbers stand in the tensor, of copies the first
        """
        residual = np.abs(found - wanted)
        allowed = self.unit * terms + self.floor
        if self.unit > 0 or self.t.dtype == "F64":
            allowed = allowed + OWN_ROUNDING * (terms if own is None else np.maximum(own, terms))
        bad = ~((residual <= allowed) & np.isfinite(found))
        scale = float(np.max(np.abs(wanted), initial=0.0)) or 1.0
        self.worst = max(self.worst, float(np.max(residual, initial=0.0)) / scale)
        self._note(bad, found, wanted, rows, rule, columns)

    def zero(self, found: np.ndarray, rows, columns, rule: str) -> None:
        self._note(found != 0, found, np.zeros_like(found), rows, rule, columns)

    def same(self, found: np.ndarray, wanted: np.ndarray, rows, rule: str) -> None:
        """One number throughout, as it is stored."""
        self._note(found != wanted, found, wanted, rows, rule)

    def _note(self, bad, found, wanted, rows, rule: str, columns=None) -> None:
        if not bad.any():
            return
        i, j = np.argwhere(bad)[0]
        row = int(np.asarray(rows)[i])
        column = int(j if columns is None else np.asarray(columns)[j])
        at = (row, column)[: len(self.t.new_shape)]
        self.faults.append(Fault(self.t.name, at, float(found[i, j]), float(wanted[i, j]), int(bad.sum()), rule))


def unit_of(t: TensorPlan, split: str) -> float:
    """0 where the growth rounds nothing, else the unit roundoff of the stored dtype."""
    maps = [m for m in t.maps if m is not None]
    exact = all(m.exact_factors for m in maps) and t.source_dtype in STORES[t.dtype] and is_power_of_two(t.factor)
    if t.offset:
        exact = t.source_dtype in STORES[t.dtype] and all(stays(m, t.factor, tied=t.tied) for m in maps)
    consumed = [m for m, role in zip(t.maps, t.roles) if m is not None and (role == READ or t.tied)]
    if (
        split in HALVED
        and not paired(t, split)
        and any(c & (c - 1) or (c > 1 and t.dtype == "F16") for m in consumed for c in np.unique(m.counts).tolist())
    ):
        exact = False  # no power of two, or halves of tiny float16 weights
    # double rounding through float64 adds a 2^-29th of it to float32
    return 0.0 if exact else 1.001 * 2.0 ** -BITS[t.dtype]


def subnormal_floor(t: TensorPlan) -> float:
    """What rounding among subnormals may add to a sum of shares: half a quantum per share, scaled as it is read.

    Below 2^-14 a float16 has an absolute error of 2^-25, more than its unit roundoff; weights of that size are common.
    """
    shares = 1.0
    for m in t.maps:
        if m is not None:
            scale = np.maximum(1, np.maximum(np.abs(m.gain * m.write), m.write**2))
            shares *= max(1.0, float(np.bincount(m.source[m.source >= 0], scale[m.source >= 0]).max(initial=0)))
    return 0.5 * SMALLEST[t.dtype] * shares


def check_tensor(t: TensorPlan, source: Checkpoint, grown: Checkpoint, split: str) -> TensorCheck:
    """The intertwining equation on one stored tensor; both sides are read in blocks."""
    checks = [_check_part(part, t.name, begin, source, grown, split) for begin, part in t.parts]
    if not t.pieces:
        return checks[0]
    whole = TensorCheck(t, max(check.unit for check in checks))
    whole.worst = max(check.worst for check in checks)
    for (begin, _), check in zip(t.pieces, checks):
        for fault in check.faults:
            row, *rest = fault.at or (0,)
            at = (*(int(i) for i in np.unravel_index(row + begin, t.new_shape[:-1])), *rest)
            whole.faults.append(replace(fault, tensor=t.name, at=at))
    return whole


def _check_part(t: TensorPlan, name: str, begin: int, source: Checkpoint, grown: Checkpoint, split: str) -> TensorCheck:
    """One matrix (or vector), which stands in the tensor `name` from row `begin` on."""
    check = TensorCheck(t, unit_of(t, split))
    # experts that share one's output are proved together: their sum is as many times the old one
    among = t.share.among if t.share else ((name, begin),)
    times = t.factor * len(among)

    def old(a: int, b: int) -> np.ndarray:
        found = widen(part_rows(source, t, a, b), t.source_dtype, F64)
        return found * times if times != 1 else found

    def read(rows: np.ndarray, tensor: str, first: int) -> np.ndarray:
        return grown_rows(grown, tensor, rows + first)

    def new(rows: np.ndarray) -> np.ndarray:
        parts = [read(rows, tensor, first) for tensor, first in among]
        return sum(parts[1:], parts[0])

    with np.errstate(invalid="ignore", over="ignore"):  # Inf and NaN are faults, not warnings
        if t.fill is not None:
            _check_filled(check, new)
        elif t.roles[0] in (GAIN, SHIFT):
            norm = np.arange(t.new_shape[0])
            if t.offset:
                _check_offset_gain(check, widen(part_rows(source, t, 0, t.shape[0]), t.source_dtype, F64), new(norm))
            else:
                _check_norm(check, old(0, t.shape[0]), new(norm))
        else:
            _check_matrix(check, old, new)
        if t.share:
            _check_share(check, lambda rows: read(rows, name, begin))
    return check


def grown_rows(grown: Checkpoint, tensor: str, index: np.ndarray) -> np.ndarray:
    """(rows, columns) in float64 of a stored tensor as a matrix; neighbours in `index` are read together."""
    runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    blocks = [stored_matrix(grown, tensor, int(r[0]), int(r[-1]) + 1) for r in runs if len(r)]
    return widen(np.concatenate(blocks), grown.tensors[tensor].dtype, F64)


def _check_share(check: TensorCheck, own: Callable) -> None:
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


def _check_filled(check: TensorCheck, new: Callable) -> None:
    """What keeps an inserted layer silent is the number it must be; what was drawn only has to be finite."""
    t = check.t
    rows, columns = t.new_matrix
    step = max(1, BLOCK // max(1, columns)) * t.repeat
    for some in _blocks(np.arange(rows), step):
        g = new(some)
        if t.fill == DRAWN:
            check._note(~np.isfinite(g), g, np.zeros_like(g), some, "a drawn weight is finite")
            first = g[np.arange(len(g)) // t.repeat * t.repeat]
            check._note(g != first, g, first, some, "slices of one expert have one row in the router")
        else:
            wanted = widen(narrow(np.full(g.shape, t.fill, dtype=F64), t.dtype), t.dtype, F64)
            what = "an inserted layer computes the identity" if t.inserted else "what carries nothing yet is 0"
            check.same(g, wanted, some, what)


def _check_norm(check: TensorCheck, w: np.ndarray, g: np.ndarray) -> None:
    t = check.t
    axis_map = t.maps[0]
    if axis_map is None:
        check.equal(g, w, np.abs(w), np.arange(len(g)), "unchanged")
        return
    shift = t.roles[0] == SHIFT
    if t.tied:
        weight = axis_map.write if shift else axis_map.write**2
        total, terms = np.zeros_like(w), np.zeros_like(w)
        for old, new in axis_map.layers:
            total[old] += g[new] * weight[new][:, None]
            terms[old] += np.abs(g[new] * weight[new][:, None])
        check.equal(total, w, terms, axis_map.layers[0][1], "shares of the head's norm sum to the old one")
    else:
        for old, new in axis_map.layers:
            wanted = w[old] * (1.0 if shift else axis_map.gain[new][:, None])
            check.equal(g[new], wanted, np.abs(wanted), new, "copied" if shift else "old gain × gain")
    if shift:
        fresh = np.flatnonzero(axis_map.source < 0)
        check.zero(g[fresh], fresh, [0], "a fresh coordinate has bias 0")


def _check_offset_gain(check: TensorCheck, w: np.ndarray, g: np.ndarray) -> None:
    """A gain that is stored without its offset: the equation of `_check_norm`, with the offset taken out of the sum.

    Copies whose gain is 0 are left out, so that where as many copies as it takes have the old gain, nothing rounds.
    """
    t, axis_map = check.t, check.t.maps[0]
    if axis_map is None:
        check.equal(g, w, np.abs(w), np.arange(len(g)), "unchanged")
        return
    slack = abs(t.offset) * (check.unit > 0)
    if t.tied:
        total, terms, active = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
        for old, new in axis_map.layers:
            on = g[new] != -t.offset
            total[old] += np.where(on, g[new], 0)
            active[old] += on
            terms[old] += np.abs(g[new]) + slack
        first = axis_map.layers[0][1]
        times = t.factor / axis_map.write[first][:, None] ** 2
        wanted = w * times + t.offset * (times - active)
        check.equal(total, wanted, terms, first, "shares of the head's norm sum to the old one")
        return
    for old, new in axis_map.layers:
        times = axis_map.gain[new][:, None] * t.factor
        wanted = w[old] * times + t.offset * (times - 1)
        check.equal(g[new], wanted, np.abs(wanted) + slack, new, "old gain × gain")


def _check_matrix(check: TensorCheck, old: Callable, new: Callable) -> None:
    t = check.t
    rows, cols = (*t.maps, None)[:2]
    n_rows, n_cols = (*t.shape, 1)[:2]
    m_cols = (*t.new_shape, 1)[1]
    step = max(1, BLOCK // max(n_cols, m_cols))
    reads = t.roles[0] == READ
    mean, size = np.zeros(n_cols), np.zeros(n_cols)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        w = old(start, stop)
        mean += w.sum(axis=0)
        size += np.abs(w).sum(axis=0)
        if rows is None:
            _check_columns(check, new(np.arange(start, stop)), w, np.arange(start, stop), cols)
        elif reads:
            total, terms, at = _contract(rows, start, stop, new, m_cols)
            _check_columns(check, total, w, at, cols, terms)
        else:
            for before, after in rows.layers:
                a, b = np.searchsorted(before, (start, stop))
                if a < b:
                    scaled = w[before[a:b] - start] * rows.write[after[a:b]][:, None]
                    _check_columns(check, new(after[a:b]), scaled, after[a:b], cols)
    if rows is not None:
        _check_fresh_rows(check, new, rows, cols, reads, mean / n_rows, size / n_rows, step)


def _contract(rows: AxisMap, start: int, stop: int, new: Callable, width: int):
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


def _check_columns(check: TensorCheck, g, w, at, cols: AxisMap | None, terms=None, own=None) -> None:
    """g (rows, m) against w (rows, n), both for the same rows of the equation; `own` (rows, n)."""
    terms = np.abs(g) if terms is None else terms
    if cols is None:
        check.equal(g, w, np.maximum(terms, np.abs(w)), at, "E_out · W", own)
    elif (*check.t.roles, "")[1] == READ:
        total, sizes = np.zeros_like(w), np.zeros_like(w)
        seen = cols.gain * cols.write
        for before, after in cols.layers:
            old, new = _span(before), _span(after)
            total[:, old] += g[:, new] * seen[after]
            sizes[:, old] += terms[:, new] * np.abs(seen[after])
        rule = "the copies' shares sum to the old weight"
        check.equal(total, w, np.maximum(sizes, np.abs(w)), at, rule, own, cols.layers[0][1])
        unread = cols.fresh(UNREAD)
        check.zero(g[:, unread], at, unread, "an unread coordinate has weight 0")
    else:
        for before, after in cols.layers:
            old, new = _span(before), _span(after)
            wanted = w[:, old] * cols.write[after]
            check.equal(
                g[:, new], wanted, np.maximum(terms[:, new], np.abs(wanted)), at, "old weight × write", columns=after
            )
        _check_written(check, g, w, at, cols, terms)


def _span(index: np.ndarray) -> slice | np.ndarray:
    """The same columns as a slice where they are neighbours: no copy, and several times faster."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _check_written(check: TensorCheck, g: np.ndarray, w: np.ndarray, at, cols: AxisMap, terms: np.ndarray) -> None:
    silent, mean = cols.fresh(SILENT), cols.fresh(MEAN)
    check.zero(g[:, silent], at, silent, "a silent coordinate is not written")
    if len(mean):
        wanted = w.mean(axis=1, keepdims=True) * cols.write[mean]
        own = np.abs(w).mean(axis=1, keepdims=True) * cols.write[mean]
        check.equal(
            g[:, mean], wanted, np.maximum(terms[:, mean], np.abs(wanted)), at, "the mean of the row", own, mean
        )


def _check_fresh_rows(check, new, rows: AxisMap, cols, reads: bool, mean, size, step: int) -> None:
    for some in _blocks(rows.fresh(UNREAD if reads else SILENT), step):
        g = new(some)
        rule = "an unread coordinate has weight 0" if reads else "a silent coordinate is not written"
        check.zero(g, some, np.arange(g.shape[1]), rule)
    if reads:
        return
    for some in _blocks(rows.fresh(BLEND), step):
        g = new(some)
        if check.t.low is None:
            check._note(~np.isfinite(g), g, np.full_like(g, np.nan), some, "the row of a new token")
        else:
            wanted = widen(narrow(np.full_like(g, check.t.low), check.t.dtype), check.t.dtype, F64)
            check.same(g, wanted, some, "the row of a new token")
    for some in _blocks(rows.fresh(MEAN), step):
        scale = rows.write[some][:, None]
        _check_columns(check, new(some), mean[None] * scale, some, cols, own=size[None] * scale)


def _blocks(index: np.ndarray, step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(index), step):
        yield index[start : start + step]
