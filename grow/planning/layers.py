"""Where layers are inserted, and which old layer each of them comes from.

    the law    leave out what was inserted, and the old layers are all there, once, in their order

An inserted layer takes its weights from a neighbour (or is drawn at the neighbour's scale) and computes the
identity: by the rule of its block, one factor of each branch is zero, so that all of it trains.

    pre-norm     x + f(norm(x))           what writes the stream is 0, weight and bias    LLaMA-Pro (2401.02415)
    branch norm  x + norm(f(x))           that norm's gain is 0
    post-norm    norm(x + f(x))           K layers are a chain of 2K + 1 LayerNorms, see `chain_scales`
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, cycle, groupby, islice
from operator import index

from grow.errors import BadInput, Refused
from grow.files.header import show
from grow.notation.size_limits import fault, short
from grow.spelling import option

PLACES = ("spread", "top", "after:K", "a list of layers")
FILLS = ("copy", "fresh")
ZEROS = ("output", "norm")


@dataclass(frozen=True)
class Depth:
    """n -> m layers.

    source    (m,) the old layer whose weights, config entries and scales the new layer has
    inserted  (m,) True where it computes the identity; False where it is that old layer
    fill      "copy" the source's weights into inserted layers, or "fresh": draw them at the source's scale
    zero      which factor of an inserted layer is 0: "output", what writes the stream; "norm", gains and biases of
              the norms in front, and all other biases
    """

    n: int
    source: tuple[int, ...]
    inserted: tuple[bool, ...]
    fill: str = "copy"
    zero: str = "output"

    @property
    def m(self) -> int:
        return len(self.source)

    @cached_property
    def is_identity(self) -> bool:
        return self.source == tuple(range(self.n)) and not any(self.inserted)

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Where the old layers are, in the order of the old ones when the law holds."""
        return tuple(j for j, new in enumerate(self.inserted) if not new)

    @cached_property
    def new(self) -> tuple[bool, ...]:
        """(m,) True where the layer is not the first to be its old one."""
        first: dict[int, int] = {}
        for j in self.kept:
            first.setdefault(self.source[j], j)
        return tuple(first.get(i) != j for j, i in enumerate(self.source))

    @cached_property
    def lawful(self) -> bool:
        return tuple(self.source[j] for j in self.kept) == tuple(range(self.n))

    def hidden_index(self, k: int) -> int:
        """Where hidden state k (the input of old layer k; the last is the output) is among the new ones."""
        return self.kept[k] if k < min(self.n, len(self.kept)) else self.m

    def chain(self, layer: int) -> tuple[int, int]:
        """(length, place) of the run of inserted layers that `layer` belongs to or that follows it; place 0 is the
        kept layer in front of the run. (0, 0) where no run is."""
        return self._chains[layer]

    @cached_property
    def _chains(self) -> tuple[tuple[int, int], ...]:
        chains: list[tuple[int, int]] = []
        for _, run in groupby(accumulate(not new for new in self.inserted)):
            size = len(list(run))
            chains += [(size - 1, place) for place in range(size)]
        return tuple(chains)

    def without_first(self) -> Depth:
        """The same, but that what is inserted does not come from the first of several layers."""
        source = tuple(1 if new and i == 0 and self.n > 1 else i for i, new in zip(self.source, self.inserted))
        return replace(self, source=source)

    def describe(self) -> str:
        if self.is_identity:
            return "unchanged"
        new = [j for j, is_new in enumerate(self.inserted) if is_new]
        if not self.lawful:
            return f"layers {', '.join(map(str, self.source))}"
        after = ", ".join(str(j) for j in new[:12]) + (", …" if len(new) > 12 else "")
        filled = "copies of their neighbours" if self.fill == "copy" else "drawn"
        return f"{len(new)} inserted ({filled}, {self.zero} 0) at {after}"


def unchanged(n: int) -> Depth:
    return Depth(n, tuple(range(n)), (False,) * n)


def insert(n: int, after: Sequence[int], fill: str = "copy") -> Depth:
    """One new layer behind each old layer that `after` names, as often as it names it."""
    source: list[int] = []
    inserted: list[bool] = []
    counts = Counter(after)
    for i in range(n):
        count = counts[i]
        source += [i, *_neighbours(n, i, count)]
        inserted += [False] + [True] * count
    return Depth(n, tuple(source), tuple(inserted), fill)


def _neighbours(n: int, i: int, count: int) -> list[int]:
    """The layers next to the gap behind layer i, nearest first: neighbours start from different weights."""
    near = (k for d in range(n) for k in (i - d, i + 1 + d) if 0 <= k < n)
    return list(islice(cycle(islice(near, min(n, count))), count))


