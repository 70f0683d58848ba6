"""Axis maps: which old coordinate each new one comes from, and the law that they obey.

Coordinate j of the grown axis carries `write[j]` times the old coordinate `source[j]`. A norm in
between multiplies it by `gain[j]` more than before, and consumers weigh it with `read[j]`.

    the law    for every old i:   sum over j with source[j] = i of  read[j] * gain[j] * write[j] = 1

A coordinate without a source is fresh. Its kind says which single factor is zero:

    SILENT   producers write 0, consumers are random
    UNREAD   producers are random, consumers read with 0
    MEAN     producers write the mean of the old coordinates (what LayerNorm subtracts), consumers are random
    BLEND    producers write a drawn convex combination of the old coordinates (tokens: a logit among the old ones)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

SILENT, UNREAD, MEAN, BLEND = -1, -2, -3, -4
KINDS = {SILENT: "silent", UNREAD: "unread", MEAN: "mean", BLEND: "blend"}
Run = list[Any]
"""`[length, first source or kind, write, read, gain]`: two whole numbers and three floats."""


@dataclass(frozen=True, eq=False)
class AxisMap:
    """n -> m coordinates of one space.

    source  (m,) int64    old coordinate, or SILENT, UNREAD, MEAN
    write   (m,) float64  scale of the producer's row
    read    (m,) float64  nominal weight of the consumer's column; 0 on fresh coordinates
    gain    (m,) float64  factor on the gain of a norm over this space
    """

    n: int
    source: np.ndarray
    write: np.ndarray
    read: np.ndarray
    gain: np.ndarray
    operator: str = field(default="", compare=False)

    @property
    def m(self) -> int:
        return len(self.source)

    @cached_property
    def is_identity(self) -> bool:
        return (
            self.m == self.n
            and bool((self.source == np.arange(self.n)).all())
            and bool((self.write == 1).all() and (self.gain == 1).all())
        )

    @cached_property
    def counts(self) -> np.ndarray:
        """(n,) how many copies each old coordinate has."""
        return np.bincount(self.source[self.source >= 0], minlength=self.n)

    @cached_property
    def layers(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The copies peeled off one by one: (old coordinates, where their k-th copy lies), both sorted by old."""
        copied = np.flatnonzero(self.source >= 0)
        copied = copied[np.argsort(self.source[copied], kind="stable")]
        old = self.source[copied]
        first = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        nth = np.arange(len(copied)) - first[old]
        return tuple((old[nth == k], copied[nth == k]) for k in range(int(self.counts.max(initial=0))))

    @cached_property
    def copy_number(self) -> np.ndarray:
        """(m,) which copy of its old coordinate a new one is, from 0; 0 for a fresh one."""
        number = np.zeros(self.m, dtype=np.int64)
        for k, (_, place) in enumerate(self.layers):
            number[place] = k
        return number

    @cached_property
    def ungained(self) -> AxisMap:
        """The map where no gain undoes the scale of what is written: behind a branch, or to who reads it raw."""
        return self.having(gain=np.ones(self.m), read=self.read * self.gain)

    def fresh(self, kind: int) -> np.ndarray:
        """Indices of the fresh coordinates of one kind."""
        return np.flatnonzero(self.source == kind)

    def law(self) -> np.ndarray:
        """(n,) the sum that must be 1 for every old coordinate; 0 where the old coordinate was lost."""
        kept = self.source >= 0
        total = self.read[kept] * self.gain[kept] * self.write[kept]
        return np.bincount(self.source[kept], weights=total, minlength=self.n)

    @cached_property
    def exact_factors(self) -> bool:
        """Every scale on a weight is a power of two (or zero) and no coordinate is a computed mean."""
        scales = np.unique(np.concatenate([self.write, self.gain]))
        return all(is_power_of_two(x) for x in scales) and not (self.source == MEAN).any()

    def having(self, **columns: np.ndarray) -> AxisMap:
        """A map in which `source`, `write`, `read` or `gain` are others."""
        same = {name: getattr(self, name) for name in ("source", "write", "read", "gain")}
        return AxisMap(self.n, **{**same, **columns}, operator=self.operator)

    def to_runs(self) -> list[Run]:
        """Maximal runs `[length, first source or kind, write, read, gain]`: the map as JSON."""
        before, after = self.source[:-1], self.source[1:]
        same = np.where(after >= 0, (before >= 0) & (after - before == 1), after == before)
        for values in (self.write, self.read, self.gain):
            same &= values[1:] == values[:-1]
        starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
        ends = np.concatenate([starts[1:], [self.m]])
        return [
            [int(e - s), int(self.source[s]), float(self.write[s]), float(self.read[s]), float(self.gain[s])]
            for s, e in zip(starts, ends)
        ]

    @staticmethod
    def from_runs(n: int, runs: Sequence[Sequence[float]], operator: str = "") -> AxisMap:
        return RunMap(n, runs, operator)


