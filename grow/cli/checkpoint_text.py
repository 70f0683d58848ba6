"""A checkpoint and the families as text, and as the documents of --json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grow.api import Inspection
from grow.architectures.family import Family
from grow.cli.growth_text import _shape
from grow.cli.terminal import say, table


def inspection_document(seen: Inspection) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(seen.path),
        "family": seen.family.model_type,
        "architecture": seen.match.config["architectures"][0],
        "sizes": seen.sizes,
        "parameters": _parameters(seen),
        "tensors": [
            {"name": t.name, "signature": str(t.row.signature), "dtype": t.dtype, "shape": list(t.shape)}
            for t in seen.match.tensors
        ],
        "targets": list(seen.family.sizes),
        "notes": list(seen.notes),
    }


def show_inspection(seen: Inspection) -> None:
    dtypes = sorted({t.dtype for t in seen.match.tensors})
    say(f"{seen.path}: {seen.match.config['architectures'][0]}, {_parameters(seen):,} parameters, {', '.join(dtypes)}")
    table(("axis", "size", "field"), ((a, n, seen.family.axes.get(a, "derived")) for a, n in seen.sizes.items()))
    say("tensors")
    first = [
        t
        for t in seen.match.tensors
        if not ("{layers}" in t.row.name and t.canonical != t.row.name.replace("{layers}", "0"))
    ]
    table(
        ("tensor (layer 0)", "signature", "shape"),
        ((t.name, t.row.signature, _shape(t.shape)) for t in first),
    )
    say("sizes of the family: " + ", ".join(seen.family.sizes))
    for note in seen.notes:
        say(f"note: {note}")


def show_families(chosen: Sequence[Family]) -> None:
    table(
        ("family", "models", "sizes"),
        ((f.model_type, f.summary, ", ".join(f.sizes)) for f in chosen),
        indent="",
    )


def show_family(f: Family) -> None:
    say(f"{f.model_type}: {f.summary}")
    table(("tensor", "signature", "there when"), ((r.name, r.signature, r.when) for r in f.rows))
    say("sizes")
    for name, fields in f.sizes.items():
        say(f"  {name}: " + ", ".join(f"{k}={v}" for k, v in fields.items()))


def family_document(f: Family) -> dict[str, Any]:
    return {
        "model_type": f.model_type,
        "summary": f.summary,
        "axes": dict(f.axes),
        "sizes": {name: dict(fields) for name, fields in f.sizes.items()},
        "tensors": [{"name": r.name, "signature": str(r.signature), "when": r.when} for r in f.rows],
    }


def _parameters(seen: Inspection) -> int:
    total = 0
    for t in seen.match.tensors:
        count = 1
        for n in t.shape:
            count *= n
        total += count
    return total
