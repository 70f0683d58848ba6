"""Stored numbers: bits to floats and back, the exact split, and seeded noise. numpy only.

bfloat16 travels as uint16 bits. Work is done in float32, or in float64 where a factor is no power of two or the
result is float64.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

RAW: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_TOP = np.uint32(0xFFFF0000)


def widen(raw: np.ndarray, dtype: str, work: np.dtype) -> np.ndarray:
    """Stored values as a fresh array of the work dtype; exact."""
    if dtype == "BF16":
        bits = raw.astype(np.uint32)
        bits <<= np.uint32(16)
        values = bits.view(np.float32)
        return values if work == np.float32 else values.astype(work)
    return raw.astype(work)


def narrow(values: np.ndarray, dtype: str, *, exact: bool = False) -> np.ndarray:
    """Values in their stored form, rounded to nearest even; `exact` promises that nothing needs rounding."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(RAW[dtype], copy=False)
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    if not exact:
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        bits = bits + np.uint32(0x7FFF) + odd  # round half to even; finite values cannot wrap
    return (bits >> np.uint32(16)).astype(np.uint16)


def representable(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values rounded to what `dtype` can store, still in the work dtype."""
    if RAW[dtype] == values.dtype:
        return values
    return widen(narrow(values, dtype), dtype, values.dtype)


def split_in_two(values: np.ndarray, dtype: str, rng: Noise) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) with a + b == values bit for bit, both representable in `dtype`, |a| ≥ |b|.

    a = fl(s·w) with ½ ≤ s < 1 drawn per element and b = w - a. Sterbenz: when a/2 ≤ w ≤ 2a the difference is
    exact. Rounding keeps a ≥ w/2, because w/2 is representable (or, among subnormals, a multiple of the same quantum
    as everything else, so that the difference is exact anyway). `values` must be representable in `dtype`.
    """
    a = values * rng.shares(values.shape, values.dtype)
    if dtype == "BF16" and a.dtype == np.float32:
        bits = a.view(np.uint32)
        bits &= _TOP  # towards zero: as good as nearest for the lemma
    elif RAW[dtype] != a.dtype:
        a = representable(a, dtype)
    return a, values - a


def split_exact(values: np.ndarray, counts: np.ndarray, dtype: str, rng: Noise) -> list[np.ndarray]:
    """Parts k = 0, 1, … of every column; column i has counts[i] of them and their sum is the value bit for bit.

    values (rows, n), counts (n,). Part k is only meaningful where counts > k. The larger part is split again, and
    which copy gets it is drawn per element.
    """
    parts = [values]
    for k in range(1, int(counts.max(initial=1))):
        columns = _columns(counts > k)
        a, b = split_in_two(parts[0][:, columns], dtype, rng)
        parts[0] = _assign(parts[0], columns, a)
        parts.append(_assign(np.zeros_like(values), columns, b))
    for k in range(1, len(parts)):
        columns = _columns(counts > k)
        a, b = parts[0][:, columns], parts[k][:, columns]
        swap = rng.bits(a.shape)
        parts[0] = _assign(parts[0], columns, np.where(swap, b, a))
        parts[k] = _assign(parts[k], columns, np.where(swap, a, b))
    return parts


def split_even(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Equal parts: exact for powers of two, and twins that training never separates."""
    share = values / counts.astype(values.dtype)
    return [share] * int(counts.max(initial=1))


def _columns(chosen: np.ndarray):
    return slice(None) if chosen.all() else np.flatnonzero(chosen)


def _assign(into: np.ndarray, columns, values: np.ndarray) -> np.ndarray:
    if isinstance(columns, slice):
        return values
    into = into.copy()
    into[:, columns] = values
    return into


class Noise:
    """Random numbers of one block of one tensor: the same for a seed, whatever thread computes it."""

    def __init__(self, seed: int, tensor: str, block: int) -> None:
        name = int.from_bytes(hashlib.sha256(tensor.encode()).digest()[:8], "little")
        self._bits = np.random.SFC64(np.random.SeedSequence([seed, name, block]))

    def words(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint16, uniform."""
        count = int(np.prod(shape))
        return self._bits.random_raw(-(-count // 4)).view(np.uint16)[:count].reshape(shape)

    def shares(self, shape: tuple[int, ...], work: np.dtype) -> np.ndarray:
        """Uniform on [½, 1)."""
        share = self.words(shape).astype(work)
        share *= work.type(2.0**-17)
        share += work.type(0.5)
        return share

    def bits(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        packed = self._bits.random_raw(-(-count // 64)).view(np.uint8)
        return np.unpackbits(packed, count=count).view(bool).reshape(shape)

    def uniform(self, shape: tuple[int, ...], rms, work: np.dtype) -> np.ndarray:
        """Zero mean, the given root mean square (a scalar, or one per row), never 0 where rms > 0."""
        values = self.words(shape).astype(work)
        values -= work.type(32767.5)
        values *= np.asarray(rms, dtype=work) * work.type(np.sqrt(12.0) / 65536)
        return values
