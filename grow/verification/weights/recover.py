"""Shrinking back: the source's weights computed from the grown checkpoint and the maps.

    what a tensor writes   the first copy of each old coordinate ÷ write
    what it reads          Σ over the copies of  gain · write · weight:  the shares add up to the old weight
    experts                the mean of those that share one's output
    a norm                 gain ÷ gain, bias as it is; in front of a tied head the shares add up again

So nothing was lost: where the growth rounds nothing, every number of the source comes back bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from grow.applying.engine import part_rows
from grow.applying.tensor_rows import BLOCK
from grow.checkpoint.reader import Checkpoint
from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.maps import AxisMap
from grow.notation.numbers import narrow, widen
from grow.notation.origins import Read
from grow.planning.tensor import TensorPlan
from grow.verification.verdict import Check
from grow.verification.weights.recorded_growth import Replay
from grow.verification.weights.tensor_equation import F64, grown_rows
from grow.verification.weights.tensor_faults import OWN_ROUNDING, unit_of

Rows = Callable[[np.ndarray], np.ndarray]  # indices of rows -> (rows, columns) in float64
Both = tuple[np.ndarray, np.ndarray]  # old numbers, and the sizes of the terms that they were summed of


@dataclass(frozen=True)
class Recovered:
    """One tensor: entries in all, entries that came back with other bits, and the worst one in units of what
    rounding allows (0 where the growth rounds nothing and all bits are equal; inf where nothing may differ)."""

    tensor: str
    entries: int
    changed: int
    worst: float


def recover(replay: Replay) -> Check:
    """The source rebuilt from the grown checkpoint: every tensor, streamed in blocks on all cores."""
    parts = [
        Carrier(t.name, begin, part, part.origin)
        for t in replay.tensors
        for begin, part in t.parts
        if isinstance(part.origin, Read) and not part.inserted
    ]
    carriers = {(c.plan.old.tensor, c.plan.old.corner): c for c in reversed(parts)}
    lost = sorted(replay.names - {source for source, _ in carriers})
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda carrier: recover_tensor(carrier, replay), carriers.values()))
    changed = sum(r.changed for r in results)
    bad = [r for r in results if not r.worst <= 1]
    exact = replay.record.storage == "bit-exact"
    measured = {
        "tensors": len({r.tensor for r in results}),
        "entries": sum(r.entries for r in results),
        "changed": changed,
        "worst": max((r.worst for r in results), default=0.0),
    }
    limit = "the source comes back from the grown checkpoint " + (
        "bit for bit" if exact else "within the rounding of what is stored"
    )
    faults = [f"{name}: nothing in the grown checkpoint carries it" for name in lost[:3]]
    faults += [f"{r.tensor}: {r.changed:,} of {r.entries:,} entries are not the source's" for r in bad[:3]]
    return Check("recover", "fail" if bad or lost else "pass", measured, limit, "; ".join(faults))


class Carrier(NamedTuple):
    """What a part of the source is recovered from: it stands in the grown tensor `name` from row `begin` on."""

    name: str
    begin: int
    plan: TensorPlan
    read: Read


def recover_tensor(carrier: Carrier, replay: Replay) -> Recovered:
    """A part of the source from the grown checkpoint, compared with what the source has."""
    name, begin, t, read = carrier
    unit = unit_of(t, read.factor, replay.record.split)
    entries = changed = 0
    worst = 0.0
    among = read.among or ((name, begin),)
    for start, stop, values, terms in old_rows(t, read, _reader(replay.grown, among, t.new_matrix[1])):
        raw = part_rows(replay.source, t.old, start, stop)
        wanted = widen(raw, t.old.dtype, F64)
        back = values if unit == 0 else widen(narrow(values, t.old.dtype), t.old.dtype, F64)
        differs = back != wanted  # the sign of a zero is not a number
        entries += differs.size
        changed += int(differs.sum())
        if differs.any():
            off = np.abs(values - wanted)[differs]
            allowed = (unit + OWN_ROUNDING * (unit > 0)) * np.maximum(terms, np.abs(wanted))[differs]
            with np.errstate(divide="ignore", invalid="ignore"):
                worst = max(worst, float(np.nan_to_num(np.max(off / allowed), nan=np.inf)))
    return Recovered(t.old.tensor, entries, changed, worst)


def _reader(grown: Checkpoint, among: Sequence[tuple[str, int]], columns: int) -> Rows:
    """Rows of the grown tensor; of experts that share one's output the mean."""

    def rows(index: np.ndarray) -> np.ndarray:
        first, *rest = (grown_rows(grown, name, index + begin, columns) for name, begin in among)
        return sum(rest, first) / len(among)

    return rows


