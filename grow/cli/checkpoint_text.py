"""A checkpoint and the families as text, and as the documents of --json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from grow.api import Inspection
from grow.architectures.family import Family
from grow.cli.growth_text import shape_text
from grow.cli.terminal import say, table
from grow.planning.what_grows import REFUSED, Outcome, growths

if TYPE_CHECKING:
    from grow.deriving.derivation import Derived


def inspection_document(inspection: Inspection) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(inspection.path),
        "family": inspection.family.model_type,
        "architecture": inspection.match.config["architectures"][0],
        "sizes": inspection.sizes,
        "parameters": _parameters(inspection),
        "tensors": [
            {"name": t.name, "signature": t.row.text, "dtype": t.dtype, "shape": list(t.shape)}
            for t in inspection.match.tensors
        ],
        "targets": list(inspection.family.sizes),
        "notes": list(inspection.notes),
    }


def show_inspection(inspection: Inspection) -> None:
    architecture = inspection.match.config["architectures"][0]
    dtypes = ", ".join(sorted({t.dtype for t in inspection.match.tensors}))
    say(f"{inspection.path}: {architecture}, {_parameters(inspection):,} parameters, {dtypes}")
    axes = inspection.family.axes
    rows = ((axis, size, axes.get(axis, "derived")) for axis, size in inspection.sizes.items())
    table(("axis", "size", "field"), rows)
    say("tensors")
    tensors = (
        t for t in inspection.match.tensors if "{layers}" not in t.row.name or t.canonical == _in_layer_0(t.row.name)
    )
    table(("tensor (layer 0)", "signature", "shape"), ((t.name, t.row.signature, shape_text(t.shape)) for t in tensors))
    say("sizes of the family: " + ", ".join(inspection.family.sizes))
    for note in inspection.notes:
        say(f"note: {note}")


def show_families(chosen: Sequence[Family]) -> None:
    table(
        ("family", "models", "sizes"),
        ((family.model_type, family.summary, ", ".join(family.sizes)) for family in chosen),
        indent="",
    )


def show_family(family: Family) -> None:
    say(f"{family.model_type}: {family.summary}")
    table(("tensor", "signature", "there when"), ((row.name, row.text, row.when) for row in family.rows))
    say("axes")
    grown = growths(family)
    table(
        ("axis", "field", "whole multiple", "any other size"),
        ((g.axis, g.field or "derived", outcome_text(g.multiple), outcome_text(g.other)) for g in grown),
    )
    for g in grown:
        for outcome in {g.multiple.detail: g.multiple, g.other.detail: g.other}.values():
            if outcome.kind == REFUSED:
                say(f"  {g.axis}: {outcome.detail}")
    say("sizes")
    for name, fields in family.sizes.items():
        say(f"  {name}: " + ", ".join(f"{k}={v}" for k, v in fields.items()))


def outcome_text(outcome: Outcome) -> str:
    """`rounded, with hidden`"""
    beside = f", with {' and '.join(outcome.beside)}" if outcome.beside and outcome.kind != REFUSED else ""
    return outcome.kind + beside


def family_document(family: Family, *, whole: bool) -> dict[str, Any]:
    """whole  with what each axis can do"""
    return {
        "model_type": family.model_type,
        "summary": family.summary,
        "axes": dict(family.axes),
        "sizes": {name: dict(fields) for name, fields in family.sizes.items()},
        "tensors": [{"name": r.name, "signature": str(r.signature), "when": r.when} for r in family.rows],
        **({"growths": [asdict(growth) for growth in growths(family)]} if whole else {}),
    }


def _in_layer_0(name: str) -> str:
    return name.replace("{layers}", "0")


def _parameters(inspection: Inspection) -> int:
    return sum(math.prod(t.shape) for t in inspection.match.tensors)


def show_derivation(derived: Derived) -> None:
    """What was found out about each axis of a model type."""
    say(f"{derived.model_type}: {len(derived.proved)} of {len(derived.axes)} axes proved")
    table(("axis", "", "grown exactly to, or why not"), ((a.axis, a.status, a.sizes or a.why) for a in derived.axes))
    for note in derived.notes:
        say(f"left out: {note}")
