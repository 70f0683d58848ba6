"""What each axis of a family can do, planned on a small model of it: at a whole multiple, and at another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grow.architectures.architecture import Architecture
from grow.architectures.conditions import HEADS
from grow.architectures.family import Family
from grow.architectures.match import match
from grow.architectures.match_faults import Info
from grow.errors import GrowError
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import Plan, plan_for

EXACT, ROUNDED, REFUSED = "exact", "rounded", "refused"
RANK = (EXACT, ROUNDED, REFUSED)
SIZES = {
    "hidden": 72, "heads": 12, "kv_heads": 2, "head_dim": 12, "ffn": 60, "layers": 3, "vocab": 40, "positions": 32,
    "experts": 16,
}  # fmt: skip
UNITS = 24  # of every other axis


@dataclass(frozen=True)
class Outcome:
    """kind    EXACT: bits stay; ROUNDED: numbers are rounded once, and written as float32; REFUSED
    detail  how it grows, why it rounds, or why it is refused
    beside  other axes that have to grow with it
    """

    kind: str
    detail: str
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class AxisGrowth:
    """An axis, the config field that says its size ("" where it follows from others), and what it can do."""

    axis: str
    field: str
    multiple: Outcome
    other: Outcome


def growths(family: Family, ending: str = "") -> tuple[AxisGrowth, ...]:
    """Of every axis that a target may name.

    ending  of the model class, "" for the first one in `classes_of`
    """
    source = _example(family, ending or classes_of(family)[0])
    shown = ("head_dim", *(axis for axis in family.axes if axis not in source.followed))
    axes = [axis for axis in family.growable if axis in source.sizes and axis in shown]
    return tuple(
        AxisGrowth(
            axis,
            family.axes.get(axis, ""),
            _best(source, axis, _multiples(source, axis)),
            _best(source, axis, _others(source, axis)),
        )
        for axis in axes
    )


def classes_of(family: Family) -> tuple[str, ...]:
    """What the names of its model classes with a head end in, as far as its table tells them apart; or "Model"."""
    named = {ending for condition in family.conditions.values() for ending in condition.classes}
    return tuple(ending for ending in HEADS if ending in named) or ("Model",)


def grow_alike(family: Family, ending: str) -> bool:
    """Whether models of this class have all that decides a growth as those of the first one in `classes_of` do."""
    one, other = (_example(family, name) for name in (classes_of(family)[0], ending))
    return all(
        ask(one) == ask(other)
        for ask in (
            lambda source: (source.contexts, source.refusals, source.tie, source.tie_norms, source.branch_norms),
            lambda source: (source.norm_writes_stream, source.stacks, {row.root for row in source.rows}),
        )
    )


def _example(family: Family, ending: str) -> Architecture:
    """A small model of the family, every field but its sizes as stock code takes it."""
    sizes = {axis: SIZES.get(axis, UNITS) for axis in (*SIZES, *family.axes)}
    sizes |= dict.fromkeys(family.depths, SIZES["layers"])
    sizes |= {axis: laws[0].value(sizes) or sizes[axis] for axis, laws in family.size_laws.items()}
    config: dict[str, Any] = {"architectures": [family.class_begins + ending]}
    config |= {field: sizes[axis] for axis, field in family.axes.items()}
    entries = {one.field: one for one in family.layer_lists}
    for listed in family.layer_lists:
        config |= listed.otherwise([listed.entries[0]] * sizes[listed.layers]) if listed.said_too else {}
    for needed in family.needed_fields:
        field = needed.partition("|")[0]
        if field == "rope_parameters":
            config[field] = {"rope_type": "default", "rope_theta": 1e4}
        elif field not in config:
            config[field] = [entries[field].entries[0]] * sizes[entries[field].layers] if field in entries else UNITS
    if isinstance(family.eps, str):
        config[family.eps] = 1e-5
    if family.experts:
        config[family.experts.top_k] = 2
    return Architecture(family, config)


def _best(source: Architecture, axis: str, targets: Iterator[dict[str, int]]) -> Outcome:
    """The best of the targets: the fewest roundings, then the fewest other axes; or why the first one is refused."""
    outcomes = []
    for to in targets:
        beside = tuple(other for other in to if other != axis)
        try:
            plan = _planned(source, to)
        except GrowError as error:
            outcomes.append(Outcome(REFUSED, error.why, beside))
        else:
            kind = ROUNDED if plan.rounded else EXACT
            outcomes.append(Outcome(kind, "; ".join(plan.rounded) or plan.operators.get(axis, ""), beside))
            if kind == EXACT:
                break  # targets that follow ask for more
    best = min(outcomes, key=lambda outcome: (RANK.index(outcome.kind), len(outcome.beside)))
    return outcomes[0] if best.kind == REFUSED else best


def _planned(source: Architecture, to: Mapping[str, int]) -> Plan:
    sizes = {**{axis: 2 for row in source.rows for axis in row.signature.axes}, **source.sizes}
    stored = {name: Info("BF16", row.signature.shape(sizes)) for name, row in source.tensors.items()}
    if source.tie:
        stored.pop(source.tie.head, None)
    return plan_for(match(source, stored, source.family.model_type), dict(to), GrowthOptions())


def _multiples(source: Architecture, axis: str) -> Iterator[dict[str, int]]:
    old = source.sizes
    yield {axis: 2 * old[axis]}
    together = source.family.depths if axis in source.family.depths else ()
    if len(together) > 1:
        yield {axis: 2 * old[axis], **{other: 2 * old[other] for other in together}}
    for others in (("hidden",), ("heads",), ("hidden", "heads"), ("hidden", "heads", "kv_heads")):
        if axis not in others:
            yield {axis: 2 * old[axis], **{other: 2 * old[other] for other in others if other in old}}


def _others(source: Architecture, axis: str) -> Iterator[dict[str, int]]:
    """Sizes that are no whole multiple; heads have to fit their groups."""
    old = source.sizes
    if axis in ("heads", "kv_heads"):
        more = {name: old[name] // 2 * 3 for name in ("heads", "kv_heads", "hidden")}
        yield {axis: more[axis]}
        yield {"heads": more["heads"], "kv_heads": more["kv_heads"]}
        yield {"heads": more["heads"], "hidden": more["hidden"]}
        yield {"heads": more["heads"], "hidden": 2 * old["hidden"]}
        yield {"heads": more["heads"], "kv_heads": more["kv_heads"], "hidden": 2 * old["hidden"]}
        yield {"heads": old["heads"] // 3 * 4, "hidden": 2 * old["hidden"]}
    elif axis == "hidden":
        heads = old.get("heads", 1)
        yield from ({axis: old[axis] + step} for step in (2 * heads, heads, 2))
        yield {axis: old[axis] // 2 * 3, **({"heads": heads // 2 * 3} if "heads" in old else {})}
    elif axis == "head_dim":
        yield from ({axis: old[axis] + step} for step in (2, 4, 6))
        yield {axis: old[axis] // 2 * 3, "hidden": old["hidden"] // 2 * 3}
        yield {axis: old[axis] // 2 * 3, "hidden": 2 * old["hidden"], "heads": old["heads"] // 3 * 4}
    else:
        yield {axis: old[axis] + 1}
        if axis in source.family.depths:
            yield {axis: old[axis] + 1, **{other: old[other] + 1 for other in source.family.depths if other in old}}
