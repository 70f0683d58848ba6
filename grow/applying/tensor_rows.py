"""Applying a plan is one loop: every stored dim is gathered, scaled, split or filled as its label's role says.

    write   rows of a producer      new row j = write[j] · old row source[j];   fresh: 0, random or the mean
    read    columns of a consumer   the copies of column i share it;            fresh: 0 where unread, else random
    gain    a norm's weight         gain[j] · old source[j]
    shift   a norm's bias           old source[j], 0 on fresh coordinates

`grow_tensor` does one tensor of any size in blocks of rows: it reads every old row once and hands out finished rows
in any order, so its memory is a block. It knows no family and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from grow.errors import BadInput, Refused
from grow.notation.axes import GAIN, READ, SHIFT, WRITE
from grow.notation.dtypes import RAW
from grow.notation.maps import BLEND, MEAN, SILENT, UNREAD, AxisMap, is_power_of_two
from grow.notation.numbers import (
    Noise,
    mean_share,
    narrow,
    representable,
    split_even,
    split_exact,
    split_one,
    stored,
    widen,
)
from grow.planning.change import DRAWN
from grow.planning.tensor import HALVED, TensorPlan
from grow.spelling import Either, option

BLOCK = 1 << 18  # elements of a source block: about a megabyte in float32
UNSEEN_RMS = 0.02  # scale of fresh weights beside a tensor that is all zeros
GROUPS = 16  # of old rows, whose means new tokens are blends of
# Noise of the noisy split, relative to an even share: uniform on ±0.548 of it, 10 dB below it
NOISE = 3**0.5 * 10**-0.5

ReadRows = Callable[[int, int], np.ndarray]  # [start, stop) -> (rows, columns) in stored form
Parts = Iterator[tuple[int, np.ndarray]]  # (first row, rows)
WriteRows = Callable[[int, np.ndarray], None]  # first row, (rows, columns) in stored form


def grow_tensor(
    t: TensorPlan,
    read_rows: ReadRows,
    write_rows: WriteRows,
    *,
    split: str,
    seed: int,
    read_above: ReadRows | None = None,
) -> None:
    """Compute every row of the result exactly once. A vector is a matrix of one column.

    read_above  of the tensor `t.above`, where it has one
    Raises BadInput on NaN or Inf in the source, Refused when the stored dtype cannot hold a result.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused when it is stored
        if t.redraw is not None and t.fill is None:
            write_rows = _redrawn(t, read_rows, write_rows, seed)
        if t.fill is not None:
            _fill_tensor(t, read_rows, write_rows, seed)
        elif t.roles[0] in (GAIN, SHIFT):
            _grow_norm(t, read_rows, write_rows, split, seed)
        else:
            _Matrix(t, split, seed).run(read_rows, write_rows, read_above)


def paired(t: TensorPlan, split: str) -> bool:
    """Whether copies of the tensor's units each read one copy of their inputs: diagonal, and both dims have copies."""
    maps = [m for m in t.maps if m is not None and m.counts.max(initial=1) > 1]
    return split == "diagonal" and len(maps) == 2 and set(t.roles) == {READ, WRITE}