class RunMap(AxisMap):
    """The map that `runs` tell, `[length, first source or kind, write, read, gain]` each.

    Its arrays are made when somebody looks at them, and a plan looks at none: a vocabulary or a number of positions may
    be millions.
    """

    runs: list[Run]

    def __init__(self, n: int, runs: Sequence[Sequence[float]], operator: str = "") -> None:
        merged: list[Run] = []
        for length, first, *scales in runs:
            run = [int(length), int(first), *map(float, scales)]
            if merged and _goes_on(merged[-1], run):
                merged[-1][0] += run[0]
            elif run[0]:
                merged.append(run)
        for name, value in (("n", n), ("runs", merged), ("operator", operator)):
            object.__setattr__(self, name, value)

    def _column(self, c: int) -> np.ndarray:
        return np.repeat([run[c] for run in self.runs], [run[0] for run in self.runs])

    @cached_property
    def source(self) -> np.ndarray:
        parts = [np.arange(s, s + k) if s >= 0 else np.full(k, s) for k, s, *_ in self.runs]
        return np.concatenate(parts).astype(np.int64, copy=False)

    @cached_property
    def write(self) -> np.ndarray:
        return self._column(2)

    @cached_property
    def read(self) -> np.ndarray:
        return self._column(3)

    @cached_property
    def gain(self) -> np.ndarray:
        return self._column(4)

    @property
    def m(self) -> int:
        return sum(run[0] for run in self.runs)

    @cached_property
    def is_identity(self) -> bool:
        at = 0
        for length, first, write, _, gain in self.runs:
            if first != at or write != 1 or gain != 1:
                return False
            at += length
        return at == self.n

    @cached_property
    def exact_factors(self) -> bool:
        scales = {x for run in self.runs for x in (run[2], run[4])}
        return all(map(is_power_of_two, scales)) and all(run[1] != MEAN for run in self.runs)

    def to_runs(self) -> list[Run]:
        return [list(run) for run in self.runs]


def _goes_on(run: Run, after: Run) -> bool:
    """Whether a run and the one behind it are one."""
    length, first, *scales = run
    return scales == after[2:] and after[1] == (first + length if first >= 0 else first)


def axis_map(
    n: int,
    source: Sequence[int] | np.ndarray,
    *,
    write: float | np.ndarray = 1.0,
    read: float | np.ndarray | None = None,
    gain: float | np.ndarray = 1.0,
    operator: str = "",
) -> AxisMap:
    """An `AxisMap` with scalars broadcast; `read` defaults to equal shares that obey the law."""
    source = np.asarray(source, dtype=np.int64)
    write, gain = (np.broadcast_to(np.asarray(x, dtype=np.float64), source.shape).copy() for x in (write, gain))
    if read is None:
        counts = np.bincount(source[source >= 0], minlength=n)
        read = np.where(source >= 0, 1.0 / (np.maximum(counts, 1)[np.maximum(source, 0)] * write * gain), 0.0)
    read = np.broadcast_to(np.asarray(read, dtype=np.float64), source.shape).copy()
    return AxisMap(n, source, write, read, gain, operator)


def identity(n: int) -> AxisMap:
    return RunMap(n, [[n, 0, 1.0, 1.0, 1.0]], "unchanged")


def appended(n: int, m: int, kind: int, operator: str = "") -> AxisMap:
    """The n old coordinates as they are, and m - n fresh ones of one kind behind them."""
    return RunMap(n, [[n, 0, 1.0, 1.0, 1.0], [m - n, kind, 1.0, 0.0, 1.0]], operator)


def product(maps: Sequence[AxisMap]) -> AxisMap:
    """The map of a dimension that is a product of spaces, outer first.

    A coordinate is fresh when any factor is; the outermost fresh factor gives its kind, so that a
    fresh head is unread throughout, whatever happens inside it.
    """
    out = maps[0]
    for inner in maps[1:]:
        so, si = out.source[:, None], inner.source[None, :]
        source = np.where(so < 0, so, np.where(si < 0, si, so * inner.n + si))
        write, read, gain = (
            np.multiply.outer(getattr(out, x), getattr(inner, x)).ravel() for x in ("write", "read", "gain")
        )
        out = AxisMap(out.n * inner.n, source.ravel(), write, read, gain)
    return out


def concatenate(maps: Sequence[AxisMap]) -> AxisMap:
    """The maps of consecutive slices (q, k, v) as one map."""
    offsets = np.cumsum([0] + [m.n for m in maps])
    source = [np.where(m.source < 0, m.source, m.source + o) for m, o in zip(maps, offsets)]
    write, read, gain = (np.concatenate([getattr(m, x) for m in maps]) for x in ("write", "read", "gain"))
    return AxisMap(int(offsets[-1]), np.concatenate(source), write, read, gain)


def is_power_of_two(x: float) -> bool:
    """True for 0 and ±2^k: multiplying by it rounds nothing (overflow and underflow apart)."""
    return x == 0 or (math.isfinite(x) and abs(math.frexp(x)[0]) == 0.5)
