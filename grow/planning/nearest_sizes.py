"""The nearest sizes that can be reached, for the message of a refusal.

A refusal names targets that would be accepted, and nothing else: each candidate is judged by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from grow.architectures.architecture import Architecture
from grow.notation import alibi
from grow.notation.operators import grow_heads
from grow.notation.size_limits import HEADS_WIDTH, cap_of
from grow.planning.expert_maps import expert_operators

REACH = 64  # how far from the wish single steps are tried


def complete(source: Architecture, old: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
    """All sizes when some were given: what is not named stays, unless it follows; kv_heads follow heads where they were
    equal."""
    new = {**old, **given}
    if source.family.attends and "kv_heads" not in given and old["kv_heads"] == old["heads"]:
        new["kv_heads"] = new["heads"]
    for axis, law in source.followed.items():
        if axis not in given or axis not in source.family.growable:
            new[axis] = law.value(new) or new[axis]
    return new


def reachable(source: Architecture, new: Mapping[str, int]) -> bool:
    """Whether an exact growth leads from the source to the sizes `new` (RoPE's conditions on head_dim apart)."""
    family, old = source.family, source.sizes
    widths = [axis for axis in (*family.widths, "experts") if axis in old]
    if any(not old[axis] <= new[axis] <= cap_of(axis) for axis in widths):
        return False
    if any(refusal.forbids(old[refusal.axis], new[refusal.axis]) for refusal in source.refusals):
        return False
    if "experts" in old and not expert_operators(source, new["experts"]):
        return False
    if any(law.value(new) != new[axis] for axis, law in source.followed.items()):
        return False
    if source.hidden_context == "plain" and new["hidden"] % old["hidden"]:
        return False
    return not family.attends or _heads_fit(source, new)


def _heads_fit(source: Architecture, new: Mapping[str, int]) -> bool:
    family, old = source.family, source.sizes
    if new["heads"] % new["kv_heads"] or new["heads"] * new["head_dim"] > HEADS_WIDTH:
        return False
    if family.attention.whole_norm:
        grown = grow_heads(old["heads"], old["kv_heads"], new["heads"], new["kv_heads"], "copies")
        if grown is None or not grown.even:
            return False
    if any(new[axis] % count for axis, count in family.shares.items()):
        return False
    if family.divides and new["hidden"] % new["heads"]:
        return False
    if source.alibi:
        place = head_places(source, new["heads"])
        return grow_heads(old["heads"], old["kv_heads"], new["heads"], new["kv_heads"], "unread", place) is not None
    group, new_group = old["heads"] // old["kv_heads"], new["heads"] // new["kv_heads"]
    return -(-group // new_group) * old["kv_heads"] <= new["kv_heads"]


def head_places(source: Architecture, heads: int) -> np.ndarray | None:
    """Where each old query head must lie among so many; None where they may lie anywhere."""
    return alibi.places(source.sizes["heads"], heads) if source.alibi else None


def nearest(source: Architecture, new: Mapping[str, int], limit: int = 3) -> str:
    """`hidden_size=24 or num_attention_heads=6`: the changes of fewest fields that reach, and the least one."""
    family, old = source.family, source.sizes
    given = {a: n for a, n in new.items() if n != old[a] and a not in source.followed}
    if family.attends and old["kv_heads"] == old["heads"] and new["kv_heads"] == new["heads"]:
        given.pop("kv_heads", None)
    costs: dict[str, tuple[int, float]] = {}
    for change in _changes(source, new):
        trial = complete(source, old, {**given, **change})
        if not reachable(source, trial) or all(trial[a] == old[a] for a in family.widths if a in old):
            continue
        own = [a for a in ("hidden", "heads", "kv_heads") if a in old and a not in source.followed]
        named = [a for a in own if trial[a] != new[a]]
        text = ",".join(f"{family.axes[a]}={trial[a]}" for a in named)
        far = sum(abs(math.log(trial[a] / max(new[a], 1))) for a in named)
        if text:
            costs[text] = (len(named), far)
    by_fields = sorted(costs, key=costs.__getitem__)
    best = [t for t in by_fields if costs[t][0] == costs[by_fields[0]][0]][:limit]
    closest = min(costs, key=lambda text: costs[text][1], default="")
    if closest and closest not in best and costs[closest][1] < costs[best[0]][1]:
        best.append(closest)  # one field more, and nearer to the wish
    fields = [family.axes[axis] for axis in ("heads", "hidden") if axis in family.axes]
    return " or ".join(best) or f"no {' or '.join(fields)} nearby fits: name {'both' if fields[1:] else 'another'}"


def _changes(source: Architecture, new: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Single fields first, then hidden and heads together."""
    family, old = source.family, source.sizes
    if not family.attends:
        yield from ({"hidden": n} for n in _multiples(new["hidden"], 1, old["hidden"]))
        return
    kv_heads = [*_around(new["kv_heads"]), old["heads"], new["heads"]] if "kv_heads" in family.axes else []
    heads = {*_around(new["heads"]), *(new["kv_heads"] * k for k in range(1, REACH))}
    hidden = _multiples(new["hidden"], new["heads"], old["hidden"], math.lcm(new["heads"], old["hidden"]))
    yield from ({"kv_heads": k} for k in kv_heads)
    yield from ({"heads": h} for h in heads)
    yield from ({"hidden": n} for n in hidden)
    if family.attention.whole_norm:
        more = [_multiples(new[axis], old[axis]) for axis in ("hidden", "heads", "kv_heads")]
        yield from ({"hidden": n, "heads": h, "kv_heads": k} for n in more[0] for h in more[1] for k in more[2])
    for h in heads:
        yield from ({"heads": h, "hidden": n} for n in _multiples(new["hidden"], h, math.lcm(h, old["hidden"])))
        yield from ({"heads": h, "kv_heads": k} for k in (old["kv_heads"], h) if "kv_heads" in family.axes)


def _around(near: int) -> range:
    return range(max(1, near - REACH), near + REACH)


def _multiples(near: int, *steps: int) -> set[int]:
    return {max(1, near // step + up) * step for step in steps for up in (0, 1)}
