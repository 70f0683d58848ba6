"""Which layers of a deeper model have experts, in the fields of its config.

Some configs list such layers; others say only where they begin and end, and how many layers lie between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grow.architectures.architecture import Architecture
from grow.architectures.facts import SparseLayers
from grow.errors import Refused
from grow.planning.layers import Depth
from grow.spelling import option


def in_order(source: Architecture, depth: Depth) -> Depth:
    """New layers with or without experts as the old layer that they stand behind, where no config could list them."""
    where = source.family.experts.layers if source.family.experts else None
    if where is None or where.only or where.listed or not depth.lawful:
        return depth
    sources, behind = list(depth.source), 0
    for j, inserted in enumerate(depth.inserted):
        behind = behind if inserted else depth.source[j]
        if source.sparse(sources[j]) != source.sparse(behind):
            sources[j] = behind
    return replace(depth, source=tuple(sources))


def sparse_config(source: Architecture, depth: Depth) -> dict[str, Any]:
    """The fields that change, so that every new layer has experts where the old one has that it comes from; Refused
    where no values of the fields say so."""
    where = source.family.experts.layers if source.family.experts else None
    if where is None:
        return {}
    wanted = [source.sparse(i) for i in depth.source]
    if where.only:
        dense = [j for j, sparse in enumerate(wanted) if not sparse]
        return {where.only: dense, where.step: 1} if dense or source.get(where.step) != 1 else {}
    if where.listed and source.get(where.listed) is not None:
        return {}  # a list has an entry for each layer, as those of kinds of attention have
    for changes in _tried(source, where, wanted):
        after = source.with_config({**source.config, **changes})
        if [after.sparse(j) for j in range(depth.m)] == wanted:
            return {name: value for name, value in changes.items() if value != source.get(name)}
    if where.listed:
        return {where.listed: ["sparse" if sparse else "dense" for sparse in wanted]}
    field = source.family.axes[source.family.depths[0]]
    raise Refused(
        option(to={field: depth.m}),
        what=f"layers {depth.n} -> {depth.m}: those with experts no longer take turns as config.json can say",
        why=f"it says which have some by {' and '.join(where.fields)} alone",
        fix=f"leave {field} at {depth.n}",
    )


def _tried(source: Architecture, where: SparseLayers, wanted: Sequence[bool]) -> Iterator[dict[str, Any]]:
    """Values that the fields might have, the old ones first."""
    sparse = [j for j, has in enumerate(wanted) if has] or [len(wanted)]
    for step in (source.get(where.step), 1) if where.step else (None,):
        for first in dict.fromkeys((source.get(where.first), sparse[0])) if where.first else (None,):
            for last in dict.fromkeys((source.get(where.last), sparse[-1])) if where.last else (None,):
                values = {where.step: step, where.first: first, where.last: last}
                yield {name: value for name, value in values.items() if name}
