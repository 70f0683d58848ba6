"""The choice of a map for every space, or the refusal.

Here, and only here, an axis is refused because nothing exact is known for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.notation import rope
from grow.notation.axes import SIDES
from grow.notation.maps import BLEND, SILENT, AxisMap, appended, axis_map, identity
from grow.notation.operators import OPERATORS, default_operator, grow_head_dim, grow_heads
from grow.planning.nearest_sizes import head_places, nearest
from grow.spelling import option


def choose_maps(
    source: Architecture, new: Mapping[str, int], chosen: Mapping[str, Any]
) -> tuple[dict[str, AxisMap], dict[str, str]]:
    """(space -> map, axis -> how it grows in words).

    chosen  axis -> the name of an operator, or for hidden and ffn an operator itself, whose caller knows that it fits
    """
    old = source.sizes
    words = dict.fromkeys((a for a in source.family.widths if a in old), "unchanged")
    maps: dict[str, AxisMap] = {}
    for axis in ("hidden", *source.family.units):
        context = source.contexts[axis]
        maps[axis] = identity(old[axis])
        if new[axis] != old[axis]:
            operator = chosen.get(axis) or default_operator(old[axis], new[axis], context)
            if operator is None:
                raise _no_multiple(source, new)
            if isinstance(operator, str):
                _check_operator(source, axis, old[axis], new[axis], context, operator)
                operator = OPERATORS[operator]
            maps[axis] = operator(old[axis], new[axis], context)
            words[axis] = _describe(maps[axis])
    if source.family.attends:
        maps["heads"], maps["kv_heads"] = _head_maps(source, new, chosen, words)
    scored, _, how = scored_maps(source, new)
    maps |= scored
    words |= {axis: how[axis] for axis in how if new[axis] != old[axis]}
    for space, grown_map in maps.items():
        law = grown_map.law()
        if not np.allclose(law, 1, rtol=0, atol=1e-12):  # a few roundings of √ and of shares that sum to 1
            raise AssertionError(f"{space}: the law gives {law}")
    return maps, words


def scored_maps(
    source: Architecture, new: Mapping[str, int]
) -> tuple[dict[str, AxisMap], dict[str, Any], dict[str, str]]:
    """(space -> map, config fields that change, axis -> how in words) of the axes that a dot product sums over: what
    their sides become follows from the sizes alone."""
    maps: dict[str, AxisMap] = {}
    changes: dict[str, Any] = {}
    words: dict[str, str] = {}
    if source.family.attends:
        maps, changes, words["head_dim"] = _head_dim_maps(source, new["head_dim"])
    for axis in source.family.scored:
        n, m = source.sizes[axis], new[axis]
        sides = grow_head_dim(n, m, np.arange(n), scale=1.0, qk_norm=False)
        maps |= {f"{axis}.{side}": side_map for side, side_map in zip(SIDES, sides)}
        words[axis] = "appended; k's new rows 0"
    return maps, changes, words


def _head_dim_maps(source: Architecture, d2: int) -> tuple[dict[str, AxisMap], dict[str, Any], str]:
    attention, d = source.family.attention, source.sizes["head_dim"]
    place, changes, how = np.arange(d), {}, "appended"
    if d2 != d and attention.rotated:
        how = f"{source.get(attention.rotated)} rotated coordinates kept, new ones pass through"
    elif d2 != d and source.rope:
        grown = rope.grow_rope(source.ropes, d, d2, source.rope)
        place, changes, how = grown.place, source.rope_changes(grown.config), grown.how
    scale = math.sqrt(d2 / d) if source.scaled else 1.0
    turned = {"mates": lambda size: rope.pair_by_pair(size, attention.rope or "")} if attention.turned_norm else {}
    sides = grow_head_dim(d, d2, place, scale=scale, qk_norm=source.qk_norm, **turned)
    norm = "; q and k copied, k's new gains 0" if source.qk_norm else "; k's new rows 0"
    how += norm + (f", q × √({d2}/{d})" if source.scaled else "")
    return dict(zip(("head_dim.q", "head_dim.k", "head_dim.v"), sides)), changes, how


LOW = -1e4  # far below any logit, and float16 can hold it
NEW_TOKENS = ("blend", "zero", "low")


def grow_counts(source: Architecture, new: Mapping[str, int], tokens: str, words: dict[str, str]) -> dict[str, AxisMap]:
    """Maps of the tables that are looked up: rows are appended, the old ones stay as they are.

    vocab      a new token's row is a drawn convex combination of the old ones, so its logit lies between the smallest
               and the largest old one and is never the first choice; or 0
    positions  new rows repeat the old ones, as far as they are positions
    """
    old = source.sizes
    maps: dict[str, AxisMap] = {}
    if "vocab" in old:
        v, v2 = old["vocab"], new["vocab"]
        kind = SILENT if tokens == "zero" else BLEND
        maps["vocab"] = appended(v, v2, kind, tokens)
        if v2 > v:
            words["vocab"] = (
                f"{v2 - v} appended, "
                + {
                    "blend": "logits between the old ones",
                    "zero": "logit 0",
                    "low": f"logits about {LOW:g} by the head's bias",
                }[tokens]
            )
    if "positions" in old:
        p, p2 = old["positions"], new["positions"]
        maps["positions"] = position_map(source, p2)
        if p2 > p:
            tabled = f"{p2 - p} appended, repeating the old ones"
            words["positions"] = tabled if source.family.counts_positions else "no weight has them"
    return maps


def position_map(source: Architecture, p2: int) -> AxisMap:
    """The old positions, then the old ones again; Refused where stock code scales the rotation by their number."""
    p = source.sizes["positions"]
    if p2 == p:
        return identity(p)
    if not source.family.counts_positions:  # millions of them cost nothing
        for config in source.ropes.values() if source.rope else ():
            rope.check_positions(config, p, p2)
        return appended(p, p2, SILENT, "no weight")
    first = source.first_position
    extra = np.arange(p2 - p) % max(1, p - first) + min(first, p - 1)
    return axis_map(p, np.concatenate([np.arange(p), extra]), operator="repeated")


def grow_experts(
    source: Architecture, new: Mapping[str, int], words: dict[str, str], *, upcycled: bool = False
) -> dict[str, AxisMap]:
    """The map of the experts: c copies of each, copy k of expert i at k·n + i.

    The copies have one router row, so a token that chose an expert chooses all of its copies once top_k is c times as
    large: each then has 1/c of the weight, and their down projections have the old one as their mean.
    """
    if "experts" not in source.sizes:
        return {}
    n, m, field = source.sizes["experts"], new["experts"], source.family.axes["experts"]
    if m % n:
        fields = f"{field}=" + " or ".join(str(k * n) for k in (m // n, m // n + 1) if k)
        raise Refused(
            option(to={field: m}),
            what=f"experts {n} -> {m}, which is not a whole multiple",
            details=(("equation", "c copies each get the weight p/c, so with top_k × c: Σ p/c · W_copy = p · W"),),
            why="an expert with a row of its own in the router takes tokens away from the old ones",
            fix=f"nearest exact targets: {fields}",
        )
    if m > n:
        words["experts"] = f"copies × {m // n}" + (
            "" if upcycled else f", top_k {source.top_k} -> {m // n * source.top_k}"
        )
    return {"experts": axis_map(n, np.arange(m) % n, operator="copies")}


def low_logit(source: Architecture, tokens: str) -> float | None:
    """What the head's bias gives new tokens, None unless `low` was asked for; Refused without such a bias."""
    if tokens != "low":
        return None
    if not any(str(row.signature) == "vocab <-" for row in source.rows if not row.optional):
        raise Refused(
            option(new_tokens="low"),
            what=f"the head of this {source.family.model_type} has no bias",
            why="w·x <= every w_i·x for states x of all directions has no solution w, so no row alone gives a logit "
            "below all others",
            fix=f"{option(new_tokens='blend')}: new logits stay below the largest old one",
        )
    return LOW


