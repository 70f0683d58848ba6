"""Sizes that follow from others, as `hidden / heads` or `4 hidden`, or are one number, and under which condition."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SizeLaw:
    """number · Π factors ÷ Π divisors, where `when` holds."""

    number: int
    factors: tuple[str, ...]
    divisors: tuple[str, ...]
    when: str

    @property
    def repeats(self) -> bool:
        """Whether it is the size of another axis."""
        return (self.number, len(self.factors), self.divisors) == (1, 1, ())

    @property
    def always(self) -> bool:
        """Whether no model can have another size."""
        return self.when == "always" and not self.repeats

    def value(self, sizes: Mapping[str, int]) -> int | None:
        """The size that follows, None where it is no whole number."""
        whole, rest = divmod(self._product(sizes), math.prod(sizes[axis] for axis in self.divisors))
        return None if rest else whole

    def solved(self, size: int, sizes: Mapping[str, int]) -> tuple[str, int | None]:
        """The first factor, and what it must be for `size` to follow; "" where it is one number."""
        if not self.factors:
            return "", None
        first, others = self.factors[0], {**sizes, self.factors[0]: 1}
        whole, rest = divmod(size * math.prod(sizes[axis] for axis in self.divisors), self._product(others))
        return first, None if rest else whole

    def unequal(self, axis: str, size: int, sizes: Mapping[str, int]) -> str:
        """`3 heads × 16 != hidden 24`"""
        left = [*(f"{sizes[a]} {a}" for a in self.divisors), str(size) if self.divisors else f"{axis} {size}"]
        right = [*self._leading, *(f"{a} {sizes[a]}" for a in self.factors)]
        return f"{' × '.join(left)} != {' × '.join(right)}"

    def uneven(self, sizes: Mapping[str, int]) -> str:
        """`5 heads do not divide hidden 24`"""
        return f"{_listed(self.divisors, sizes)} do not divide {' × '.join(f'{a} {sizes[a]}' for a in self.factors)}"

    def _product(self, sizes: Mapping[str, int]) -> int:
        return self.number * math.prod(sizes[axis] for axis in self.factors)

    @property
    def _leading(self) -> list[str]:
        """The number, where it is not 1 or stands alone."""
        return [str(self.number)] if self.number != 1 or not self.factors else []

    def __str__(self) -> str:
        over = "".join(f" / {axis}" for axis in self.divisors)
        return " ".join([*self._leading, *self.factors]) + over


def parse_size_laws(text: str) -> tuple[SizeLaw, ...]:
    """`1 ? CONDITION; heads ? CONDITION`, at most one of which holds."""
    return tuple(map(parse_size_law, text.split(";")))


def parse_size_law(text: str) -> SizeLaw:
    """`hidden / heads ? CONDITION`; ValueError, quoting it, for anything else."""
    law, _, when = text.partition("?")
    over = law.split("/")
    words = over[0].split()
    number = int(words.pop(0)) if words and words[0].isdecimal() else 0
    axes = [*words, *(axis.strip() for axis in over[1:])]
    if not all(re.fullmatch("[a-z_]+", axis) for axis in axes) or not (words or (number and not axes)):
        raise ValueError(f"size {text!r} is no product of axes like `4 hidden` or `hidden / heads`")
    return SizeLaw(number or 1, tuple(words), tuple(axes[len(words) :]), " ".join(when.split()) or "always")


def _listed(axes: Iterable[str], sizes: Mapping[str, int]) -> str:
    return " × ".join(f"{sizes[axis]} {axis}" for axis in axes)
