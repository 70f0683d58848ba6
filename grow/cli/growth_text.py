"""A plan and a finished growth as text, and as the document of --json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from grow.architectures.family import WIDTHS
from grow.cli.progress import size
from grow.cli.terminal import say, table
from grow.cli.verification_text import show_verification
from grow.costs.of_a_model import cost_of
from grow.costs.process_memory import portions
from grow.growth.plan_document import couplings, grouped, notes, plan_document
from grow.growth.results import Growth
from grow.notation.operators import OPERATORS
from grow.planning.methods import DEFAULT
from grow.planning.plan import Plan
from grow.verification.verdict import damage_text


def show_plan(p: Plan, world: int | None = None) -> None:
    old, new = cost_of(p)
    how = _method(p)
    say(f"{p.config['architectures'][0]}: {old.parameters:,} -> {new.parameters:,} parameters, {p.storage}{how}")
    if p.lossy:
        say(f"  not exact: {p.lossy}")
    for reason in p.rounded:
        say(f"  rounded: {reason}")
    say()
    say("axes")
    shown = [*(a for a in WIDTHS if a in p.sizes), *(a for a in p.sizes if a not in WIDTHS)]
    table(
        ("axis", "old", "new", "how"),
        ((a, p.sizes[a], p.new_sizes[a], p.operators.get(a, "unchanged")) for a in shown),
    )
    _legend(p)
    say()
    say("tensors")
    rows = (
        (f"{name} × {k}" if k > 1 else name, t.signature, _shape(t.shape), _shape(t.new_shape), t.dtype)
        for name, k, t in grouped(p)
    )
    table(("tensor", "signature", "old", "new", "dtype"), rows)
    say()
    say("couplings")
    for fact in couplings(p):
        say(f"  {fact}")
    if p.config_changes:
        say()
        say("config.json")
        table(
            ("field", "old", "new"),
            ((k, json.dumps(a), json.dumps(b)) for k, (a, b) in p.config_changes.items()),
        )
    say()
    say(f"cost (FLOPs of a forward pass per token, over {new.context} tokens)")
    per = [(f"FLOPs, {name}", f"{old.flops[name]:.4g}", f"{new.flops[name]:.4g}") for name in new.flops]
    per.append(("FLOPs, all", f"{old.flops_per_token:.4g}", f"{new.flops_per_token:.4g}"))
    if new.kv_bytes:
        per.append(("KV cache per token", size(old.kv_bytes), size(new.kv_bytes)))
    per.append(("memory to train, AdamW", size(old.train_bytes), size(new.train_bytes)))
    per.append(("disk", size(old.disk_bytes), size(new.disk_bytes)))
    table(("", "old", "new"), per)
    if world:
        _portions(p, world)
    for note in notes(p):
        say(f"note: {note}")


def _legend(p: Plan) -> None:
    """What the words of the column "how" mean, those that stand in it."""
    for name, operator in OPERATORS.items():
        if any(re.search(rf"(^| ){name}( ×|,|$)", how) for how in p.operators.values()):
            say(f"  {name}: {operator.meaning}")
    if any("stream ×" in how for how in p.operators.values()):
        say("  stream: the residual stream is scaled by this factor, because its norms average over more coordinates")


def _portions(p: Plan, world: int) -> None:
    old, new = portions(p, world)
    say()
    say(f"memory of each of {world} processes that train it (FSDP2, float32, AdamW; activations not counted)")
    words = {
        "weights": "weights, its part",
        "gradients": "gradients, its part",
        "moments": "moments, its part",
        "in_flight": "whole for a moment",
        "total": "all",
        "loading": "while loading, beside its weights",
    }
    before, after = old.document(), new.document()
    table(("", "old", "new"), ((text, size(before[key]), size(after[key])) for key, text in words.items()))


def growth_document(grown: Growth) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(grown.path),
        "status": grown.status,
        "damage": grown.damage,
        "seconds": round(grown.seconds, 3),
        "plan": plan_document(grown.plan),
        "verification": grown.verification.to_dict() if grown.verification else None,
        "notes": list(grown.notes),
    }


def show_growth(grown: Growth) -> None:
    p = grown.plan
    before, after = p.parameters
    say(
        f"{grown.path}: {before:,} -> {after:,} parameters, {p.storage}, {size(p.nbytes)} in {grown.seconds:.1f} s"
        + _method(p)
    )
    changed = [a for a in p.sizes if p.sizes[a] != p.new_sizes[a]]
    table(("axis", "old", "new", "how"), ((a, p.sizes[a], p.new_sizes[a], p.operators.get(a, "")) for a in changed))
    _legend(p)
    for note in grown.notes:
        say(f"note: {note}")
    if grown.verification is None:
        say("unverified: --no-verify was given, so no weight was checked and no model was run")
    elif p.lossy:
        show_verification(grown.verification, verdict=False)
        say(f"lossy: {p.method}, measured {damage_text(grown.verification)}")
    else:
        show_verification(grown.verification)


def _method(p: Plan) -> str:
    """`, lemon` and, where it is not exact, `, lossy: gstack`."""
    return f", lossy: {p.method}" if p.lossy else "" if p.method == DEFAULT else f", {p.method}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
