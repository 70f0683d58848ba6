"""Methods that copy units: Net2Net, HyperCloning, staged training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grow.notation.maps import AxisMap, axis_map
from grow.notation.numbers import Noise
from grow.planning.change import norms_silence
from grow.planning.layers import Depth, insert, spread
from grow.planning.methods.method import Method, Request, WholeMultiples


class Tiled:
    """[x; x; …]: copy k of coordinate i lies at k·n + i. Whole multiples, exact through any norm."""

    name = "copies"

    def allows(self, n: int, m: int, context: str) -> bool:
        return m % n == 0

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        return axis_map(n, np.arange(m) % n, operator=self.name)


class Random:
    """The old coordinates, then copies of drawn ones.

    through a norm, m = c·n   drawn without repeats, so that each has c copies: mean and variance stay
    RMSNorm, any m            drawn freely; c_i copies are written with √(m/(n·c_i)), which keeps the mean square
    between two matrices      drawn freely
    """

    name = "copies"

    def __init__(self, seed: int, axis: str) -> None:
        self.seed, self.axis = seed, axis

    def allows(self, n: int, m: int, context: str) -> bool:
        return m % n == 0 or context in ("rms", "elementwise")

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        if context != "elementwise" and m % n == 0:
            blocks = [np.argsort(draw(self.seed, self.axis, k, n), kind="stable") for k in range(m // n - 1)]
            return axis_map(n, np.concatenate([np.arange(n), *blocks]), operator=self.name)
        more = (draw(self.seed, self.axis, 0, m - n) * n).astype(np.int64)
        source = np.concatenate([np.arange(n), more])
        if context == "elementwise":
            return axis_map(n, source, operator=self.name)
        write = np.sqrt(m / (n * np.bincount(source, minlength=n)[source]))
        return axis_map(n, source, write=write, gain=1 / write, operator=self.name)


def draw(seed: int, axis: str, k: int, count: int) -> np.ndarray:
    """(count,) uniform on [0, 1)."""
    return Noise(seed, f"{axis}: copies", k).one_to_two((count,), np.dtype(np.float64)) - 1


class Net2Net(Method):
    name = "net2net"
    paper = "Chen, Goodfellow, Shlens: Net2Net: Accelerating Learning via Knowledge Transfer"
    arxiv = "1511.05641"
    law = "new units are random copies, readers share each weight evenly; a new layer is the identity"
    split = "even"
    free = True

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": Random(request.seed, "hidden"), "ffn": Random(request.seed, "ffn"), "heads": "copies"}


class HyperCloning(WholeMultiples):
    paper = "Samragh et al.: Scaling Smart: Accelerating LLM Pre-training with Small Model Initialization"
    arxiv = "2409.12903"
    axes = ("width",)

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": Tiled(), "ffn": Tiled(), "heads": "copies"}


class Symmetric(HyperCloning):
    name = "hypercloning-symmetric"
    law = "everything is tiled, readers share each weight evenly: W -> [W W; W W] / 2"
    split = "even"


class Diagonal(HyperCloning):
    name = "hypercloning-diagonal"
    law = "everything is tiled, copy k reads copy k alone: W -> [W 0; 0 W]; readers without copies share evenly"
    split = "diagonal"


class Noisy(HyperCloning):
    name = "hypercloning-noisy"
    law = "everything is tiled, readers share evenly up to noise that cancels: W -> [W/2 + η, W/2 - η; …]"
    split = "noisy"


class Staged(WholeMultiples):
    """Shen et al., section 3 and `tools/growth_operator.py`: width × 2 with copies that read copies, and layers whose
    LayerNorm gains and biases are 0 right behind the ones they copy. Here any whole multiple.

    Exact where the activation maps 0 to 0. The one zero factor of an inserted layer is its norms': in a gated FFN gate
    and up are both 0 then, and no gradient passes a product of two zeros.
    """

    name = "staged"
    paper = "Shen et al.: Staged Training for Transformer Language Models"
    arxiv = "2203.06211"
    law = "width: everything tiled, copy k reads copy k alone; depth: copies whose norm gains and biases are 0"
    split = "diagonal"

    def operators(self, request: Request) -> dict[str, Any]:
        return {"hidden": Tiled(), "ffn": Tiled(), "heads": "copies"}

    def depth(self, request: Request, axis: str) -> Depth:
        n, m = request.old[axis], request.new[axis]
        stay = f"{request.field(axis)}={n}"
        if why := norms_silence(request.source):
            raise self.refuse(f"{axis} {n} -> {m}", why, stay)
        after = [*range(n)] * (m // n - 1)
        after += spread(n, n + m % n) if m % n else []
        base = insert(n, sorted(after))
        source = [k for k, new in zip(base.source, base.inserted) if not new]
        return Depth(n, _nearest_below(base, source), base.inserted, zero="norm")


def _nearest_below(depth: Depth, kept: list[int]) -> tuple[int, ...]:
    """Every inserted layer copies the kept one that it stands behind."""
    place, copied = -1, []
    for new in depth.inserted:
        place += not new
        copied.append(kept[place])
    return tuple(copied)


METHODS: Mapping[str, Method] = {m.name: m for m in (Net2Net(), Symmetric(), Diagonal(), Noisy(), Staged())}
