"""Which block comes at which place of a run: a pure function of the seed.

    Order(seed, count)(i)      a permutation of the blocks per epoch, another one in every epoch
    Mixture(weights, seed)(i)  which corpus sample i comes from, and how many samples came from it before

Both are computed for any place at once, in constant memory: a run resumes in the middle of an epoch, at another world
size, by knowing how many samples have been seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

ROUNDS = 6  # of the Feistel network: 4 are a strong pseudorandom permutation (Luby and Rackoff, 1988)
CYCLE = 4096  # samples after which the shares of a mixture are exact to 1 / CYCLE


class Order:
    """A seeded permutation of range(count) per epoch: a Feistel network on the next power of four, walking the cycle
    back into the range (Black and Rogaway, 2002). Place i of the run is place i % count of epoch i // count."""

    def __init__(self, seed: int, count: int, name: str = "") -> None:
        if count < 1:
            raise ValueError(f"nothing to order: {count} blocks")
        self.count = count
        self._half = max(1, (int(count - 1).bit_length() + 1) // 2)
        self._key = f"{seed}:{name}"

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """(k,) places of the run -> (k,) blocks."""
        places = np.asarray(places, dtype=np.uint64)
        epochs, blocks = places // np.uint64(self.count), places % np.uint64(self.count)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            blocks[inside] = self._epoch(int(epoch), blocks[inside])
        return blocks.astype(np.int64)

    def _epoch(self, epoch: int, values: np.ndarray) -> np.ndarray:
        keys = np.frombuffer(hashlib.blake2b(f"{self._key}:{epoch}".encode(), digest_size=8 * ROUNDS).digest(), "<u8")
        values = self._encrypt(values, keys)
        while (outside := values >= self.count).any():
            values[outside] = self._encrypt(values[outside], keys)
        return values

    def _encrypt(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        shift, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> shift, values & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << shift) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Mixture:
    """Sample i -> (corpus, how many samples before i came from it). In every CYCLE samples each corpus has its share,
    rounded by largest remainder; inside a cycle they are drawn in an order of the seed."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        shares = np.asarray(weights, dtype=np.float64)
        if not len(shares) or not np.isfinite(shares).all() or (shares < 0).any() or shares.max() <= 0:
            raise ValueError(f"weights must be numbers, 0 or more, one of them above 0, got {list(weights)}")
        shares = shares / shares.max()  # their sum may be infinite
        exact = CYCLE * shares / shares.sum()
        self.quota = np.floor(exact).astype(np.int64)
        short = CYCLE - int(self.quota.sum())
        self.quota[np.argsort(-(exact - self.quota), kind="stable")[:short]] += 1
        turns = np.repeat(np.arange(len(shares)), self.quota)
        self._turns = turns[Order(seed, CYCLE, "mixture")(np.arange(CYCLE))]
        ones = self._turns[:, None] == np.arange(len(shares))
        self._before = (np.cumsum(ones, axis=0) - ones)[np.arange(CYCLE), self._turns]

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k,) samples of the run -> (k,) corpora, (k,) places in the run of each corpus."""
        cycles, at = np.divmod(np.asarray(places, dtype=np.int64), CYCLE)
        corpora = self._turns[at]
        return corpora, cycles * self.quota[corpora] + self._before[at]
