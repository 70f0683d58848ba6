"""The map of the experts: copies that a token gets together, or experts that no token is sent to yet.

    copies   c of each, copy k of expert i at k·n + i, and top_k × c. The copies have one router row, so a token that
             chose an expert chooses all of its copies: each has 1/c of the weight, and their down projections have the
             old one as their mean
    unread   any number behind the old ones, copies of these, and top_k as it is: the bias of the choice of new ones is
             far below all others, so no token is sent to them until something raises it

Where experts are in groups, those of one group grow inside of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.notation.maps import AxisMap, axis_map
from grow.spelling import option

LOW = -1e4  # far below any logit, and float16 can hold it


def expert_operators(source: Architecture, m: int) -> tuple[str, ...]:
    """The operators that take the experts of `source` to `m` exactly, the usual one first."""
    facts, n, groups = source.family.experts, source.sizes["experts"], source.expert_groups
    if facts is None or m < n or m % groups:
        return ()
    copies = ("copies",) if m % n == 0 and source.holds(facts.copies) else ()
    return (*copies, "unread") if facts.bias else copies


def grow_experts(
    source: Architecture, new: Mapping[str, int], words: dict[str, str], chosen: str = "", *, upcycled: bool = False
) -> dict[str, AxisMap]:
    """The map of the experts, {} in a family without; Refused where no operator, or not the `chosen` one, is exact."""
    if "experts" not in source.sizes:
        return {}
    n, m, groups = source.sizes["experts"], new["experts"], source.expert_groups
    fits = ("copies",) if upcycled and m % n == 0 else expert_operators(source, m)
    if not fits:
        raise _no_multiple(source, m)
    if chosen and chosen not in fits and m > n:
        raise _not_so(source, m, chosen, fits)
    operator = chosen or fits[0]
    each, wide = n // groups, m // groups
    within = np.arange(wide) % each
    old = (np.arange(groups)[:, None] * each + within).ravel()
    if operator == "copies" or m == n:
        if m > n:
            more = "" if upcycled else f", top_k {source.top_k} -> {m // n * source.top_k}"
            words["experts"] = f"copies × {m // n}{more}"
        return {"experts": axis_map(n, old, operator="copies")}
    words["experts"] = f"{m - n} unread: copies that no token is sent to until their bias, {LOW:g}, is raised"
    read = np.tile(np.arange(wide) < each, groups).astype(np.float64)
    return {"experts": axis_map(n, old, read=read, operator="unread")}


def unread_experts(experts: AxisMap | None) -> bool:
    """Whether the new experts are such that no token is sent to."""
    return experts is not None and not experts.is_identity and bool((experts.read == 0).any())


def new_top_k(source: Architecture, maps: Mapping[str, AxisMap]) -> int:
    """How many experts a token gets after the growth; 0 without experts."""
    experts = maps.get("experts")
    return source.top_k if experts is None or unread_experts(experts) else source.top_k * (experts.m // experts.n)


def _no_multiple(source: Architecture, m: int) -> Refused:
    n, groups, field = source.sizes["experts"], source.expert_groups, source.family.axes["experts"]
    facts = source.family.experts
    if facts is not None and facts.bias:
        step, what = groups, f"which {groups} groups do not share alike"
        why = "stock code cuts the experts into groups of one size"
    else:
        step, what = n, "which is not a whole multiple"
        why = "an expert with a row of its own in the router takes tokens away from the old ones"
    near = [step * k for k in (m // step, m // step + 1) if k]
    return Refused(
        option(to={field: m}),
        what=f"experts {n} -> {m}, {what}",
        details=(("equation", "c copies each get the weight p/c, so with top_k × c: Σ p/c · W_copy = p · W"),)
        if step == n
        else (),
        why=why,
        fix=f"nearest exact targets: {field}=" + " or ".join(map(str, near)),
    )


def _not_so(source: Architecture, m: int, chosen: str, fits: tuple[str, ...]) -> Refused:
    n = source.sizes["experts"]
    facts = source.family.experts
    if chosen == "unread" and facts is not None and not facts.bias:
        why = "the choice of experts has no bias that could keep tokens away from the new ones"
    elif chosen == "copies" and m % n == 0:
        why = "of this router's choice, copies of an expert together do not get its weight"
    elif chosen == "copies":
        why = "a copy of some experts alone takes weight from the others"
    else:
        why = "experts grow by copies, or unread"
    return Refused(
        option(operators={"experts": chosen}),
        what=f"{chosen} cannot grow experts {n} -> {m}",
        why=why,
        fix=" or ".join(option(operators={"experts": fit}) for fit in fits),
    )
