"""Rows of a stored tensor as a matrix of raw numbers: the one reader of weights and of training states.

    read_rows     shape (6, 2, 5)  ->  6 rows of 10 columns     [start, stop) count entries of dim 0
    read_matrix   shape (6, 2, 5)  ->  12 rows of 5 columns     the matrices of a stack lie below each other

A vector is one column, and a number is one row of one column. bfloat16, which numpy lacks, comes as its bits. What is
read lies in memory that must not be written.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeVar

import numpy as np

from grow.notation.dtypes import RAW


class StoredTensor(Protocol):
    """A tensor in a file or in pieces; `dtype` is a safetensors code."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=StoredTensor, contravariant=True)


class ByteReader(Protocol[T]):
    """An open checkpoint, or an open folder of pieces."""

    def read(self, tensor: T, start: int, stop: int, /) -> bytes:
        """Bytes [start, stop) of a tensor, counted from its first."""
        ...


def read_rows(files: ByteReader[T], tensor: T, start: int, stop: int) -> np.ndarray[Any, Any]:
    """(stop - start, columns) raw numbers: entries along dim 0, whatever dims each of them has."""
    return _read(files, tensor, math.prod(tensor.shape[1:]), start, stop)


def read_matrix(
    files: ByteReader[T], tensor: T, start: int, stop: int, columns: int | None = None
) -> np.ndarray[Any, Any]:
    """(stop - start, columns) raw numbers: rows along all dims but the last, which are the columns unless these are
    given."""
    if columns is None:
        columns = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    return _read(files, tensor, columns, start, stop)


def _read(files: ByteReader[T], tensor: T, columns: int, start: int, stop: int) -> np.ndarray[Any, Any]:
    dtype = RAW[tensor.dtype]
    width = columns * dtype.itemsize
    return np.frombuffer(files.read(tensor, start * width, stop * width), dtype).reshape(stop - start, columns)
