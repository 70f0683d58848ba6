"""Stored numbers: bits to floats and back, the exact split, and seeded noise.

bfloat16 travels as uint16 bits. Work is done in float32, or in float64 where a factor is not a power of two or the
result is float64.
"""

from __future__ import annotations

import hashlib

import numpy as np

from grow.notation.dtypes import RAW

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


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values that `dtype` can represent, in their stored form; others lose their last bits (noise may).

    bfloat16 is the upper half of float32: no copy is made.
    """
    if dtype == "BF16" and values.dtype == np.float32:
        return np.ascontiguousarray(values).view("<u2")[..., 1::2]
    return narrow(values, dtype)


def representable(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values rounded to what `dtype` can store, still in the work dtype."""
    if RAW[dtype] == values.dtype:
        return values
    return widen(narrow(values, dtype), dtype, values.dtype)


def split_in_two(
    values: np.ndarray, dtype: str, rng: Noise, share: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) with a + b == values bit for bit, both representable in `dtype`, a/w uniform on [0, 1].

    Let x = w·(1 + u), 0 ≤ u < 1, rounded to `dtype`. Then w ≤ x ≤ 2w, so a = x - w is exact (Sterbenz's lemma) and a
    multiple of w's unit in the last place; so is b = w - a. A multiple of it between 0 and w is representable.
    `values` must be representable in `dtype`; `share` replaces the uniform u.
    """
    x = rng.one_to_two(values.shape, values.dtype) if share is None else 1 + share
    with np.errstate(over="ignore", invalid="ignore"):
        x *= values
    if dtype == "BF16" and x.dtype == np.float32:
        bits = x.view(np.uint32)
        bits &= _TOP  # towards zero: still at least w
    elif RAW[dtype] != x.dtype:
        x = representable(x, dtype)
    finite = np.isfinite(x)
    if not finite.all():
        x[~finite] = values[~finite]  # above half of the largest number the last copy gets the whole weight
    x -= values
    return x, values - x


def split_exact(
    values: np.ndarray, counts: np.ndarray, dtype: str, rng: Noise, noise: float | None = None
) -> list[np.ndarray]:
    """Parts k = 0, 1, … of every column; column i has counts[i] of them and their sum is the value bit for bit.

    values (rows, n), counts (n,). Part k is only meaningful where counts > k. All ways of sharing a weight among its
    copies are equally likely: with r copies to go the next one takes 1 - u^(1/(r-1)) of what is left. With `noise` it
    takes (1 + noise · (2u - 1)) / r of it: even shares, and noise that cancels.
    """
    parts, rest = [], values
    for k in range(int(counts.max(initial=1)) - 1):
        left = counts - k
        columns = slice(None) if (left > 1).all() else np.flatnonzero(left > 1)
        some = rest[:, columns]
        share = None
        if noise is not None:
            u = rng.one_to_two(some.shape, some.dtype) - 1
            share = ((1 + noise * (2 * u - 1)) / left[columns]).astype(some.dtype)
        elif (left > 2).any():
            u = rng.one_to_two(some.shape, some.dtype) - 1
            share = 1 - u ** (1 / (left[columns] - 1)).astype(some.dtype)
        a, b = split_in_two(some, dtype, rng, share)
        if isinstance(columns, slice):
            parts.append(a)
            rest = b
        else:
            whole = rest.copy()  # columns that have no further copy keep what is left
            whole[:, columns] = a
            parts.append(whole)
            rest = rest.copy()
            rest[:, columns] = b
    return [*parts, rest]


def mean_share(values: np.ndarray, place: int, count: int, dtype: str, rng: Noise) -> np.ndarray:
    """The matrix at `place` among `count` of them, whose mean is `values` bit for bit.

    They are pairs 2a, 2b with a + b = values, and with an odd count one that is `values` itself. `rng` belongs to the
    pair and is the same for both of it.
    """
    pair, second = divmod(place, 2)
    if 2 * pair + 1 == count:
        return values
    return 2 * split_in_two(values, dtype, rng)[second]


def split_even(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Equal parts: exact for powers of two, and twins that training never separates."""
    share = values / counts.astype(values.dtype)
    return [share] * int(counts.max(initial=1))


class Noise:
    """Random numbers of one block of one tensor: the same for a seed, whatever thread computes it."""

    def __init__(self, seed: int, tensor: str, block: int) -> None:
        name = int.from_bytes(hashlib.sha256(tensor.encode()).digest()[:8], "little")
        self._bits = np.random.SFC64(np.random.SeedSequence([seed, name, block]))

    def words(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint16, uniform."""
        count = int(np.prod(shape))
        return self._bits.random_raw(-(-count // 4)).view(np.uint16)[:count].reshape(shape)

    def one_to_two(self, shape: tuple[int, ...], work: np.dtype) -> np.ndarray:
        """Uniform on [1, 2): random significands under a fixed exponent."""
        count = int(np.prod(shape))
        if work == np.float32:
            bits = self._bits.random_raw(-(-count // 2)).view(np.uint32)[:count]
            bits >>= np.uint32(9)
            bits |= np.uint32(0x3F800000)
            return bits.view(np.float32).reshape(shape)
        long = self._bits.random_raw(count)
        long >>= np.uint64(12)
        long |= np.uint64(0x3FF0000000000000)
        return long.view(np.float64).reshape(shape)

    def uniform(self, shape: tuple[int, ...], rms: float | np.ndarray, work: np.dtype) -> np.ndarray:
        """Zero mean, the given root mean square (a scalar, or one per row), never 0 where rms > 0."""
        values = self.words(shape).astype(work)
        values -= work.type(32767.5)
        values *= np.asarray(rms, dtype=work) * work.type(np.sqrt(12.0) / 65536)
        return values
