"""Few cases in which every two values of any two factors meet: what a whole product shows of any two of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any


def pairs_of(cases: Iterable[Sequence[Any]]) -> set[tuple[int, int, Any, Any]]:
    """Every two values that meet in a case, with the places of their factors."""
    return {(i, j, case[i], case[j]) for case in cases for i, j in itertools.combinations(range(len(case)), 2)}


def pairwise(product: Iterable[Sequence[Any]]) -> list[Any]:
    """Cases of `product`, in its order, in which all its pairs occur; the same ones on every run.

    `product` need not be a whole one: pairs that it lacks are not asked for. The next case is always the one with the
    most pairs that did not occur yet, the first of several.
    """
    left = list(product)
    order = {id(case): k for k, case in enumerate(left)}
    missing, chosen = pairs_of(left), []
    while missing:
        best = max(left, key=lambda case: len(pairs_of([case]) & missing))
        chosen.append(best)
        left.remove(best)
        missing -= pairs_of([best])
    return sorted(chosen, key=lambda case: order[id(case)])
