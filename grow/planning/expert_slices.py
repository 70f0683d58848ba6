"""The slices that experts read of a dense tensor."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from grow.notation.origins import Read, SourcePart
from grow.planning.tensor import TensorPlan

Corner = tuple[int, int]


def uncovered(tensors: Iterable[TensorPlan], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """A sentence for every source tensor that is read in parts which do not tile it equally often.

    One equation per tensor says what a part became; that no part is missing or there twice, only all of them say.
    """
    read: dict[tuple[str, str], Counter[tuple[Corner, Corner]]] = defaultdict(Counter)
    wide: dict[str, int | None] = {}
    for whole in tensors:
        for _, t in whole.parts:
            if isinstance(t.origin, Read) and len(t.shape) == 2:
                (top, left), (rows, columns) = t.old.corner, t.old.matrix
                wide[t.old.tensor] = t.old.columns
                read[_without_expert(whole.canonical), t.old.tensor][(top, top + rows), (left, left + columns)] += 1
    for (_, source), parts in read.items():
        shape = shapes[source]
        matrix = SourcePart(source, "", shape, columns=wide[source]).matrix
        down, across = (_steps([part[d] for part in parts]) for d in (0, 1))
        tiles = {(row, column) for row in down for column in across}
        ends = (down[-1][1], across[-1][1]) if down and across else (0, 0)
        if ends != matrix or set(parts) != tiles or len(set(parts.values())) != 1:
            yield f"grow.json: the slices of {source} do not cover {list(shape)} once per copy"


def _steps(spans: Iterable[Corner]) -> list[Corner]:
    """The spans in order when they follow each other from 0 on, else none."""
    ordered = sorted(set(spans))
    ends = [0, *(stop for _, stop in ordered)]
    return ordered if all(start == end for (start, _), end in zip(ordered, ends)) else []


def _without_expert(name: str) -> str:
    """A name with its layer and without the index of its expert."""
    return re.sub(r"(\.\d+\..*?)\.\d+\.", r"\1.", name, count=1)