class _Matrix:
    """One producer, consumer or both; rows are dim 0, columns dim 1 (a single one for a bias)."""

    def __init__(self, t: TensorPlan, split: str, seed: int) -> None:
        self.t, self.split, self.seed = t, split, seed
        self.rows, self.cols = (*t.maps, None)[:2]
        self.row_role, self.col_role = (*t.roles, WRITE)[:2]
        self.n_rows, self.n_cols = (*t.shape, 1)[:2]
        self.m_cols = (*t.new_shape, 1)[1]
        changing = [m for m in (self.rows, self.cols) if m is not None]
        whole = split not in HALVED  # shares that sum bit for bit
        exact = all(m.exact_factors for m in changing) and (whole or t.dtype != "F64")
        exact = exact and is_power_of_two(t.factor)
        wide = "F64" in (t.dtype, t.source_dtype) or not exact
        self.work = np.dtype(np.float64 if wide else np.float32)
        sides = ((self.rows, self.row_role), (self.cols, self.col_role))
        # where numbers only move, their bits do, several times faster than through floats
        still = (_only_moves(m, role, made_elsewhere=i == 0) for i, (m, role) in enumerate(sides))
        self.moves = t.dtype == t.source_dtype and all(still) and t.factor == 1 and t.share is None
        self.paired = paired(t, split)
        # where nothing is larger than a stored number and all is exact, rounding would only take time
        largest = max((float(m.write.max()) for m in changing), default=1.0) * abs(t.factor)
        self.fits = exact and t.dtype == t.source_dtype and whole and largest <= 1 and t.share is None
        self.exact = exact
        self.rescaled = any(m is not None and role == WRITE and not m.exact_factors for m, role in sides)
        self.squares, self.seen = 0.0, 0
        self.mean = np.zeros(self.n_cols)
        self.groups, self.counts = np.zeros((GROUPS, self.n_cols)), np.zeros((GROUPS, 1))

    def run(self, read_rows: ReadRows, write_rows: WriteRows, read_above: ReadRows | None = None) -> None:
        step = max(1, BLOCK // max(self.n_cols, 1))
        for block, start in enumerate(range(0, self.n_rows, step)):
            stop = min(start + step, self.n_rows)
            raw = read_rows(start, stop)
            values = widen(raw, self.t.source_dtype, self.work)
            self._observe(values, start)
            if self.t.factor != 1:
                values = values * self.work.type(self.t.factor)
            values = self._share(values, block)
            noise = Noise(self.seed, self.t.name, block)
            spread = self._spread_rows(raw if self.moves else values, start, stop, noise)
            if read_above is not None:
                other = read_above(start, stop)
                above = widen(other, self.t.source_dtype, self.work)
                self._observe(above, start)
                spread = self._from_above(
                    spread,
                    self._spread_rows(
                        other if self.moves else above, start, stop, Noise(self.seed, self.t.above, block)
                    ),
                )
            for first, part in spread:
                write_rows(first, part)
        if self.rows is not None:
            self._fresh_rows(self.rows, write_rows)

    def _share(self, values: np.ndarray, block: int) -> np.ndarray:
        """What one of several experts gets of the old one's weights; all draw alike, from the old one's name."""
        share = self.t.share
        if share is None:
            return values
        dtype = self.t.dtype if self.exact else "F64"
        noise = Noise(self.seed, f"{self.t.source}+{self.t.corner[0]}:pair {share.place // 2}", block)
        return mean_share(representable(values, dtype), share.place, len(share.among), dtype, noise)

    def _from_above(self, own: Parts, above: Parts) -> Parts:
        """What the first copy of each unit writes comes from `own`, what the further ones write from `above`."""
        rows = _further(self.rows, self.row_role, self.t.new_matrix[0])
        cols = _further(self.cols, self.col_role, self.m_cols)
        for (first, a), (_, b) in zip(own, above, strict=True):
            yield first, np.where(rows[first : first + len(a), None] | cols, b, a)

    def _observe(self, values: np.ndarray, start: int) -> None:
        flat = values.ravel()
        squares = float(np.dot(flat, flat))
        if not np.isfinite(squares):
            if not np.isfinite(flat).all():
                raise _not_finite(self.t.source, flat)
            squares = float(np.dot(flat.astype(np.float64), flat.astype(np.float64)))
        self.squares += squares
        self.seen += flat.size
        if self.rows is not None and (self.rows.source == MEAN).any():
            self.mean += values.sum(axis=0, dtype=np.float64)
        if self.rows is not None and (self.rows.source == BLEND).any():
            for k in range(min(GROUPS, len(values))):
                group = values[k::GROUPS]
                self.groups[(start + k) % GROUPS] += group.sum(axis=0, dtype=np.float64)
                self.counts[(start + k) % GROUPS] += len(group)

    def _spread_rows(self, values: np.ndarray, start: int, stop: int, noise: Noise) -> Iterator[tuple[int, np.ndarray]]:
        """(first new row, finished rows) for every copy of the source rows [start, stop)."""
        if self.rows is None:
            yield start, self._finish(self._columns(values, noise))
            return
        reads = self.row_role == READ
        parts = self._parts(values.T, self.rows, slice(start, stop), noise) if reads else []
        grown = None if reads else self._columns(values, noise)
        done: np.ndarray | None = None
        for k, (old, new) in enumerate(self.rows.layers):
            a, b = np.searchsorted(old, (start, stop))
            if a == b:
                continue
            pick, place = old[a:b] - start, new[a:b]
            scale = self.rows.write[place]
            if grown is None:
                part = parts[k].T[pick] if len(pick) < stop - start else parts[k].T
                rows = self._finish(self._columns(part, noise, k, self.rows.counts[old[a:b]]))
            elif self.paired:
                rows = self._finish(self._columns(values, noise, k)[pick] * scale[:, None].astype(self.work))
            elif (scale != 1).any():
                rows = self._finish(grown[pick] * scale[:, None].astype(self.work))
            else:
                done = self._finish(grown) if done is None else done  # every copy is the same: computed once
                rows = done if len(pick) == stop - start else done[pick]
            for run in np.split(np.arange(len(place)), np.flatnonzero(np.diff(place) != 1) + 1):
                yield int(place[run[0]]), rows[run[0] : run[-1] + 1]

    def _columns(self, values: np.ndarray, noise: Noise, copy: int = 0, among: np.ndarray | None = None) -> np.ndarray:
        """(rows, n) -> (rows, m) along the second dim; in stored form already where nothing is left to compute.

        copy, among  of a paired tensor: which copy these rows are, and (where rows are read) of how many each
        """
        if self.cols is None:
            return values
        keep = self._keep if self.fits and not self._scales_rows else lambda x: x
        reads = self.col_role == READ
        out = np.zeros((len(values), self.cols.m), dtype=keep(values[:0]).dtype)
        parts = self._parts(values, self.cols, slice(None), noise, copy) if reads else None
        for k, (old, new) in enumerate(self.cols.layers):
            source = values if parts is None else parts[k]
            taken = source if len(old) == self.cols.n else source[:, old]
            if parts is None and (self.cols.write[new] != 1).any():
                taken = taken * self.cols.write[new].astype(self.work)
            if self.paired and among is not None:
                taken = np.where((k % among == copy)[:, None], taken, taken.dtype.type(0))
            out[:, _as_slice(new)] = keep(taken)
        for kind in (SILENT, UNREAD, MEAN):
            fresh = self.cols.fresh(kind)
            if not len(fresh):
                continue
            if not reads and kind == MEAN:
                mean = values.mean(axis=1, dtype=np.float64, keepdims=True)
                out[:, _as_slice(fresh)] = mean * self.cols.write[fresh]
            elif _is_random(kind, reads):
                rms = np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=1, keepdims=True))
                random = noise.uniform((len(values), len(fresh)), np.where(rms > 0, rms, UNSEEN_RMS), self.work)
                out[:, _as_slice(fresh)] = keep(random if self.fits else representable(random, self.t.dtype))
        return out

    @property
    def _scales_rows(self) -> bool:
        return self.rows is not None and self.row_role == WRITE and bool((self.rows.write != 1).any())

    def _keep(self, values: np.ndarray) -> np.ndarray:
        """Representable values in stored form; stored ones as they are."""
        return values if self.moves else stored(values, self.t.dtype)

    def _parts(
        self, values: np.ndarray, axis_map: AxisMap, span: slice, noise: Noise, copy: int = 0
    ) -> list[np.ndarray]:
        """The shares of a consumer's weights: values (other, n in span), one array per copy."""
        counts = axis_map.counts[span]
        # shares that a producer's factor rounds afterwards stay whole here: a stored number is rounded once
        dtype = "F64" if self.rescaled else self.t.dtype
        if counts.max(initial=1) == 1:
            parts = [values]
        elif self.paired:  # rows that are read are zeroed column by column later
            parts = [values] * int(counts.max()) if self.row_role == READ else split_one(values, counts, copy)
        elif self.split not in HALVED:
            whole = values if self.fits else representable(values, dtype)
            parts = split_exact(whole, counts, dtype, noise, NOISE if self.split == "noisy" else None)
        else:
            parts = split_even(values, counts)
        for k, (old, new) in enumerate(axis_map.layers):
            factor = 1 / (axis_map.gain[new] * axis_map.write[new])
            if (abs(factor - 1) > 1e-15).any():  # a reader of the raw stream undoes its scale
                inside = np.ones(axis_map.n)
                inside[old] = factor
                parts[k] = parts[k] * inside[span].astype(self.work)
        return parts

    def _fresh_rows(self, axis_map: AxisMap, write_rows: WriteRows) -> None:
        rms = np.sqrt(self.squares / max(self.seen, 1)) or (UNSEEN_RMS if len(self.t.shape) > 1 else 0.0)
        rms *= abs(self.t.factor) * np.sqrt(self.n_cols / self.m_cols)  # a unit that reads more keeps its scale
        reads = self.row_role == READ
        rows = max(1, BLOCK // self.m_cols)
        for kind in (SILENT, UNREAD, MEAN, BLEND):
            fresh = axis_map.fresh(kind)
            for run in np.split(fresh, np.flatnonzero(np.diff(fresh) != 1) + 1):
                for at in range(0, len(run), rows):
                    some = run[at : at + rows]
                    noise = Noise(self.seed, self.t.name + ":fresh", int(some[0]))
                    if kind == BLEND:
                        filled = self._blend(some)
                    else:
                        filled = self._fill(kind, reads, axis_map.write[some], rms, noise)
                    write_rows(int(some[0]), self._finish(filled))

    def _blend(self, rows: np.ndarray) -> np.ndarray:
        """Convex combinations of the old rows, drawn per row of the axis: the same for every tensor that has it."""
        if self.t.low is not None:
            return np.full((len(rows), self.m_cols), self.t.low, dtype=self.work)
        seen = self.counts[:, 0] > 0
        means = self.groups[seen] / self.counts[seen]
        shares = np.stack([_shares(self.seed, int(row), len(means)) for row in rows])
        blends = (shares @ means).astype(self.work)
        noise = Noise(self.seed, self.t.name + ":blend", int(rows[0]))
        return self._columns(representable(blends, self.t.dtype), noise)

    def _fill(self, kind: int, reads: bool, write: np.ndarray, rms: float, noise: Noise) -> np.ndarray:
        """Fresh rows of one kind, one per entry of `write`."""
        if kind == MEAN and not reads:
            mean = self._columns((self.mean / self.n_rows)[None].astype(self.work), noise)
            return mean * write[:, None]
        if not _is_random(kind, reads):
            return np.zeros((len(write), self.m_cols), dtype=RAW[self.t.dtype])
        out = noise.uniform((len(write), self.m_cols), rms, self.work)
        if self.cols is not None:
            closed = self.cols.fresh(UNREAD) if self.col_role == READ else self.cols.fresh(SILENT)
            out[:, closed] = 0
            self._keep_mean(out)
        return stored(out, self.t.dtype) if self.fits else out

    def _keep_mean(self, rows: np.ndarray) -> None:
        """A fresh row that writes a stream with mean coordinates carries the mean of its own entries there."""
        if self.cols is not None and self.col_role == WRITE and len(fresh := self.cols.fresh(MEAN)):
            new = self.cols.layers[0][1]
            stream = rows[:, new] / self.cols.write[new].astype(self.work)
            rows[:, fresh] = stream.mean(axis=1, keepdims=True) * self.cols.write[fresh].astype(self.work)

    def _finish(self, values: np.ndarray) -> np.ndarray:
        """Rows as they are written; what is in stored form already is finished."""
        if values.dtype == RAW[self.t.dtype] and (self.moves or self.fits or values.dtype == np.uint16):
            return values
        return _stored(self.t, values)


def _grow_norm(t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, split: str, seed: int) -> None:
    """A gain or bias, small enough for memory."""
    raw = read_rows(0, t.shape[0])
    values = widen(raw, t.source_dtype, np.dtype(np.float64)).ravel()
    if not np.isfinite(values).all():
        raise _not_finite(t.source, values)
    axis_map = t.maps[0]
    if axis_map is None:
        kept = t.dtype == t.source_dtype and t.factor == 1
        write_rows(0, raw if kept else _stored(t, values[:, None] * t.factor))
        return
    values = values * t.factor
    shift = t.roles[0] == SHIFT
    fill = 0.0 if shift else float(np.abs(values).mean())
    out = np.full(axis_map.m, fill)
    noise = Noise(seed, t.name, 0)
    if t.tied:
        counts = axis_map.counts
        dtype = t.dtype if axis_map.exact_factors else "F64"  # as in _parts: rounded once
        if split not in HALVED:
            whole = representable(values[None], dtype)
            parts = split_exact(whole, counts, dtype, noise, NOISE if split == "noisy" else None)
        else:
            parts = split_even(values[None], counts)
    for k, (old, new) in enumerate(axis_map.layers):
        if t.tied:
            scale = 1 / axis_map.write[new] if shift else axis_map.gain[new] / axis_map.write[new]
            out[new] = parts[k][0, old] * scale
        else:
            out[new] = values[old] * (1.0 if shift else axis_map.gain[new])
    if not shift:
        fresh = axis_map.source < 0
        out[fresh] *= axis_map.gain[fresh]
    write_rows(0, _stored(t, out[:, None]))


def _fill_tensor(t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, seed: int) -> None:
    """A tensor that is one number, or drawn at the scale of the old one (its columns may have become more)."""
    new_rows, width = t.new_matrix
    step = max(1, BLOCK // width) * t.repeat
    rms = t.rms
    if t.fill == DRAWN and rms is None:
        rms = _rms(t, read_rows) * np.sqrt(t.matrix[1] / width)  # a unit that reads more inputs keeps its scale
    for start in range(0, new_rows, step):
        shape = (min(step, new_rows - start), width)
        if t.fill == DRAWN:
            drawn = Noise(seed, t.name + ":drawn", start).uniform((shape[0] // t.repeat, width), rms, np.dtype(float))
            block = np.repeat(drawn, t.repeat, axis=0)
        else:
            block = np.full(shape, t.fill, dtype=np.float64)
        write_rows(start, _stored(t, block))


def _redrawn(t: TensorPlan, read_rows: ReadRows, write_rows: WriteRows, seed: int) -> WriteRows:
    """`write_rows` that puts drawn weights, at the source's scale, in place of some units."""
    assert t.redraw is not None
    share, name, dim = t.redraw
    units, width = t.new_matrix[dim], t.new_matrix[1]
    order = np.argsort(Noise(seed, name, 0).one_to_two((units,), np.dtype(np.float64)), kind="stable")
    chosen = np.zeros(units, dtype=bool)
    chosen[order[: round(share * units)]] = True
    rms = _rms(t, read_rows) * abs(t.factor)

    def write(first: int, block: np.ndarray) -> None:
        drawn = Noise(seed, f"{t.name}:{name}", first).uniform((len(block), width), rms, np.dtype(np.float64))
        mask = chosen[first : first + len(block), None] if dim == 0 else chosen[None]
        write_rows(first, np.where(mask, _stored(t, drawn), block))

    return write


def _rms(t: TensorPlan, read_rows: ReadRows) -> float:
    """√mean(w²) of the source; UNSEEN_RMS where it is all zeros."""
    rows, columns = t.matrix
    step, squares = max(1, BLOCK // columns), 0.0
    for start in range(0, rows, step):
        values = widen(read_rows(start, min(start + step, rows)), t.source_dtype, np.dtype(np.float64))
        if not np.isfinite(values).all():
            raise _not_finite(t.source, values)
        squares += float(np.square(values).sum())
    return np.sqrt(squares / (rows * columns)) or UNSEEN_RMS


def _shares(seed: int, row: int, count: int) -> np.ndarray:
    """(count,) positive numbers that sum to 1, all such being equally likely."""
    noise = Noise(seed, "blend", row).one_to_two((count,), np.dtype(np.float64))
    drawn = -np.log(2 - noise)  # on (0, ∞): exponentials, normalised, are uniform on the simplex
    return drawn / drawn.sum()


def _not_finite(name: str, values: np.ndarray) -> BadInput:
    bad = int((~np.isfinite(values)).sum())
    return BadInput(
        name,
        what=f"{bad} value{'s are' if bad > 1 else ' is'} NaN or Inf",
        why="a network with such a weight has no output to preserve",
        fix="repair the checkpoint",
    )


def _stored(t: TensorPlan, values: np.ndarray) -> np.ndarray:
    """The rows as they are written; Refused when the dtype cannot hold them."""
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


def _only_moves(axis_map: AxisMap | None, role: str, made_elsewhere: bool) -> bool:
    """No arithmetic on this dim: old values are put in place and new ones are 0, or rows made elsewhere."""
    if axis_map is None:
        return True
    fresh = {kind for kind in (SILENT, UNREAD, MEAN) if len(axis_map.fresh(kind))}
    zero = made_elsewhere or not fresh - {UNREAD if role == READ else SILENT}
    if role == READ:
        return zero and bool(axis_map.counts.max(initial=1) == 1 and (axis_map.gain * axis_map.write == 1).all())
    return zero and bool((axis_map.write == 1).all())


def _further(axis_map: AxisMap | None, role: str, size: int) -> np.ndarray:
    """(size,) True for what a further copy of a unit writes."""
    found = np.zeros(size, dtype=bool)
    if axis_map is not None and role == WRITE:
        for _, new in axis_map.layers[1:]:
            found[new] = True
    return found


def _is_random(kind: int, reads: bool) -> bool:
    """Which side of a fresh coordinate is random: producers of unread ones, consumers of all others."""
    return kind != UNREAD if reads else kind == UNREAD


def _as_slice(index: np.ndarray):
    """A slice where the indices are consecutive: many times faster than fancy indexing."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
