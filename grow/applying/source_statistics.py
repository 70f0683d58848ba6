"""What fresh rows must know of all old ones: their scale, mean, and means of groups."""

from __future__ import annotations

import numpy as np

from grow.applying.arithmetic import F64, GROUPS, UNSEEN_RMS, sum_of_squares
from grow.notation.maps import BLEND, MEAN
from grow.planning.tensor import TensorPlan


class SourceStatistics:
    """What is learnt of the old rows while they pass, block by block; sums that no fresh row needs are not taken."""

    def __init__(self, t: TensorPlan, factor: float) -> None:
        """factor  on every number"""
        self.t, self.factor = t, factor
        rows = t.maps[0]
        self.of_mean = rows is not None and bool((rows.source == MEAN).any())
        self.of_groups = rows is not None and bool((rows.source == BLEND).any())
        width = t.matrix[1]
        self.squares, self.count = 0.0, 0
        self.total = np.zeros(width)
        self.groups, self.sizes = np.zeros((GROUPS, width)), np.zeros((GROUPS, 1))

    def add(self, values: np.ndarray, start: int) -> None:
        """BadInput where a number is NaN or Inf."""
        self.squares += sum_of_squares(self.t.old.tensor, values)
        self.count += len(values)
        if self.of_mean:
            self.total += values.sum(axis=0, dtype=F64)
        if self.of_groups:
            for k in range(min(GROUPS, len(values))):
                group = values[k::GROUPS]
                self.groups[(start + k) % GROUPS] += group.sum(axis=0, dtype=F64)
                self.sizes[(start + k) % GROUPS] += len(group)

    @property
    def rms(self) -> float:
        """Of fresh rows: √mean(w²) of the old ones; a unit that reads more inputs keeps its scale."""
        t, width = self.t, self.t.matrix[1]
        old = np.sqrt(self.squares / max(1, self.count * width)) or (UNSEEN_RMS if len(t.shape) > 1 else 0.0)
        rms: float = old * (abs(self.factor) * np.sqrt(width / t.new_matrix[1]))
        return rms

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def means(self) -> np.ndarray:
        """(groups, columns) the mean of each group of old rows that is not empty."""
        there = self.sizes[:, 0] > 0
        return self.groups[there] / self.sizes[there]
