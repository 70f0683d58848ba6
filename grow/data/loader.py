"""Batches of token blocks; a batch depends on the step alone.

The batch of a step is the same for every world size; a rank takes its consecutive part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grow.data.corpus import Tokens
from grow.data.order import CYCLE, Mixture, Order
from grow.errors import BadInput
from grow.spelling import option


@dataclass(frozen=True)
class Batch:
    """ids (rows, length + 1) int64; segments of the same shape where documents are kept apart, else None."""

    ids: np.ndarray
    segments: np.ndarray | None = None


class Loader:
    """Blocks of `length` tokens of one or several corpora, shuffled anew in every epoch of each.

    weights    the share of each corpus; None: in proportion to their blocks
    batch      blocks of a step, over all ranks
    documents  say for every token which document it belongs to
    skip       rows of the order that come before the first row of step 0
    """

    def __init__(
        self,
        corpora: Sequence[Tokens],
        *,
        length: int,
        batch: int,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        documents: bool = False,
        skip: int = 0,
    ) -> None:
        self.skip = skip
        self.corpora, self.length, self.batch_size, self.documents = tuple(corpora), length, batch, documents
        self.blocks = tuple(tokens.blocks(length) for tokens in corpora)
        for tokens, count in zip(corpora, self.blocks):
            if count < 1:
                raise BadInput(
                    tokens.name,
                    what=f"has {len(tokens.ids):,} tokens, one block takes {length + 1:,}",
                    why="a block is never padded",
                    fix=f"more text, or at most {option(length=max(1, len(tokens.ids) - 1))}",
                )
        if weights is not None and len(weights) != len(corpora):
            raise BadInput(
                f"weights {list(weights)}",
                what=f"{len(weights)} weights for {len(corpora)} corpora",
                why="each corpus has one share",
                fix="give one weight for each",
            )
        shares = weights if weights is not None else self.blocks
        try:
            self._mixture = Mixture(shares, seed)
        except ValueError as error:
            fix = option(data=["A:0.7", "B:0.3"])
            raise BadInput(option("data"), what=str(error), why="weights are shares of a whole", fix=fix) from None
        for tokens, share, quota in zip(corpora, shares, self._mixture.quota):
            if share > 0 and not quota:
                raise BadInput(
                    tokens.name,
                    what=f"would never be read: its share is {share / sum(shares):.2g} of the whole",
                    why=f"every {CYCLE} samples keep the shares, and none of them is its own",
                    fix=f"a larger share, as in {option(data=['A:0.99', 'B:0.01'])}, or leave it out",
                )
        self._orders = tuple(Order(seed, count, f"corpus {k}") for k, count in enumerate(self.blocks))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.length

    def places(self, step: int, rank: int = 0, world: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(corpus, block) of each row of this rank's part of a step."""
        if self.batch_size % world:
            raise BadInput(
                option(batch=self.batch_size),
                what=f"cannot be shared by {world} processes",
                why="every process computes the same number of rows",
                fix=option(batch=-(-self.batch_size // world) * world),
            )
        share = self.batch_size // world
        first = self.skip + step * self.batch_size + rank * share
        corpora, at = self._mixture(np.arange(first, first + share))
        blocks = np.empty_like(at)
        for k, order in enumerate(self._orders):
            blocks[corpora == k] = order(at[corpora == k])
        return corpora, blocks

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's rows of a step."""
        rows = list(zip(*self.places(step, rank, world)))
        ids = np.stack([self.corpora[c].block(int(b), self.length) for c, b in rows])
        if not self.documents:
            return Batch(ids)
        return Batch(ids, np.stack([self.corpora[c].segments(int(b), self.length) for c, b in rows]))
