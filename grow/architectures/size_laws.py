"""Sizes that follow from others, as `hidden / heads` or `4 hidden`, or are one number, and under which condition.

A factor is an axis or a config field: `expand hidden`. In `⌈hidden / 16⌉` the size is rounded up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class SizeLaw:
    """number · Π factors ÷ Π divisors, where `when` holds.

    over  a number that it is divided by as well, and rounded up; 0 where there is none
    """

    number: int
    factors: tuple[str, ...]
    divisors: tuple[str, ...]
    when: str
    over: int = 0

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
        if self.over:
            return -(-self._product(sizes) // self.over)
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

    def fields(self, axes: Collection[str]) -> tuple[str, ...]:
        """Those of its factors that are config fields."""
        return tuple(word for word in self.factors if word not in axes)

    def read_with(self, axes: Collection[str], get: Callable[[str], Any]) -> SizeLaw:
        """The same law of axes alone: what config fields say is in its number, 0 where that is no number."""
        said = [get(name) for name in self.fields(axes)]
        number = math.prod(value if type(value) is int and value > 0 else 0 for value in said)
        return replace(self, number=self.number * number, factors=tuple(word for word in self.factors if word in axes))

    def _product(self, sizes: Mapping[str, int]) -> int:
        return self.number * math.prod(sizes[axis] for axis in self.factors)

    @property
    def _leading(self) -> list[str]:
        """The number, where it is not 1 or stands alone."""
        return [str(self.number)] if self.number != 1 or not self.factors else []

    def __str__(self) -> str:
        over = "".join(f" / {axis}" for axis in self.divisors)
        text = " ".join([*self._leading, *self.factors]) + over
        return f"⌈{text} / {self.over}⌉" if self.over else text


def parse_size_laws(text: str) -> tuple[SizeLaw, ...]:
    """`1 ? CONDITION; heads ? CONDITION`, at most one of which holds."""
    return tuple(map(parse_size_law, text.split(";")))


def parse_size_law(text: str) -> SizeLaw:
    """`hidden / heads ? CONDITION`; ValueError, quoting it, for anything else."""
    law, _, when = text.partition("?")
    up = re.fullmatch(r"\s*⌈(?P<law>.+) / (?P<over>[1-9]\d*)⌉\s*", law)
    over = (up["law"] if up else law).split("/")
    words = over[0].split()
    number = int(words.pop(0)) if words and words[0].isdecimal() else 0
    axes = [*words, *(axis.strip() for axis in over[1:])]
    if not all(re.fullmatch("[a-z_]+", axis) for axis in axes) or not (words or (number and not axes)):
        raise ValueError(f"size {text!r} is no product of axes like `4 hidden` or `hidden / heads`")
    when = " ".join(when.split()) or "always"
    return SizeLaw(number or 1, tuple(words), tuple(axes[len(words) :]), when, int(up["over"]) if up else 0)


def _listed(axes: Iterable[str], sizes: Mapping[str, int]) -> str:
    return " × ".join(f"{sizes[axis]} {axis}" for axis in axes)
