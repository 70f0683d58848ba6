"""bert2BERT (Chen et al.): FPI and AKI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from grow.notation.maps import AxisMap, axis_map
from grow.planning.layers import Depth
from grow.planning.methods.copies import Random, draw
from grow.planning.methods.method import Design, Method, Request


class Anyhow(Random):
    """As `Random`, but through a norm at sizes that are not a whole multiple too, with write 1 and gain 1."""

    def allows(self, n: int, m: int, context: str) -> bool:
        return True

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        if context == "elementwise" or m % n == 0:
            return super().__call__(n, m, context)
        more = (draw(self.seed, self.axis, 0, m - n) * n).astype(np.int64)
        return axis_map(n, np.concatenate([np.arange(n), more]), operator=self.name)


class FPI(Method):
    """Function-preserving initialisation. Where hidden is a whole multiple each coordinate is drawn equally often,
    which makes it exact; the paper draws freely.
    """

    name = "bert2bert-fpi"
    paper = "Chen et al.: bert2BERT: Towards Reusable Pretrained Language Models"
    arxiv = "2110.07143"
    law = "new units are random copies, readers share evenly, norms are copied as they are; layers: the stack again"
    kind = "exact or lossy"
    split = "even"

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": Anyhow(request.seed, "hidden"), "ffn": Anyhow(request.seed, "ffn"), "heads": "copies"}

    def depth(self, request: Request, axis: str) -> Depth:
        """The stack as often as it fits whole, then its top layers."""
        n, m = request.old[axis], request.new[axis]
        order = [*range(n)] * (m // n) + [*range(n - m % n, n)]
        return Depth(n, tuple(order), (False,) * m)

    def loss(self, request: Request, maps: Mapping[str, AxisMap], depths: Mapping[str, Depth]) -> str:
        reasons = []
        n, m = request.old["hidden"], request.new["hidden"]
        if m % n:
            reasons.append(f"hidden {n} -> {m}: some coordinates have more copies than others, so norms see other sums")
        if not all(depth.is_identity for depth in depths.values()):
            reasons.append("layers run more than once, and x + f(x) + f(x + f(x)) is not x + f(x)")
        return "; ".join(reasons)


class AKI(FPI):
    """Advanced knowledge initialisation, algorithm 1: what a layer's further copies write comes from the layer above;
    the last layer, with none above it, and the embeddings are as in FPI.
    """

    name = "bert2bert-aki"
    law = "as bert2bert-fpi, but what a further copy of a unit writes is the next layer's row"
    kind = "lossy"

    def design(self, request: Request) -> Design:
        if "experts" in request.old:
            raise self.refuse("is for dense models", "experts of two layers have no order in common", "bert2bert-fpi")
        return replace(super().design(request), above=True)

    def loss(self, request: Request, maps: Mapping[str, AxisMap], depths: Mapping[str, Depth]) -> str:
        reasons = [super().loss(request, maps, depths)]
        if any(not m.is_identity and m.counts.max() > 1 for m in maps.values()):
            reasons.insert(0, "further copies compute what the next layer computes")
        return "; ".join(filter(None, reasons))


METHODS: Mapping[str, Method] = {m.name: m for m in (FPI(), AKI())}