def spread(n: int, m: int) -> list[int]:
    """Behind which old layers m - n new ones go: evenly, with the first and the last layer left alone."""
    gaps = list(range(1, n - 1)) or [max(0, n - 2)]
    return [gaps[(2 * k + 1) * len(gaps) // (2 * (m - n))] for k in range(m - n)]


def place(n: int, m: int, where: str | Sequence[int] = "spread", fill: str = "copy") -> Depth:
    """The `Depth` that somebody asked for; BadInput when it cannot be understood."""
    if m < n:
        raise Refused(
            option(layers=m),
            what=f"layers {n} -> {m}",
            why="a layer that is left out takes its function with it",
            fix=f"at least {option(layers=n)}",
        )
    if why := fault("layers", m):
        raise BadInput(option(layers=short(m)), what="out of range", why=why, fix="another depth")
    if where == "spread":
        return insert(n, spread(n, m), fill)
    if where == "top":
        return insert(n, [n - 1] * (m - n), fill)
    after = _after(where, n, m)
    if len(after) != m - n:
        raise BadInput(
            option(place=_shown(where)),
            what=f"names {len(after)} places for {m - n} new layers",
            why="every new layer stands behind one old layer; name one twice for two new layers",
            fix=option(place="spread"),
        )
    if bad := [k for k in after if not 0 <= k < n]:
        raise BadInput(
            option(place=_shown(where)),
            what=f"there is no layer {bad[0]}",
            why=f"the source has layers 0 to {n - 1}",
            fix=option(place=f"after:{n - 1}"),
        )
    return insert(n, after, fill)


def is_place(where: str) -> bool:
    """Whether a text names places, for any number of layers."""
    if where in ("spread", "top"):
        return True
    try:
        _after(where, 0, 0)
    except BadInput:
        return False
    return True


def _after(where: str | Sequence[int], n: int, m: int) -> list[int]:
    try:
        if not isinstance(where, str):
            return [index(k) for k in where]
        if where.startswith("after:"):
            return [int(where.removeprefix("after:"))] * (m - n)
        return [int(k) for k in where.split(",") if k.strip()]
    except (TypeError, ValueError):
        raise BadInput(
            option(place=_shown(where)),
            what="is not a place",
            why="places: " + ", ".join(PLACES),
            fix=", ".join(option(place=known) for known in ("spread", "top", "after:5"))
            + f" or {option(place=[3, 7, 11])}",
        ) from None


def _shown(where: object) -> object:
    """A place for a message, short whatever it is."""
    if isinstance(where, (list, tuple)):
        return list(where) if len(where) <= 20 else [*where[:10], ..., *where[-5:]]
    return show(where, 80) if isinstance(where, str) else where


@dataclass(frozen=True)
class ChainScales:
    """Numbers of a chain of LayerNorms that computes what the first of them did, see `chain_scales`.

    scale  on the input of the first LayerNorm
    gain   of every LayerNorm but the last
    last   times the old gain: the last LayerNorm's
    """

    scale: float
    gain: float
    last: float


@lru_cache
def chain_scales(length: int, eps: float) -> ChainScales:
    """For K = `length` inserted post-norm layers, that is N = 2K + 1 LayerNorms in a row.

    With s = eps / variance in front of a LayerNorm and a = eps / gain², s is a·(1 + s) in front of the next one. So the
    last of N divides by √(1 + a + … + a^(N-1) + a^(N-1)·s₀), and that is √A·√(1 + eps/V), as the one LayerNorm did with
    its input of variance V, when

        A = 1 + a + … + a^(N-1),    s₀ = eps / (scale²·V),    scale² = a^(N-1) / A,    last = √A

    exactly, eps included, for every a. Here a is chosen so that the input and all that follows are of one size, about
    eps^(K / (2K + 1)): the larger, the better a chain bears the first steps of an optimizer. The scale is a power of
    two, which rounds nothing.
    """
    powers = 2 * length
    scale = min(0.5, 2.0 ** round(math.log2(eps) * length / (powers + 1)))  # from 1 on there is no such a

    def total(a: float) -> float:
        return sum(a**k for k in range(powers + 1))

    low, high = 0.0, 1.0
    while high**powers < scale**2 * total(high):
        high *= 2
    for _ in range(200):  # bisection to the last bit
        a = (low + high) / 2
        low, high = (a, high) if a**powers < scale**2 * total(a) else (low, a)
    return ChainScales(scale, math.sqrt(eps / high), math.sqrt(total(high)))
