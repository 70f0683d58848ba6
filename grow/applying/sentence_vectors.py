"""Where the numbers of an old embedding lie in a grown one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grow.architectures.architecture import Architecture
from grow.notation.maps import AxisMap, axis_map, concatenate
from grow.planning.readback import stream_readback


@dataclass(frozen=True)
class Vectors:
    """Where the old numbers lie in a grown vector: coordinate j holds factor[j] · old[source[j]], fresh ones hold 0.

    shares  copies hold shares of the old number instead: over the copies of each, Σ factor[j] · new[j] is the old one
    """

    n: int
    source: np.ndarray
    factor: np.ndarray
    shares: bool = False

    @property
    def m(self) -> int:
        return len(self.source)

    @property
    def squares(self) -> np.ndarray:
        """(n,) what each old number contributes to a scalar product, relative to before."""
        kept = self.source >= 0
        return np.bincount(self.source[kept], weights=self.factor[kept] ** 2, minlength=self.n)

    @property
    def even(self) -> bool:
        """Whether scalar products are a multiple of what they were."""
        return not self.shares and bool(np.abs(self.squares / self.squares[0] - 1).max() <= 1e-12)

    @property
    def repeated(self) -> bool:
        """Whether every old number is there equally often and as it was, and nothing else: mean and variance stay."""
        counts = np.bincount(self.source[self.source >= 0], minlength=self.n)
        return not self.shares and self.m == counts.sum() and len(set(counts)) == 1 and bool((self.factor == 1).all())

    @property
    def columns(self) -> AxisMap:
        """Of a matrix that reads the vector."""
        read = self.factor if self.shares else None
        return axis_map(self.n, self.source, write=self.factor, read=read)

    def times(self, k: int) -> Vectors:
        """k such vectors behind each other."""
        whole = concatenate([self.columns] * k)
        return replace(self, n=whole.n, source=whole.source, factor=whole.write)


def vectors(source: Architecture, maps: Mapping[str, AxisMap], split: str) -> Vectors | None:
    """Of the transformer's last hidden state; None when it is the old one."""
    readback = stream_readback(source, maps, final=True)
    if readback is None:
        return None
    origin, factor, shares = maps["hidden"].source, readback[1], readback[2]
    counts = maps["hidden"].counts
    if shares and (split == "even" or counts.max() == 1):  # each copy holds as much as the others
        kept = np.maximum(origin, 0)
        return Vectors(maps["hidden"].n, origin, 1 / (counts[kept] * factor))
    return Vectors(maps["hidden"].n, origin, np.asarray(factor, dtype=np.float64), shares)
