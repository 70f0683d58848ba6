"""Where the numbers of a tensor come from: they are read, one number, drawn, or those of the matrices of a stack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix; a vector is one column, a stack lies flat."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)


@dataclass(frozen=True)
class SourcePart:
    """A tensor of the source, or a part of one that counts as a tensor of its own.

    tensor  its name
    dtype   in which it is stored
    shape   of the part
    corner  (row, column) where the part begins, in the tensor as a matrix
    columns of the tensor as a matrix, where they are not its last dim
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    corner: tuple[int, int] = (0, 0)
    columns: int | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns; a vector is one column, a stack lies flat."""
        return flat(self.shape) if self.columns is None else (math.prod(self.shape) // self.columns, self.columns)


@dataclass(frozen=True)
class Redrawn:
    """Units that are drawn anew, at the source's scale.

    share  of the units
    name   of the draw, the same for all matrices of an expert
    dim    along which the units are
    """

    share: float
    name: str
    dim: int


@dataclass(frozen=True)
class Twin:
    """One of the experts that an old one became.

    place   among them, from 0
    among   (tensor, first row) of each of them where their mean is the old one; () where each of them is the old one
    redraw  its units that are drawn anew
    """

    place: int
    among: tuple[tuple[str, int], ...] = ()
    redraw: Redrawn | None = None


@dataclass(frozen=True)
class Read:
    """Numbers of the source.

    factor  on each of them
    low     value of the fresh rows of a bias; None: as their kind says
    above   the next layer's tensor, which further copies of a unit are read from
    twin    of which experts it is one; None: of none that was made or added
    again   a second tensor made of the same part: a head that leaves its table, a shared expert beside routed ones
    """

    factor: float = 1.0
    low: float | None = None
    above: SourcePart | None = None
    twin: Twin | None = None
    again: bool = False

    @property
    def among(self) -> tuple[tuple[str, int], ...]:
        """(tensor, first row) of each of the experts whose mean is the old one; () where there are none."""
        return self.twin.among if self.twin else ()


AS_IT_IS = Read()


@dataclass(frozen=True)
class Constant:
    """One number throughout."""

    value: float


@dataclass(frozen=True)
class Drawn:
    """Random numbers.

    rms     their root mean square; None: the source's
    repeat  how many consecutive rows are equal
    """

    rms: float | None = None
    repeat: int = 1


@dataclass(frozen=True)
class Stack(Generic[P]):
    """Matrices that lie below each other."""

    pieces: tuple[P, ...]
