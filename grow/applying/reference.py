"""The reference: a whole new tensor from the whole old one, in five plain steps.

    gather   coordinate j of a new dim comes from the old coordinate source[j]
    scale    what is written is multiplied by write[j], a norm's gain by gain[j]
    split    what is read of a coordinate with c copies is shared among c columns, whose sum is the old one
    fill     a coordinate without a source is 0, the mean of the old ones or drawn, as its kind says
    round    to the dtype that the result is stored in

All five are in one file, whatever its length, so that they can be read in one go. The fast paths must give the same
bits, see `grow.applying.row_methods`; norms are small, and `grow.applying.norms` alone grows them.
Noise is drawn for blocks of rows apart: blocks, unlike paths, are part of what a result is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grow.applying.arithmetic import (
    F64,
    GROUPS,
    NOISE,
    UNSEEN_RMS,
    Arithmetic,
    arithmetic,
    as_drawn,
    check_finite,
    is_random,
    paired,
    rounded,
    runs,
    sum_of_squares,
    taken,
)
from grow.applying.norms import grow_norm
from grow.notation.axes import GAIN, READ, SHIFT, WRITE
from grow.notation.dtypes import RAW
from grow.notation.maps import BLEND, MEAN, SILENT, UNREAD, AxisMap, identity
from grow.notation.numbers import Noise, mean_share, representable, split_even, split_exact, widen
from grow.notation.origins import Constant, Drawn, Read, Redrawn, SourcePart, Stack
from grow.planning.tensor import HALVED, TensorPlan

Rows = Iterator[tuple[np.ndarray, np.ndarray]]  # (their places in the result, the rows in stored form)


def grow_whole(
    t: TensorPlan, old: np.ndarray, *, split: str, seed: int, block: int, above: np.ndarray | None = None
) -> np.ndarray:
    """(rows, columns) of the result in stored form; a vector is a matrix of one column.

    old    the source in stored form
    block  how many elements of the source make a block
    above  the next layer's tensor, where further copies are read from it
    Raises BadInput on NaN or Inf in the source, Refused when the stored dtype cannot hold a result.
    """
    new = np.zeros(t.new_matrix, RAW[t.dtype])
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused when it is rounded
        match t.origin:
            case Constant(value=value):
                new[:] = rounded(t, np.full(t.new_matrix, value, dtype=F64))
            case Drawn() as drawn:
                for place, rows in _drawn(t, drawn, old, seed, block):
                    new[place] = rows
            case Read() as read:
                _grow_read(t, read, old, above, new, split, seed, block)
            case Stack():
                raise TypeError(f"{t.name}: a stack grows part by part")
    return new


def _grow_read(
    t: TensorPlan,
    read: Read,
    old: np.ndarray,
    above: np.ndarray | None,
    new: np.ndarray,
    split: str,
    seed: int,
    block: int,
) -> None:
    """Fill `new` with what is read."""
    if t.roles[0] in (GAIN, SHIFT):
        pieces = [(np.arange(len(new)), grow_norm(t, read, old, split, seed))]
    else:
        matrix, sources = _Matrix(t, read, split, seed, block), [(old, t.old)]
        if above is not None and read.above is not None:
            sources.append((above, read.above))
        pieces = [*matrix.old_rows(old, t.old, t.name), *matrix.fresh_rows(sources)]
    for place, rows in pieces:
        new[place] = rows
    if above is not None and read.above is not None:
        for place, rows in matrix.old_rows(above, read.above, read.above.tensor):
            new[place] = np.where(matrix.further[place], rows, new[place])
    if read.twin is not None and read.twin.redraw is not None:
        _redraw(t, read, read.twin.redraw, old, [place for place, _ in pieces], new, seed, block)


@dataclass(frozen=True)
class _Matrix:
    """A producer, a consumer or both; a dim that does not change has a map too, and a vector has one column."""

    t: TensorPlan
    read: Read
    split: str
    seed: int
    block: int

    @cached_property
    def how(self) -> Arithmetic:
        return arithmetic(self.t, self.read, self.split)

    @cached_property
    def maps(self) -> tuple[AxisMap, AxisMap]:
        rows, cols = (*self.t.maps, None)[:2]
        height, width = self.t.matrix
        return identity(height) if rows is None else rows, identity(width) if cols is None else cols

    @cached_property
    def reads(self) -> tuple[bool, bool]:
        """Whether rows, and whether columns, are read; else they are written."""
        rows, cols = (*self.t.roles, WRITE)[:2]
        return rows == READ, cols == READ

    def blocks(self, old: np.ndarray, part: SourcePart) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, numbers) of every block of what is stored of a part of the source."""
        step = max(1, self.block // max(1, self.t.matrix[1]))
        for start in range(0, len(old), step):
            values = widen(old[start : start + step], part.dtype, self.how.work)
            check_finite(self.t.old.tensor, values)
            yield start, values

    def old_rows(self, old: np.ndarray, part: SourcePart, name: str) -> Rows:
        """Every copy of every old row, with the noise of `name`.

        Rows that are read are split, and each copy's share spread along the columns; rows that are written are spread
        once, and all their copies are equal but for a scale.
        """
        rows = self.maps[0]
        for number, (start, values) in enumerate(self.blocks(old, part)):
            noise, stop = Noise(self.seed, name, number), start + len(values)
            values = self.share_of_expert(values * self.how.work.type(self.read.factor), number)
            if self.reads[0]:
                copies = [share.T for share in self.shares(values.T, rows, slice(start, stop), noise)]
            else:
                copies = [self.columns(values, noise)] * len(rows.layers)
            for copy, (source, place) in zip(copies, rows.layers):
                here = (source >= start) & (source < stop)
                some, place = taken(copy, source[here] - start), place[here]
                if self.reads[0]:
                    new = self.columns(some, noise)
                else:
                    new = some * rows.write[place, None].astype(self.how.work)
                if paired(self.t, self.split):
                    new = np.where(self.apart[place], 0, new)
                yield place, rounded(self.t, new)

    def columns(self, values: np.ndarray, noise: Noise) -> np.ndarray:
        """(rows, n) -> (rows, m): columns gathered and scaled, or split, and filled."""
        cols, reads = self.maps[1], self.reads[1]
        new = np.zeros((len(values), cols.m), self.how.work)
        copies = self.shares(values, cols, slice(None), noise) if reads else [values] * len(cols.layers)
        for copy, (source, place) in zip(copies, cols.layers):
            new[:, place] = copy[:, source] if reads else copy[:, source] * cols.write[place].astype(self.how.work)
        for kind in (SILENT, UNREAD, MEAN):
            place = cols.fresh(kind)
            if len(place) and is_random(kind, reads):
                rms = np.sqrt(np.mean(np.square(values, dtype=F64), axis=1, keepdims=True))
                drawn = noise.uniform((len(values), len(place)), np.where(rms > 0, rms, UNSEEN_RMS), self.how.work)
                new[:, place] = self.drawn(drawn)
            elif len(place) and kind == MEAN:
                new[:, place] = values.mean(axis=1, dtype=F64, keepdims=True) * cols.write[place]
        return new

    def shares(self, values: np.ndarray, axis_map: AxisMap, span: slice, noise: Noise) -> list[np.ndarray]:
        """What each copy of a coordinate has of the weights that read it: values (other, n in span), one per copy."""
        counts, dtype = axis_map.counts[span], self.how.share_dtype
        if counts.max(initial=1) == 1 or paired(self.t, self.split):  # of a pair's copies one has the whole weight
            shares = [values] * len(axis_map.layers)
        elif self.split in HALVED:
            shares = split_even(values, counts)
        else:
            values = values if self.how.storable else representable(values, dtype)
            shares = split_exact(values, counts, dtype, noise, NOISE if self.split == "noisy" else None)
        for k, (source, place) in enumerate(axis_map.layers[: len(shares)]):
            factor = np.ones(axis_map.n)
            factor[source] = 1 / (axis_map.gain[place] * axis_map.write[place])
            if (abs(factor - 1) > 1e-15).any():  # else a norm's gain has undone the scale of what is read
                shares[k] = shares[k] * factor[span].astype(self.how.work)
        return shares

    def share_of_expert(self, values: np.ndarray, block: int) -> np.ndarray:
        """What one of several experts gets of the old one's weights; all draw alike, from the old one's name."""
        old, twin, dtype = self.t.old, self.read.twin, self.how.expert_dtype
        if twin is None or not twin.among:
            return values
        noise = Noise(self.seed, f"{old.tensor}+{old.corner[0]}:pair {twin.place // 2}", block)
        return mean_share(representable(values, dtype), twin.place, len(twin.among), dtype, noise)

    def fresh_rows(self, sources: list[tuple[np.ndarray, SourcePart]]) -> Rows:
        """Rows without a source: 0, the mean of the old ones, blends of them, or drawn at their scale."""
        t, rows, (height, width) = self.t, self.maps[0], self.t.matrix
        squares, total, groups, sizes = 0.0, np.zeros(width), np.zeros((GROUPS, width)), np.zeros((GROUPS, 1))
        for pair in zip(*(self.blocks(old, part) for old, part in sources)):
            for start, values in pair:
                squares += sum_of_squares(t.old.tensor, values)
                total += values.sum(axis=0, dtype=F64)
                for k in range(min(GROUPS, len(values))):
                    groups[(start + k) % GROUPS] += values[k::GROUPS].sum(axis=0, dtype=F64)
                    sizes[(start + k) % GROUPS] += len(values[k::GROUPS])
        mean = (total / (height * len(sources))).astype(self.how.work)
        means = groups[sizes[:, 0] > 0] / sizes[sizes[:, 0] > 0]
        rms = np.sqrt(squares / max(1, height * width * len(sources))) or (UNSEEN_RMS if len(t.shape) > 1 else 0.0)
        rms *= abs(self.read.factor) * np.sqrt(width / t.new_matrix[1])  # a unit that reads more keeps its scale
        for kind in (SILENT, UNREAD, MEAN, BLEND):
            fresh = rows.fresh(kind)
            for first, stop in runs(fresh, max(1, self.block // t.new_matrix[1])):
                place = fresh[first:stop]
                noise = Noise(self.seed, t.name + ":fresh", int(place[0]))
                if kind == BLEND:
                    new = self.blended(place, means)
                elif is_random(kind, self.reads[0]):
                    new = self.random_rows(len(place), rms, noise)
                elif kind == MEAN:
                    new = self.columns(mean[None], noise) * rows.write[place, None]
                else:
                    new = np.zeros((len(place), t.new_matrix[1]))
                yield place, rounded(t, new)

    def random_rows(self, count: int, rms: float, noise: Noise) -> np.ndarray:
        """Drawn numbers; 0 where columns must be 0, and the row's own mean where they must be the mean."""
        cols, reads = self.maps[1], self.reads[1]
        new = noise.uniform((count, cols.m), rms, self.how.work)
        new[:, cols.fresh(UNREAD if reads else SILENT)] = 0
        if not reads and len(mean := cols.fresh(MEAN)):
            place = cols.layers[0][1]
            stream = new[:, place] / cols.write[place].astype(self.how.work)
            new[:, mean] = stream.mean(axis=1, keepdims=True) * cols.write[mean].astype(self.how.work)
        return self.drawn(new)

    def blended(self, place: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Convex combinations of the old rows' means, or a number that no old row has."""
        if self.read.low is not None:
            return np.full((len(place), self.t.new_matrix[1]), self.read.low, self.how.work)
        blends = np.stack([blend(self.seed, row, len(means)) for row in place.tolist()]) @ means
        values = representable(blends.astype(self.how.work), self.t.dtype)
        return self.columns(values, Noise(self.seed, self.t.name + ":blend", int(place[0])))

    def drawn(self, values: np.ndarray) -> np.ndarray:
        return widen(as_drawn(self.t, values, self.how), self.t.dtype, self.how.work)

    @cached_property
    def further(self) -> np.ndarray:
        """(rows, columns) True for what a further copy of a unit writes."""
        (rows, cols), (row, col) = self.reads, (axis_map.copy_number for axis_map in self.maps)
        return ((row > 0) & (not rows))[:, None] | ((col > 0) & (not cols))

    @cached_property
    def apart(self) -> np.ndarray:
        """(rows, columns) True where a copy of a unit does not read this copy of its input: a diagonal split."""
        (rows, cols), (row, col) = self.maps, (axis_map.copy_number for axis_map in self.maps)
        row, source = row[:, None], rows.source[:, None]
        other: np.ndarray
        if self.reads[0]:
            other = col % np.maximum(1, rows.counts)[source] != row
        else:
            other = row % np.maximum(1, cols.counts)[cols.source] != col
        return other & (source >= 0) & (cols.source >= 0)


def blend(seed: int, row: int, count: int) -> np.ndarray:
    """(count,) positive numbers that sum to 1, all such being equally likely; the same for every tensor of an axis."""
    noise = Noise(seed, "blend", row).one_to_two((count,), F64)
    drawn = -np.log(2 - noise)  # on (0, ∞): exponentials, normalised, are uniform on the simplex
    shares: np.ndarray = drawn / drawn.sum()
    return shares


def _drawn(t: TensorPlan, origin: Drawn, old: np.ndarray, seed: int, block: int) -> Rows:
    """A tensor that is drawn, at the scale of the old one (its columns may have become more) or at another."""
    height, width = t.new_matrix
    step = max(1, block // width) * origin.repeat
    rms = _rms(t, old, block) * np.sqrt(t.matrix[1] / width) if origin.rms is None else origin.rms
    for start in range(0, height, step):
        place = np.arange(start, min(start + step, height))
        noise = Noise(seed, t.name + ":drawn", start)
        new = np.repeat(noise.uniform((len(place) // origin.repeat, width), rms, F64), origin.repeat, axis=0)
        yield place, rounded(t, new)


def _redraw(
    t: TensorPlan,
    read: Read,
    redraw: Redrawn,
    old: np.ndarray,
    places: list[np.ndarray],
    new: np.ndarray,
    seed: int,
    block: int,
) -> None:
    """Put weights that are drawn at the source's scale in place of some units, the same for all matrices of a name."""
    name, dim = redraw.name, redraw.dim
    count, rms = t.new_matrix[dim], _rms(t, old, block) * abs(read.factor)
    order = np.argsort(Noise(seed, name, 0).one_to_two((count,), F64), kind="stable")
    units = order[: round(redraw.share * count)]
    for place in places:
        for first, stop in runs(place):
            at, size = int(place[first]), stop - first
            drawn = Noise(seed, f"{t.name}:{name}", at).uniform((size, t.new_matrix[1]), rms, F64)
            chosen = np.isin(np.arange(at, at + size), units)[:, None] if dim == 0 else np.isin(np.arange(count), units)
            new[at : at + size] = np.where(chosen, rounded(t, drawn), new[at : at + size])


def _rms(t: TensorPlan, old: np.ndarray, block: int) -> float:
    """√mean(w²) of the source; UNSEEN_RMS where it is all zeros."""
    step, squares = max(1, block // t.matrix[1]), 0.0
    for start in range(0, len(old), step):
        values = widen(old[start : start + step], t.old.dtype, F64)
        check_finite(t.old.tensor, values)
        squares += float(np.square(values).sum())
    return np.sqrt(squares / old.size) or UNSEEN_RMS
