"""Methods that append new coordinates: ours, LEMON, Gesmundo & Maile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from grow.notation.maps import MEAN, SILENT, AxisMap, axis_map
from grow.notation.operators import OPERATORS
from grow.planning.choose_maps import choose_maps
from grow.planning.methods.method import Design, Method, Request


class Default(Method):
    name = "default"
    paper = "grow"
    arxiv = ""
    law = "hidden: copies with drawn shares, else silent or mean coordinates; ffn, heads: unread; layers: output 0"
    free = True

    def design(self, request: Request) -> Design:
        maps, words = choose_maps(request.source, request.new, dict(request.operators or {}))
        return Design(maps, words, self.depths(request), self.split)


class Padded:
    """⌊m/n⌋ copies of every coordinate, and what is left over is padding; s = √(m / (n·⌊m/n⌋)).

    rms        0: silent coordinates        layernorm   s · mean of the old: mean coordinates
    plain      whole multiples only         elementwise cyclic copies, some one more than others
    The stream is written × s and gains are ÷ s, so eps stays as it is; LEMON scales gain and eps instead.
    """

    name = "padded copies"

    def allows(self, n: int, m: int, context: str) -> bool:
        return m % n == 0 or context != "plain"

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        if context == "elementwise" or m % n == 0:
            return axis_map(n, np.arange(m) % n, operator="copies")
        c, kind = m // n, {"rms": SILENT, "layernorm": MEAN}[context]
        source = np.concatenate([np.tile(np.arange(n), c), np.full(m % n, kind)])
        s = math.sqrt(m / (n * c))
        return axis_map(n, source, write=s, gain=1 / s, operator="mean" if kind == MEAN else "silent")


class Lemon(Method):
    """Drawn shares that sum bit for bit stand for LEMON's α + β = 1, α ≠ β."""

    name = "lemon"
    paper = "Wang et al.: LEMON: Lossless model expansion"
    arxiv = "2310.07999"
    law = "copies with uneven shares; what is not a whole copy is padded with the mean (LayerNorm) or 0 (RMSNorm)"
    free = True

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": Padded(), "ffn": Padded(), "heads": "copies"}

    def design(self, request: Request) -> Design:
        made = super().design(request)
        n, m = request.old["hidden"], request.new["hidden"]
        if m // n > 1 and m % n:
            words = f"copies × {m // n}, {m % n} {made.maps['hidden'].operator}, stream × √({m}/{m // n * n})"
            made.words["hidden"] = words
        return made


class GesmundoMaile(Method):
    name = "gesmundo-maile"
    paper = "Gesmundo, Maile: Composable Function-preserving Expansions for Transformer Architectures"
    arxiv = "2308.06103"
    law = "one side of everything new is 0: hidden silent (RMSNorm), ffn and heads unread, layers without output"
    free = True

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": _OnlySilent(), "ffn": OPERATORS["unread"], "heads": "unread"}


class _OnlySilent:
    """Zeros move a LayerNorm's mean and variance, so RMSNorm only."""

    name = "silent"

    def allows(self, n: int, m: int, context: str) -> bool:
        return context == "rms"

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        return OPERATORS["silent"](n, m, context)


METHODS: Mapping[str, Method] = {m.name: m for m in (Default(), Lemon(), GesmundoMaile())}
