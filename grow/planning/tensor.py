"""The plan of one tensor: what was in its place, where its numbers come from, and the map of each dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from grow.notation.axes import WRITE, Signature
from grow.notation.dtypes import ITEMSIZE
from grow.notation.maps import AxisMap
from grow.notation.origins import AS_IT_IS, Constant, Drawn, Read, SourcePart, Stack

SPLITS = ("exact", "even", "noisy", "diagonal")
"""How copies share a consumer's weight.

exact     drawn per weight; the shares sum to it bit for bit
even      equal shares
noisy     even shares and noise that cancels bit for bit
diagonal  copy k of a unit reads copy k of what it reads, with the whole weight; even where the reader has no copies
"""
HALVED = ("even", "diagonal")  # splits that divide weights, which rounds unless by a power of two

Origin = Read | Constant | Drawn | Stack["TensorPlan"]


def roles_of(signature: Signature) -> tuple[str, ...]:
    """Per dim. A table that is looked up row by row is not multiplied: its rows are gathered like a producer's."""
    return tuple(WRITE if dim.looked_up else dim.role for dim in signature.dims)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result.

    canonical  the name that the family's table gives it
    maps       one per stored dim, None where nothing changes
    old        what the source has in its place: it is read from there, or takes from there its old shape, its scale and
               whether and how it is trained; of a stack that the source does not have, where its first matrix is
    dtype      in which the result is stored
    tied       a norm in front of a tied head: its gain (bias) is shared among copies like a consumer's weight
    inserted   part of a layer that computes the identity: all of it is new
    """

    name: str
    canonical: str
    signature: Signature
    maps: tuple[AxisMap | None, ...]
    old: SourcePart
    new_shape: tuple[int, ...]
    dtype: str
    origin: Origin = AS_IT_IS
    tied: bool = False
    inserted: bool = False

    @property
    def offset(self) -> float:
        """What stock code adds to a stored gain; 0 for all that is none."""
        return self.signature.dims[0].offset

    @property
    def factor(self) -> float:
        """What its numbers are multiplied with as they are read, all alike."""
        match self.origin:
            case Read(factor=factor):
                return factor
            case Stack(pieces=(piece,)):
                return piece.factor
        return 1.0

    @property
    def source(self) -> str:
        """The name of the source's tensor in its place."""
        return self.old.tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its old shape."""
        return self.old.shape

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of what is read; a vector is one column, a stack and a tensor of more dims lie flat."""
        return self.old.matrix

    @property
    def new_matrix(self) -> tuple[int, int]:
        return self.signature.flat(self.new_shape)

    @property
    def parts(self) -> tuple[tuple[int, TensorPlan], ...]:
        """(first row, matrix) that this tensor is made of."""
        if not isinstance(self.origin, Stack):
            return ((0, self),)
        parts, begin = [], 0
        for piece in self.origin.pieces:
            parts.append((begin, piece))
            begin += piece.new_matrix[0]
        return tuple(parts)

    @property
    def nbytes(self) -> int:
        return math.prod(self.new_shape) * ITEMSIZE[self.dtype]

    @property
    def roles(self) -> tuple[str, ...]:
        return roles_of(self.signature)

    @property
    def unchanged(self) -> bool:
        if any(m is not None for m in self.maps) or self.dtype != self.old.dtype:
            return False
        match self.origin:
            case Read(factor=factor):
                return factor == 1
            case Stack(pieces=pieces):
                return all(piece.unchanged for piece in pieces)
        return False

    def stored_as(self, dtype: str, *, before: bool = False) -> TensorPlan:
        """The same tensor, stored in another dtype; `before`: the old one, too."""
        old, origin = replace(self.old, dtype=dtype) if before else self.old, self.origin
        if isinstance(origin, Stack):
            origin = Stack(tuple(piece.stored_as(dtype, before=before) for piece in origin.pieces))
        elif dtype == self.dtype and old.dtype == self.old.dtype:
            return self
        return replace(self, dtype=dtype, old=old, origin=origin)


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
    together: np.ndarray = np.where(copied, factor * axis_map.gain / axis_map.write, 0.0)
    if (together != np.rint(together)).any() or (together > counts).any():
        even: np.ndarray = together / counts
        return even
    return np.where(copied & (axis_map.copy_number < together), 1.0, 0.0)


def stays(axis_map: AxisMap, factor: float, *, tied: bool) -> bool:
    """Whether every copy of a gain that is stored with an offset is the old one or 0, so that nothing is rounded."""
    shares = offset_shares(axis_map, factor, tied=tied)
    return bool(np.isin(shares[axis_map.source >= 0], (0.0, 1.0)).all())
