"""The faults of one tensor: numbers that break its equation by more than rounding explains.

Where every factor is a power of two the equation holds exactly for stored numbers, and the tolerance is 0. Where
weights had to be rounded, each stored number is within its unit roundoff of the real one, so the sum may differ by
u · Σ|terms| and no more; a single weight off by two units in the last place shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grow.applying.arithmetic import paired
from grow.notation.axes import READ
from grow.notation.dtypes import BITS, SMALLEST, STORES
from grow.notation.maps import is_power_of_two
from grow.planning.tensor import HALVED, TensorPlan, stays

# The proof itself runs in float64: a few roundings of products and sums. Only float64 checkpoints notice.
OWN_ROUNDING = 16 * 2.0**-53

Places = np.ndarray | list[int]


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
        self,
        found: np.ndarray,
        wanted: np.ndarray,
        terms: np.ndarray,
        rows: np.ndarray,
        rule: str,
        own: np.ndarray | None = None,
        columns: Places | None = None,
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
        self.note(bad, found, wanted, rows, rule, columns)

    def zero(self, found: np.ndarray, rows: np.ndarray, columns: Places, rule: str) -> None:
        self.note(found != 0, found, np.zeros_like(found), rows, rule, columns)

    def same(self, found: np.ndarray, wanted: np.ndarray, rows: np.ndarray, rule: str) -> None:
        """One number throughout, as it is stored."""
        self.note(found != wanted, found, wanted, rows, rule)

    def note(
        self,
        bad: np.ndarray,
        found: np.ndarray,
        wanted: np.ndarray,
        rows: np.ndarray,
        rule: str,
        columns: Places | None = None,
    ) -> None:
        """Add a fault where `bad` (rows, columns) is true somewhere."""
        if not bad.any():
            return
        i, j = np.argwhere(bad)[0]
        row = int(np.asarray(rows)[i])
        column = int(j if columns is None else np.asarray(columns)[j])
        at = (row, column)[: len(self.t.new_shape)]
        self.faults.append(Fault(self.t.name, at, float(found[i, j]), float(wanted[i, j]), int(bad.sum()), rule))


def unit_of(t: TensorPlan, factor: float, split: str) -> float:
    """0 where the growth rounds nothing, else the unit roundoff of the stored dtype; `factor` is on each number."""
    maps = [m for m in t.maps if m is not None]
    exact = all(m.exact_factors for m in maps) and t.old.dtype in STORES[t.dtype] and is_power_of_two(factor)
    if t.offset:
        exact = t.old.dtype in STORES[t.dtype] and all(stays(m, factor, tied=t.tied) for m in maps)
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