def old_rows(t: TensorPlan, read: Read, new: Rows) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """(start, stop, the source's rows in float64, Σ|terms| of each entry) for consecutive blocks."""
    if t.offset and t.maps[0] is not None:
        yield 0, t.shape[0], *_offset_gain(t, read.factor, t.maps[0], new)
        return
    rows, cols = (*t.maps, None)[:2]
    row_role, col_role = (*t.roles, "")[:2]
    width = (*t.new_shape, 1)[1]
    step = max(1, BLOCK // max(1, width))
    for start in range(0, t.shape[0], step):
        stop = min(start + step, t.shape[0])
        if rows is None:
            values = new(np.arange(start, stop))
            terms = np.abs(values)
        else:
            values, terms = _rows(t, rows, row_role, start, stop, width, new)
        if cols is not None:
            values, terms = _columns(cols, col_role, values, terms)
        yield start, stop, values / read.factor, terms / abs(read.factor)


def _rows(t: TensorPlan, rows: AxisMap, role: str, start: int, stop: int, width: int, new: Rows) -> Both:
    scale = _scale(rows, role, t.tied)
    values, terms = np.zeros((stop - start, width)), np.zeros((stop - start, width))
    adds = role == READ or t.tied
    for old, at in _added(rows, adds):
        a, b = np.searchsorted(old, (start, stop))
        if a < b:
            part = new(at[a:b]) * scale[at[a:b]][:, None]
            values[old[a:b] - start] += part
            terms[old[a:b] - start] += np.abs(part)
    return values, terms


def _offset_gain(t: TensorPlan, factor: float, rows: AxisMap, new: Rows) -> Both:
    """A gain that is stored without its offset; copies whose gain is 0 add nothing."""
    scale = _scale(rows, GAIN, t.tied) / factor
    values, terms, weight = np.zeros((rows.n, 1)), np.zeros((rows.n, 1)), np.zeros((rows.n, 1))
    for old, at in _added(rows, t.tied):
        gain = new(at)
        on = gain != -t.offset
        values[old] += np.where(on, gain * scale[at][:, None], 0)
        weight[old] += on * scale[at][:, None]
        terms[old] += (np.abs(gain) + t.offset) * np.abs(scale[at][:, None])
    return values + t.offset * (weight - 1), terms


def _columns(cols: AxisMap, role: str, stored: np.ndarray, sizes: np.ndarray) -> Both:
    scale = _scale(cols, role, False)
    values, terms = np.zeros((len(stored), cols.n)), np.zeros((len(stored), cols.n))
    for old, at in _added(cols, role == READ):
        values[:, old] += stored[:, at] * scale[at]
        terms[:, old] += sizes[:, at] * np.abs(scale[at])
    return values, terms


def _added(m: AxisMap, adds: bool) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    """The copies to add up, the last first: so each sum is one that the split took apart, and exact; or the first."""
    return m.layers[::-1] if adds else m.layers[:1]


def _scale(m: AxisMap, role: str, tied: bool) -> np.ndarray:
    """What each new coordinate is multiplied with on the way back; fresh ones are not used."""
    with np.errstate(divide="ignore"):
        if tied:
            return m.write if role == SHIFT else m.write**2
        if role == READ:
            return m.gain * m.write
        return {GAIN: 1 / m.gain, SHIFT: np.ones(m.m)}.get(role, 1 / m.write)
