"""The plan of one tensor: where it is read from, and the map of each dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grow.notation.axes import WRITE, Signature
from grow.notation.dtypes import ITEMSIZE
from grow.notation.maps import AxisMap

SPLITS = ("exact", "even", "noisy", "diagonal")
"""How copies share a consumer's weight.

exact     drawn per weight; the shares sum to it bit for bit
even      equal shares
noisy     even shares and noise that cancels bit for bit
diagonal  copy k of a unit reads copy k of what it reads, with the whole weight; even where the reader has no copies
"""
HALVED = ("even", "diagonal")  # splits that divide weights, which rounds unless by a power of two


@dataclass(frozen=True)
class Share:
    """One of the experts that an old one became: their down projections differ, and their mean is the old one.

    place  among the copies
    among  tensor and first row of each copy
    """

    place: int
    among: tuple[tuple[str, int], ...]


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix; a vector is one column, a stack lies flat."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (shape[0], 1)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result.

    canonical  the name that the family's table gives it
    maps    one per stored dim, None where nothing changes
    tied    a norm in front of a tied head: its gain (bias) is shared among copies like a consumer's weight
    fill    None: it is read from `source`; a number: it is that number; `change.DRAWN`: drawn at the source's scale
    rms     of what is drawn, None for the source's
    repeat  how many consecutive rows of what is drawn are equal
    factor  on every element
    corner  (row, column) of the source where the part begins that is read
    copy    place among the experts that come from one old one
    share   what they write together is what the old one wrote
    pieces  a stack: the row where each matrix begins, and its plan
    inserted  part of a layer that computes the identity: all of it is new
    again   a second tensor made of its source: a head that parts from its table, a shared expert beside routed ones
    low     value of the fresh rows of a bias, None where their kind says it
    above   the next layer's tensor, which further copies of a unit are read from
    redraw  (share, name, dim): of the units along dim so many are drawn anew, the same for all matrices of a name
    """

    name: str
    source: str
    signature: Signature
    maps: tuple[AxisMap | None, ...]
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    tied: bool = False
    canonical: str = ""
    fill: float | str | None = None
    factor: float = 1.0
    low: float | None = None
    inserted: bool = False
    again: bool = False
    rms: float | None = None
    repeat: int = 1
    corner: tuple[int, int] = (0, 0)
    copy: int = 0
    share: Share | None = None
    pieces: tuple[tuple[int, TensorPlan], ...] = ()
    above: str = ""
    redraw: tuple[float, str, int] | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of what is read; a vector is one column, a stack lies flat."""
        return flat(self.shape)

    @property
    def new_matrix(self) -> tuple[int, int]:
        return flat(self.new_shape)

    @property
    def parts(self) -> tuple[tuple[int, TensorPlan], ...]:
        """(first row, matrix) that this tensor is made of."""
        return self.pieces or ((0, self),)

    @property
    def nbytes(self) -> int:
        return math.prod(self.new_shape) * ITEMSIZE[self.dtype]

    @property
    def roles(self) -> tuple[str, ...]:
        """Per dim. A table that is looked up row by row is not multiplied: its rows are gathered like a producer's."""
        return tuple(WRITE if dim.looked_up else dim.role for dim in self.signature.dims)

    @property
    def offset(self) -> float:
        """What stock code adds to a stored gain; 0 for all that is none."""
        return self.signature.dims[0].offset

    @property
    def unchanged(self) -> bool:
        plain = self.fill is None and self.factor == 1 and all(piece.unchanged for _, piece in self.pieces)
        return plain and all(m is None for m in self.maps) and self.dtype == self.source_dtype


def offset_shares(axis_map: AxisMap, factor: float, *, tied: bool) -> np.ndarray:
    """(m,) what each copy has of an old gain that is stored with an offset; 0 on fresh coordinates.

    In front of a tied head the copies must have one multiple of the old gain together. A gain that is neither the old
    one nor 0 is rounded when it is stored without its offset, so where that multiple is whole, as many copies have the
    old gain and the others 0, which training moves at once. Else all have the same.
    """
    copied = axis_map.source >= 0
    if not tied:
        return np.where(copied, axis_map.gain * factor, 0.0)
    counts = np.maximum(axis_map.counts, 1)[np.maximum(axis_map.source, 0)]
    together = np.where(copied, factor * axis_map.gain / axis_map.write, 0.0)
    if (together != np.rint(together)).any() or (together > counts).any():
        return together / counts
    number = np.zeros(axis_map.m, dtype=np.int64)
    for k, (_, place) in enumerate(axis_map.layers):
        number[place] = k
    return np.where(copied & (number < together), 1.0, 0.0)


def stays(axis_map: AxisMap, factor: float, *, tied: bool) -> bool:
    """Whether every copy of a gain that is stored with an offset is the old one or 0, so that nothing is rounded."""
    shares = offset_shares(axis_map, factor, tied=tied)
    return bool(np.isin(shares[axis_map.source >= 0], (0.0, 1.0)).all())