def _check_operator(source: Architecture, axis: str, n: int, m: int, context: str, name: str) -> None:
    """Refused when the operator that somebody chose is not exact here."""
    fits = [op.name for op in OPERATORS.values() if context in op.contexts and op.allows(n, m, context)]
    if name not in fits:
        multiples = {m // n * n, -(-m // n) * n} - {n}
        exact = [f"{source.family.axes.get(axis, axis)}={k}" for k in sorted(multiples)]
        raise Refused(
            option(operators={axis: name}),
            what=f"{name} cannot grow {axis} {n} -> {m}",
            why=_WHY[context],
            fix=" or ".join(option(operators={axis: fit}) for fit in fits) or " or ".join(exact),
        )


def _no_multiple(source: Architecture, new: Mapping[str, int]) -> Refused:
    old = source.sizes
    return Refused(
        "hidden",
        what=f"would grow {old['hidden']} -> {new['hidden']}, which is not a whole multiple",
        details=(
            (
                "equation",
                "LN(u) = γ·(u - mean)/σ + β; [u; u; …] has the mean and σ of u, other extensions of u do not",
            ),
        ),
        why=_WHY["plain"],
        fix="nearest exact targets: " + nearest(source, new),
    )


_WHY = {
    "rms": "before RMSNorm an axis grows by copies or by silent coordinates",
    "layernorm": "before LayerNorm an axis grows by whole copies or by coordinates that carry the mean",
    "plain": "here a norm's output is the residual stream itself (or a reader has no norm with a gain before it), "
    "so only whole copies keep every mean and variance",
    "whole_norm": "one RMSNorm runs over all heads of q, one over those of k: only whole copies keep their mean square",
    "alibi": "no two heads have one slope, so no head can be another one's copy",
    "elementwise": "units between two matrices grow by copies or by units that nothing reads yet",
}


def _head_maps(
    source: Architecture, new: Mapping[str, int], chosen: Mapping[str, Any], words: dict[str, str]
) -> tuple[AxisMap, AxisMap]:
    family, old = source.family, source.sizes
    sizes = (old["heads"], old["kv_heads"], new["heads"], new["kv_heads"])
    if sizes[:2] == sizes[2:]:
        return identity(sizes[0]), identity(sizes[1])
    law = "whole_norm" if family.attention.whole_norm else "alibi" if source.alibi else "elementwise"
    fits = {"whole_norm": ("copies",), "alibi": ("unread",)}.get(law, ("unread", "copies"))
    name = chosen.get("heads", fits[0])
    if name not in fits:
        raise Refused(
            option(operators={"heads": name}),
            what="heads grow by " + " or ".join(fits),
            why=_WHY[law],
            fix=option(operators={"heads": fits[0]}),
        )
    grown = grow_heads(*sizes, name, head_places(source, new["heads"]))
    if grown is None:
        h, k, h2, k2 = sizes
        g, g2 = h // k, h2 // k2
        raise Refused(
            option(to={family.axes[a]: m for a, m in (("heads", h2), ("kv_heads", k2)) if a in family.axes}),
            what=f"{h} query heads in {k} groups of {g} do not fit into {k2} groups of {g2}",
            why="stock attention reads kv head ⌊q / q_per_kv⌋: every old query head needs a group with its kv head"
            + (", and the place with its slope" if source.alibi else ""),
            fix=nearest(source, new),
        )
    if family.attention.whole_norm and not grown.even:
        raise Refused(
            option(to={family.axes["heads"]: sizes[2], family.axes["kv_heads"]: sizes[3]}),
            what=f"{sizes[0]} query heads and {sizes[1]} kv heads have no whole number of copies in it",
            details=(("equation", "RMS([u; u; …]) = RMS(u); with copies of a part of u it is another number"),),
            why=_WHY["whole_norm"],
            fix="nearest exact targets: " + nearest(source, new),
        )
    words["heads"] = _describe(grown.heads) + (", old ones where their slope is" if source.alibi else "")
    words["kv_heads"] = _describe(grown.kv_heads) if sizes[1] != sizes[3] else "unchanged"
    return grown.heads, grown.kv_heads


def _describe(m: AxisMap) -> str:
    fresh = int((m.source < 0).sum())
    if fresh:
        scale = "" if m.exact_factors and m.write[0] == 1 else f", stream × √({m.m}/{m.n})"
        return f"{fresh} {m.operator}{scale}"
    counts = sorted(set(m.counts.tolist()))
    return "copies × " + " and ".join(map(str, counts))


def shared(space: str) -> bool:
    """Whether readers of its copies share a weight among them: kv heads are repeated, and rows are looked up."""
    return "." not in space and space not in ("kv_heads", "vocab", "positions", "experts")


def rounding(maps: Mapping[str, AxisMap], split: str) -> tuple[str, ...]:
    """Why weights must be rounded: factors that are not powers of two, means, or shares that do not divide."""
    reasons = []
    for space, m in maps.items():
        if not m.exact_factors:
            what = "coordinates that carry a mean" if "mean" in m.operator else "a factor that is not a power of two"
            reasons.append(f"{space} {m.n} -> {m.m}: {what}")
        elif split in ("even", "diagonal") and any(c & (c - 1) for c in m.counts.tolist()) and shared(space):
            reasons.append(f"{space} {m.n} -> {m.m}: even shares that are not powers of two")
    return tuple(reasons)
