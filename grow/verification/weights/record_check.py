"""What grow.json says, compared with what family and sizes make of a growth.

The certificate proves that stored weights follow the axis maps. That they then compute the same takes maps that commute
with what stands between the weights: those are recomputed here, or held against the law that they must obey. Nothing
that stock code acts on is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.errors import GrowError
from grow.notation.maps import BLEND, SILENT, AxisMap, identity
from grow.notation.operators import HeadMaps, commutes
from grow.planning.change import Change, check_depth, norms_silence
from grow.planning.choose_maps import LOW, grow_experts, low_logit, position_map, scored_maps
from grow.planning.parsed_record import axis_of
from grow.planning.record import config_sha256
from grow.verification.rungs import EXACT
from grow.verification.weights.config_fields import BOOKKEEPING, differing

Sizes = Mapping[str, int]
MOST = 10  # fields of which it is asked whether a source's config had them


def map_faults(source: Architecture, change: Change, new: Sizes) -> Iterator[str]:
    """Where the maps, the layers or the new tokens of grow.json are none that leave the function as it is."""
    for space, axis_map in change.maps.items():
        # shares and square roots are rounded a few times each; a wrong factor is off by far more
        off = float(np.abs(axis_map.law() - 1).max(initial=0.0))
        if not off <= EXACT:
            yield f"grow.json: the law fails on {space} by {off:.3g}"
        if axis_map.m != new[axis_of(space)] and space not in source.family.mirrors:
            yield f"grow.json: the map of {space} does not reach the size {dict(new)}"
    for space, context in source.contexts.items():
        if space in change.maps and (why := commutes(change.maps[space], context)):
            yield f"grow.json: the map of {space} does not commute with what sits on it: {why}"
    yield from _heads(source.family, change.maps)
    yield from _recomputed(source, change, new)
    yield from _layers(source, change)


def _heads(family: Family, maps: Mapping[str, AxisMap]) -> Iterator[str]:
    """Every old query head reads a copy of its own kv head."""
    if not family.attends:
        return
    q, kv = maps["heads"], maps["kv_heads"]
    if q.n % kv.n or q.m % kv.m or not q.m or (q.is_identity and kv.is_identity):
        return
    group, new_group = q.n // kv.n, q.m // kv.m
    kept = np.flatnonzero(q.source >= 0)
    strays = kept[kv.source[kept // new_group] != q.source[kept] // group]
    if len(strays):
        yield f"grow.json: the map of heads puts head {strays[0]} into a group without the kv head that it reads"
    if family.attention.whole_norm and not HeadMaps(q, kv).even:
        yield "grow.json: the map of heads is not one of whole copies: a norm over all heads sees another mean square"


def _recomputed(source: Architecture, change: Change, new: Sizes) -> Iterator[str]:
    """Maps that follow from the sizes, by their name."""
    try:
        wanted = scored_maps(source, new)[0]
        wanted |= grow_experts(source, new, {}, upcycled=change.upcycling is not None)
        if "positions" in source.sizes:
            wanted["positions"] = position_map(source, new["positions"])
    except GrowError as error:
        yield f"grow.json: no such growth: {error.where}: {error.what}"
        return
    for space, axis_map in wanted.items():
        if not _same(change.maps.get(space) or identity(axis_map.n), axis_map):
            yield f"grow.json: the map of {space} is not the one {axis_map.n} -> {axis_map.m} of this family"
    if (vocab := change.maps.get("vocab")) is None:
        return
    kinds = set(vocab.source[vocab.n :].tolist())
    appended = np.array_equal(vocab.source[: vocab.n], np.arange(vocab.n)) and kinds in (set(), {SILENT}, {BLEND})
    if not appended or not ((vocab.write == 1).all() and (vocab.gain == 1).all()):
        yield "grow.json: the map of vocab does not append tokens to the old ones"
    if change.low is not None:
        try:
            known = vocab.m > vocab.n and change.low == LOW == low_logit(source, "low")
        except GrowError:
            known = False
        if not known:
            yield f"grow.json: low: found {change.low:g}, which is not a logit that new tokens get here"


def _layers(source: Architecture, change: Change) -> Iterator[str]:
    depth = change.depth
    if not depth.lawful:
        yield f"grow.json: the layers {list(depth.source)} are not the old ones in their order"
    if not any(depth.inserted):
        return
    try:
        check_depth(source, depth)
    except GrowError as error:
        yield f"grow.json: no such growth: {error.what}: {error.why}"
    if depth.zero == "norm" and (why := norms_silence(source)):
        yield f"grow.json: layers that zero norms silence do not compute the identity here: {why}"


def _same(a: AxisMap, b: AxisMap) -> bool:
    """Equal in every coordinate; factors to a few roundings of a square root."""
    if a.m != b.m or a.n != b.n or not np.array_equal(a.source, b.source):
        return False
    return all(np.allclose(getattr(a, x), getattr(b, x), rtol=EXACT, atol=0) for x in ("write", "read", "gain"))


def known_source(config: Mapping[str, Any], grown: Mapping[str, Any], changed: Collection[str], digest: str) -> bool:
    """Whether a source's config has the sha256 that was recorded of it, or says to stock code what that one said.

    The grown config was the source's but for the fields that were `changed`, so what had the sha256 can be made of it.
    """
    if config_sha256(config) == digest:
        return True
    kept = {name: value for name, value in config.items() if name not in BOOKKEEPING}
    bookkeeping = {name: value for name, value in grown.items() if name in BOOKKEEPING}
    if config_sha256({**kept, **bookkeeping}) == digest:
        return True
    base = {name: value for name, value in grown.items() if name not in changed}
    there = sorted(name for name in changed if name in config)[:MOST]
    for some in product((True, False), repeat=len(there)):  # a field may have been spelled out since
        before = {**base, **{name: config[name] for name, kept in zip(there, some) if kept}}
        if config_sha256(before) == digest:
            return not differing(before, config)
    return False
