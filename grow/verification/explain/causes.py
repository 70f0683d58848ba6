"""The cause of a failed or incomplete comparison.

by_running        the first module that differs, with the number or the field that explains it
unequal_numbers   outputs agree and stored numbers do not: why, or that no probe looked there
unequal_fields    the same for config.json
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.stock_source import stock_of
from grow.errors import listing
from grow.models.true_float64 import model_class
from grow.notation.origins import Read
from grow.planning.tensor import TensorPlan
from grow.verification.explain.first_difference import first_difference, same_end, without_effect
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import SIDES
from grow.verification.weights.certificate import fault_of
from grow.verification.weights.config_fields import config_differences, significant
from grow.verification.weights.recorded_growth import Replay
from grow.verification.weights.stored_numbers import StoredDifference


def by_running(
    pair: Pair,
    replay: Replay | None,
    stored: Sequence[StoredDifference],
    fields: list[dict[str, Any]],
    limit: float,
    likely: Replay | None = None,
) -> dict[str, Any] | None:
    """`first_difference` of a pair; `stored` and `fields` are how the files differ.

    likely  without a plan: the growth that most tensors follow, see `most_likely_growth`
    """
    known = replay or likely
    plans = known.by_name() if known else {}

    def explain(parameter: str) -> dict[str, Any] | None:
        if known is not None:
            plan = next((t for name, t in plans.items() if same_end(name, parameter)), None)
            fault = fault_of(known, plan) if plan else None
            return _fault_of_likely_growth(fault, plan) if fault and plan and likely else fault
        return next((d.document() for d in stored if same_end(d.tensor, parameter)), None)

    if likely is not None:
        fields = likely.fields() or _unplanned(pair, likely)
    elif replay is None:
        fields = whole_fields(pair)
        if (depths := _depths(pair)) and depths[0] != depths[1]:
            return _other_depth(*depths)
    first = first_difference(pair, known, explain, fields, limit=limit)
    if first and stored and not (first["tensor"] or first["field"]):
        # stock loading renames what older files hold, so no name leads from the module to the tensor
        first |= stored[0].document() | {"text": f"{first['text'].split(';')[0]}; {stored[0]}"}
    return first


def _unplanned(pair: Pair, likely: Replay) -> list[dict[str, Any]]:
    """Fields that stock loading reads otherwise and this growth does not change; another family's are not compared."""
    if pair.config("source").model_type != pair.config("grown").model_type:
        return []
    return [field for field in whole_fields(pair) if field["field"] not in likely.record.config_changes]


def _fault_of_likely_growth(fault: dict[str, Any], plan: TensorPlan) -> dict[str, Any]:
    """A fault of a growth that nobody recorded; of experts that share what one wrote, any may be the one."""
    among = plan.origin.among if isinstance(plan.origin, Read) else ()
    others = [name for name, _ in among if name != plan.name]
    together = f", together with {listing(others)}" if others else ""
    return {**fault, "rule": f"{fault['rule']}, as in most other tensors{together}"}


def _depths(pair: Pair) -> tuple[int, int] | None:
    """Layers of both, None where a config has no such field."""
    n, m = (getattr(pair.config(side), "num_hidden_layers", None) for side in SIDES)
    return (n, m) if isinstance(n, int) and isinstance(m, int) else None


def _other_depth(n: int, m: int) -> dict[str, Any]:
    """Layers that nobody says how to pair cannot be walked in lock-step: no module is named."""
    nothing = dict.fromkeys(("module", "kind", "probe", "relative", "after", "tensor", "index"))
    text = f"{n} layers in the source and {m} in the grown one, and no grow.json says which stands for which"
    return {**nothing, "field": "num_hidden_layers", "found": m, "wanted": n, "rule": "", "text": text}


def whole_fields(pair: Pair) -> list[dict[str, Any]]:
    """Fields that differ though no growth changes them; defaults that only one config spells out do not count."""
    config = pair.config("source")
    return significant(config_differences(config.to_dict(), pair.config("grown").to_dict()), config.model_type)


Found = tuple[list[str], list[str]]  # notes, and what equal outputs prove nothing about


def unequal_fields(pair: Pair, stored: Sequence[StoredDifference] | None) -> Found:
    """Fields of config.json that differ although no output does: the probes may not reach what they change."""
    read = _read_by_every_pass(pair)
    names = [field["field"] for field in whole_fields(pair) if field["field"] not in read]
    readings = stock_of(pair.config("source").model_type).readings(names)
    names = [name for name in names if readings[name].at_all]
    notes = [f"config.json differs in {name} and no output does; no probe looked there" for name in names]
    return notes, [f"config.json: {name}" for name in names]


def _read_by_every_pass(pair: Pair) -> set[str]:
    """Fields that equal outputs do judge: the class where both folders have the same one though a config names none,
    and how many experts a token gets, which grows with the experts. Fields that no stock code reads need no judge."""
    read = {"architectures"} if model_class(pair.folders["source"]) is model_class(pair.folders["grown"]) else set()
    read.add("tie_word_embeddings")  # the table and the head are both looked at
    family = FAMILIES.get(pair.config("source").model_type)
    if family and family.experts:
        read |= {family.experts.top_k, *(family.experts.layers.fields if family.experts.layers else ())}
    if family:  # stock configs list the entries of each layer, which are then what counts
        read.update(name for listed in family.layer_lists for name in listed.follows_from)
    return read


def unequal_numbers(pair: Pair, stored: Sequence[StoredDifference] | None) -> Found:
    """Stored numbers that differ although no output does."""
    notes = []
    missed = without_effect(pair, [d.tensor for d in stored or () if not d.invisible])
    for d in stored or ():
        if d.invisible:
            notes.append(f"{d}; no output can see it: it {d.invisible}")
        elif d.tensor in missed:
            notes.append(f"{d}; no probe looked there, so equal outputs prove nothing about it")
    return notes, missed
