"""The fast paths of a matrix, in blocks of rows; each gives the bits of the reference.

    MOVE    the old bits themselves are spread
    STORE   numbers are stored while they are few, before copies of rows and after the split
    ROUND   rows are spread in the work dtype and rounded last

Copies that are equal are computed once, and columns that lie side by side are copied as one slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from grow.applying.arithmetic import (
    F64,
    NOISE,
    UNSEEN_RMS,
    Arithmetic,
    ReadRows,
    WriteRows,
    arithmetic,
    as_drawn,
    is_random,
    paired,
    rounded,
    runs,
    taken,
)
from grow.applying.reference import blend
from grow.applying.row_methods import Path
from grow.applying.source_statistics import SourceStatistics
from grow.notation.axes import READ, WRITE
from grow.notation.dtypes import RAW
from grow.notation.maps import BLEND, MEAN, SILENT, UNREAD, AxisMap
from grow.notation.numbers import Noise, mean_share, representable, split_even, split_exact, stored, widen
from grow.notation.origins import Read
from grow.planning.tensor import HALVED, TensorPlan

Parts = Iterator[tuple[int, np.ndarray]]  # (first row, rows)


@dataclass(frozen=True)
class MatrixRows:
    """Rows are dim 0, columns dim 1 (a single one for a bias); a map is None where a dim does not change."""

    t: TensorPlan
    read: Read
    split: str
    seed: int
    block: int
    path: Path

    @cached_property
    def how(self) -> Arithmetic:
        return arithmetic(self.t, self.read, self.split)

    @property
    def rows(self) -> AxisMap | None:
        return self.t.maps[0]

    @property
    def cols(self) -> AxisMap | None:
        return self.t.maps[1] if len(self.t.maps) > 1 else None

    @property
    def row_reads(self) -> bool:
        return self.t.roles[0] == READ

    @property
    def col_reads(self) -> bool:
        return READ in self.t.roles[1:]

    def run(self, read_rows: ReadRows, write_rows: WriteRows) -> None:
        height, width = self.t.matrix
        step = max(1, self.block // max(width, 1))
        seen = SourceStatistics(self.t, self.read.factor)
        for number, start in enumerate(range(0, height, step)):
            stop = min(start + step, height)
            raw = read_rows(self.t.old, start, stop)
            parts = self._old_rows(raw, self.t.old.dtype, start, self.t.name, number, seen)
            if (above := self.read.above) is not None:
                raw = read_rows(above, start, stop)
                upper = self._old_rows(raw, above.dtype, start, above.tensor, number, seen)
                parts = self._from_above(parts, upper)
            for first, rows in parts:
                write_rows(first, rows)
        if self.rows is not None:
            # fresh rows are computed even where old ones only move
            computed = replace(self, path=Path.STORE if self.how.storable else Path.ROUND)
            for first, rows in computed._fresh_rows(self.rows, seen):
                write_rows(first, rows)

    # What a path is: when numbers take the form in which they are written

    def _early(self, values: np.ndarray) -> np.ndarray:
        """Shares of old numbers, before they are copied."""
        return stored(values, self.t.dtype) if self.path is Path.STORE else values

    def _late(self, rows: np.ndarray) -> np.ndarray:
        """Rows that are spread and scaled."""
        return rounded(self.t, rows) if self.path is Path.ROUND else rows

    def _old_rows(
        self, raw: np.ndarray, dtype: str, start: int, name: str, number: int, seen: SourceStatistics
    ) -> Parts:
        """(first new row, finished rows) for every copy of the old rows from `start` on, with the noise of `name`."""
        values, noise = widen(raw, dtype, self.how.work), Noise(self.seed, name, number)
        seen.add(values, start)
        values = raw if self.path is Path.MOVE else self._multiplied(values, number)
        if self.rows is None:
            yield start, self._late(self._columns(values, noise))
            return
        stop = start + len(values)
        if self.row_reads:
            parts = self._shares(values.T, self.rows, slice(start, stop), noise)
        else:
            grown, done = self._columns(values, noise), None
        for k, (old, new) in enumerate(self.rows.layers):
            a, b = np.searchsorted(old, (start, stop))
            if a == b:
                continue
            pick, place = old[a:b] - start, new[a:b]
            scale = self.rows.write[place]
            if self.row_reads:
                rows = self._late(self._columns(taken(parts[k].T, pick), noise))
            elif (scale != 1).any():
                rows = self._late(taken(grown, pick) * scale[:, None].astype(self.how.work))
            else:
                done = self._late(grown) if done is None else done
                rows = taken(done, pick)
            if self.paired:
                rows = np.where(self._apart(k, old[a:b]), rows.dtype.type(0), rows)
            for i, j in runs(place):
                yield int(place[i]), rows[i:j]

    def _multiplied(self, values: np.ndarray, number: int) -> np.ndarray:
        """The old numbers times the tensor's factor; of one of several experts, its share of them."""
        old, twin, dtype = self.t.old, self.read.twin, self.how.expert_dtype
        if self.read.factor != 1:
            values = values * self.how.work.type(self.read.factor)
        if twin is None or not twin.among:
            return values
        noise = Noise(self.seed, f"{old.tensor}+{old.corner[0]}:pair {twin.place // 2}", number)
        return mean_share(representable(values, dtype), twin.place, len(twin.among), dtype, noise)

    def _columns(self, values: np.ndarray, noise: Noise) -> np.ndarray:
        """(rows, n) -> (rows, m) along the second dim."""
        cols, reads = self.cols, self.col_reads
        if cols is None:
            return self._early(values)
        out = np.zeros((len(values), cols.m), dtype=self._early(values[:0]).dtype)
        shares = self._shares(values, cols, slice(None), noise) if reads else None
        for k, (old, new) in enumerate(cols.layers):
            source = values if shares is None else shares[k]
            some = source if len(old) == cols.n else source[:, old]
            if not reads and (cols.write[new] != 1).any():
                some = some * cols.write[new].astype(self.how.work)
            out[:, _as_slice(new)] = self._early(some)
        for kind in (SILENT, UNREAD, MEAN):
            fresh = cols.fresh(kind)
            if len(fresh) and is_random(kind, reads):
                rms = np.sqrt(np.mean(np.square(values, dtype=F64), axis=1, keepdims=True))
                drawn = noise.uniform((len(values), len(fresh)), np.where(rms > 0, rms, UNSEEN_RMS), self.how.work)
                out[:, _as_slice(fresh)] = (
                    representable(drawn, self.t.dtype) if self.path is Path.ROUND else self._early(drawn)
                )
            elif len(fresh) and kind == MEAN:
                out[:, _as_slice(fresh)] = values.mean(axis=1, dtype=F64, keepdims=True) * cols.write[fresh]
        return out

    def _shares(self, values: np.ndarray, axis_map: AxisMap, span: slice, noise: Noise) -> list[np.ndarray]:
        """The shares of a consumer's weights: values (other, n in span), one array per copy that span has."""
        counts, dtype = axis_map.counts[span], self.how.share_dtype
        if counts.max(initial=1) == 1:
            shares = [values]
        elif self.paired:
            shares = [values] * int(counts.max())
        elif self.split in HALVED:
            shares = split_even(values, counts)
        else:
            whole = values if self.how.storable else representable(values, dtype)
            shares = split_exact(whole, counts, dtype, noise, NOISE if self.split == "noisy" else None)
        for k, (old, new) in enumerate(axis_map.layers[: len(shares)]):
            factor = 1 / (axis_map.gain[new] * axis_map.write[new])
            if (abs(factor - 1) > 1e-15).any():  # a reader of the raw stream undoes its scale
                inside = np.ones(axis_map.n)
                inside[old] = factor
                shares[k] = shares[k] * inside[span].astype(self.how.work)
        return shares

    def _fresh_rows(self, axis_map: AxisMap, seen: SourceStatistics) -> Parts:
        rms, width = seen.rms, self.t.new_matrix[1]
        for kind in (SILENT, UNREAD, MEAN, BLEND):
            fresh = axis_map.fresh(kind)
            for i, j in runs(fresh, max(1, self.block // width)):
                place, first = fresh[i:j], int(fresh[i])
                noise = Noise(self.seed, self.t.name + ":fresh", first)
                if kind == BLEND:
                    rows = self._blended(place, seen)
                elif is_random(kind, self.row_reads):
                    rows = as_drawn(self.t, self._random((len(place), width), rms, noise), self.how)
                elif kind == MEAN:
                    mean = self._columns(seen.mean[None].astype(self.how.work), noise)
                    rows = self._late(mean * axis_map.write[place, None])
                else:
                    rows = np.zeros((len(place), width), dtype=RAW[self.t.dtype])
                yield first, rows

    def _blended(self, place: np.ndarray, seen: SourceStatistics) -> np.ndarray:
        """Convex combinations of the old rows, drawn per row of the axis: the same for every tensor that has it."""
        if (low := self.read.low) is not None:
            return rounded(self.t, np.full((len(place), self.t.new_matrix[1]), low, dtype=self.how.work))
        means = seen.means
        blends = np.stack([blend(self.seed, row, len(means)) for row in place.tolist()]) @ means
        noise = Noise(self.seed, self.t.name + ":blend", int(place[0]))
        return self._late(self._columns(representable(blends.astype(self.how.work), self.t.dtype), noise))

    def _random(self, shape: tuple[int, int], rms: float, noise: Noise) -> np.ndarray:
        """Drawn rows; what they write of a stream with mean coordinates has its own mean there."""
        rows, cols = noise.uniform(shape, rms, self.how.work), self.cols
        if cols is not None:
            rows[:, cols.fresh(UNREAD if self.col_reads else SILENT)] = 0
            if not self.col_reads and len(fresh := cols.fresh(MEAN)):
                new = cols.layers[0][1]
                stream = rows[:, new] / cols.write[new].astype(self.how.work)
                rows[:, fresh] = stream.mean(axis=1, keepdims=True) * cols.write[fresh].astype(self.how.work)
        return rows

    # Lossy methods, and splits that pair copies

    def _from_above(self, own: Parts, above: Parts) -> Parts:
        """What the first copy of each unit writes comes from `own`, what the further ones write from `above`."""
        height, width = self.t.new_matrix
        rows = _further(self.rows, (*self.t.roles, WRITE)[0], height)
        cols = _further(self.cols, (*self.t.roles, WRITE)[1], width)
        for (first, a), (_, b) in zip(own, above, strict=True):
            yield first, np.where(rows[first : first + len(a), None] | cols, b, a)

    @cached_property
    def paired(self) -> bool:
        return paired(self.t, self.split)

    @cached_property
    def copies(self) -> np.ndarray:
        """(columns,) which copy of its old column each new one is; -1 for a fresh one."""
        assert self.cols is not None
        return np.where(self.cols.source < 0, -1, self.cols.copy_number)

    def _apart(self, k: int, old: np.ndarray) -> np.ndarray:
        """(rows or 1, columns) True where copy k of these old rows does not meet its copy of a column."""
        assert self.rows is not None
        assert self.cols is not None
        other: np.ndarray
        if self.row_reads:
            among = self.rows.counts[old]
            among = among[:1] if (among == among[0]).all() else among
            other = self.copies % among[:, None] != k
        else:
            other = (k % np.maximum(1, self.cols.counts)[self.cols.source] != self.copies)[None]
        return other & (self.copies >= 0)


def _further(axis_map: AxisMap | None, role: str, size: int) -> np.ndarray:
    """(size,) True for what a further copy of a unit writes."""
    return np.zeros(size, dtype=bool) if axis_map is None or role != WRITE else axis_map.copy_number > 0


def _as_slice(index: np.ndarray) -> np.ndarray | slice:
    """A slice where the indices are consecutive: many times faster than fancy indexing."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
