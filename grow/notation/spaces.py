"""What a stored dimension is made of: axes, their products, and products one behind the other, or dealt in shares.

`grow.notation.axes` explains how a table writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_LABEL = re.compile(r"(?P<axis>[a-z_]+)(?:\.(?P<side>[qkv]|raw|turn))?$")


@dataclass(frozen=True)
class Label:
    """One axis inside a stored dimension: `hidden`, `head_dim.q`."""

    axis: str
    side: str = ""

    @property
    def space(self) -> str:
        """The name of its coordinates: an axis map exists per space."""
        return f"{self.axis}.{self.side}" if self.side else self.axis

    @property
    def labels(self) -> tuple[Label, ...]:
        return (self,)

    def size(self, sizes: Mapping[str, int]) -> int:
        return sizes[self.axis]

    def __str__(self) -> str:
        return self.space


@dataclass(frozen=True)
class Fixed:
    """So many coordinates that are no axis and never grow."""

    count: int

    @property
    def labels(self) -> tuple[Label, ...]:
        return ()

    def size(self, sizes: Mapping[str, int]) -> int:
        return self.count

    def __str__(self) -> str:
        return str(self.count)


@dataclass(frozen=True)
class Product:
    """Every combination of its factors, the outer one first."""

    factors: tuple[Space, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(label for factor in self.factors for label in factor.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        total = 1
        for factor in self.factors:
            total *= factor.size(sizes)
        return total

    def __str__(self) -> str:
        return " ".join(f"({f})" if isinstance(f, Concatenation) else str(f) for f in self.factors)


@dataclass(frozen=True)
class Concatenation:
    """Its parts one behind the other."""

    parts: tuple[Space, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(label for part in self.parts for label in part.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        return sum(part.size(sizes) for part in self.parts)

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True)
class Dealt:
    """Its parts in equal shares: the first share of each part, then the second of each, …; `by` is how many."""

    by: Label | Fixed
    parts: tuple[Space, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(label for part in self.parts for label in part.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        return sum(part.size(sizes) for part in self.parts)

    def __str__(self) -> str:
        return f"{self.by}: " + " | ".join(map(str, self.parts))


def dealt(sizes: Sequence[int], shares: int) -> np.ndarray:
    """Where each coordinate of dealt parts of these sizes is when the parts are one behind the other."""
    begins = np.cumsum([0, *sizes])
    parts = [np.arange(begin, begin + size).reshape(shares, -1) for begin, size in zip(begins, sizes)]
    return np.concatenate(parts, axis=1).ravel()


Space = Label | Fixed | Product | Concatenation | Dealt
"""What a stored dimension is made of."""


def parse_space(group: str, text: str) -> Space:
    """The space that a label, the number 1 or a group in parentheses names."""
    words = iter(re.findall(r"[()|]|[^\s()|]+", group))
    first = next(words, "")
    space = _concatenation(words, text) if first == "(" else _atom(first, text)
    if next(words, None) is not None:
        raise ValueError(f"signature {text!r}: {group!r} is one stored dimension, which parentheses hold together")
    if not space.labels and space != Fixed(1):
        raise ValueError(f"signature {text!r}: {group!r} has no axis")
    return space


def _concatenation(words: Iterator[str], text: str) -> Space:
    """What stands between a parenthesis and the one that closes it: products with `|` in between."""
    parts: list[Space] = []
    factors: list[Space] = []
    by: Label | Fixed | None = None
    for word in words:
        if word in ("|", ")"):
            parts.append(product_of(factors, text))
            factors = []
            if word == ")":
                if by is not None:
                    return Dealt(by, tuple(parts))
                return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))
        elif word.endswith(":") and not (by or parts or factors):
            by = _atom(word[:-1], text)
        elif word == "(":
            factors.append(_concatenation(words, text))
            if not isinstance(factors[-1], Concatenation):
                raise ValueError(f"signature {text!r}: parentheses inside parentheses hold parts together, so one `|`")
        elif word == "q_per_kv" and factors and factors[-1] == Label("kv_heads"):
            factors[-1] = Label("heads")
        else:
            factors.append(_atom(word, text))
    raise ValueError(f"signature {text!r}: a parenthesis is not closed")


def product_of(factors: list[Space], text: str) -> Space:
    if not factors:
        raise ValueError(f"signature {text!r}: an empty group")
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def _atom(word: str, text: str) -> Label | Fixed:
    if word.isdecimal() and not word.startswith("0"):
        return Fixed(int(word))
    if word == "q_per_kv":
        raise ValueError(f"signature {text!r}: q_per_kv follows kv_heads")
    match = _LABEL.match(word)
    if match is None:
        raise ValueError(f"signature {text!r}: {word!r} is not a label")
    return Label(match["axis"], match["side"] or "")
