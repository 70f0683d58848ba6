"""A plan and a finished growth as text, and as the document of --json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from grow.cli.progress import size
from grow.cli.terminal import say, table
from grow.cli.verification_text import show_verification
from grow.costs.of_a_model import Cost, cost_of
from grow.costs.process_memory import memory_per_process
from grow.growth.plan_document import couplings, grouped, notes, plan_document
from grow.growth.results import Growth
from grow.notation.operators import OPERATORS
from grow.planning.methods import DEFAULT
from grow.planning.plan import Plan
from grow.verification.verdict import damage_text


def show_plan(plan: Plan, world: int | None = None) -> None:
    """Everything that a growth would do; with `world` also the memory of each of so many processes."""
    old, new = cost_of(plan)
    how = _method(plan)
    say(f"{plan.config['architectures'][0]}: {old.parameters:,} -> {new.parameters:,} parameters, {plan.storage}{how}")
    if plan.lossy:
        say(f"  not exact: {plan.lossy}")
    for reason in plan.rounded:
        say(f"  rounded: {reason}")
    _show_axes(plan)
    _show_tensors(plan)
    _show_config(plan)
    _show_cost(old, new)
    if world:
        _show_memory(plan, world)
    for note in notes(plan):
        say(f"note: {note}")


def _show_axes(plan: Plan) -> None:
    say()
    say("axes")
    rows = ((axis, plan.sizes[axis], plan.new_sizes[axis], plan.operators.get(axis, "unchanged")) for axis in plan.axes)
    table(("axis", "old", "new", "how"), rows)
    _show_legend(plan)


def _show_tensors(plan: Plan) -> None:
    say()
    say("tensors")
    rows = (
        (f"{name} × {count}" if count > 1 else name, t.signature, shape_text(t.shape), shape_text(t.new_shape), t.dtype)
        for name, count, t in grouped(plan)
    )
    table(("tensor", "signature", "old", "new", "dtype"), rows)
    say()
    say("couplings")
    for fact in couplings(plan):
        say(f"  {fact}")


def _show_config(plan: Plan) -> None:
    if plan.config_changes:
        say()
        say("config.json")
        rows = ((field, json.dumps(old), json.dumps(new)) for field, (old, new) in plan.config_changes.items())
        table(("field", "old", "new"), rows)


def _show_cost(old: Cost, new: Cost) -> None:
    say()
    say(f"cost (FLOPs of a forward pass per token, over {new.context} tokens)")
    rows = [(f"FLOPs, {name}", f"{old.flops[name]:.4g}", f"{new.flops[name]:.4g}") for name in new.flops]
    rows.append(("FLOPs, all", f"{old.flops_per_token:.4g}", f"{new.flops_per_token:.4g}"))
    if new.kv_bytes:
        rows.append(("KV cache per token", size(old.kv_bytes), size(new.kv_bytes)))
    rows.append(("memory to train, AdamW", size(old.train_bytes), size(new.train_bytes)))
    rows.append(("disk", size(old.disk_bytes), size(new.disk_bytes)))
    table(("", "old", "new"), rows)


def _show_legend(plan: Plan) -> None:
    """What the words of the column "how" mean, those that stand in it."""
    for name, operator in OPERATORS.items():
        if any(re.search(rf"(^| ){name}( ×|,|$)", how) for how in plan.operators.values()):
            say(f"  {name}: {operator.meaning}")
    if any("stream ×" in how for how in plan.operators.values()):
        say("  stream: the residual stream is scaled by this factor, because its norms average over more coordinates")


def _show_memory(plan: Plan, world: int) -> None:
    old, new = memory_per_process(plan, world)
    say()
    say(f"memory of each of {world} processes that train it (FSDP2, float32, AdamW; activations not counted)")
    words = {
        "weights": "its share of the weights",
        "gradients": "its share of the gradients",
        "moments": "its share of the moments",
        "in_flight": "whole tensors, for a moment",
        "total": "all",
        "loading": "while loading, beside the weights",
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
    """What grew, how it was verified, and the verdict."""
    plan, seconds = grown.plan, f"{grown.seconds:.1f} s"
    before, after = plan.parameters
    counts = f"{before:,} -> {after:,} parameters, {plan.storage}, {size(plan.nbytes)}"
    say(f"{grown.path}: {counts} in {seconds}{_method(plan)}")
    changed = [axis for axis in plan.sizes if plan.sizes[axis] != plan.new_sizes[axis]]
    rows = ((axis, plan.sizes[axis], plan.new_sizes[axis], plan.operators.get(axis, "")) for axis in changed)
    table(("axis", "old", "new", "how"), rows)
    _show_legend(plan)
    for note in grown.notes:
        say(f"note: {note}")
    if grown.verification is None:
        say("unverified: --no-verify was given, so no weight was checked and no model was run")
    elif plan.lossy:
        show_verification(grown.verification, verdict=False)
        say(f"lossy: {plan.method}, measured {damage_text(grown.verification)}")
    else:
        show_verification(grown.verification)


def _method(plan: Plan) -> str:
    """`, lemon` and, where it is not exact, `, lossy: gstack`."""
    return f", lossy: {plan.method}" if plan.lossy else "" if plan.method == DEFAULT else f", {plan.method}"


def shape_text(shape: Sequence[int]) -> str:
    """`128 × 384`"""
    return " × ".join(map(str, shape))
