"""A plan as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from grow.architectures.match import numberless
from grow.costs.literature import doubts
from grow.costs.of_a_model import cost_of
from grow.costs.process_memory import memory_document
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan


def plan_document(plan: Plan, world: int | None = None) -> dict[str, Any]:
    """Everything `grow plan` shows, JSON-ready; with `world` the memory of each of so many processes, too."""
    old, new = cost_of(plan)
    return {
        "schema": 1,
        "family": plan.family.model_type,
        "architecture": plan.config["architectures"][0],
        "storage": plan.storage,
        "rounded_because": list(plan.rounded),
        "method": plan.method,
        "exact": not plan.lossy,
        "lossy_because": plan.lossy,
        "split": plan.split,
        "seed": plan.seed,
        "axes": {
            axis: {
                "old": plan.sizes[axis],
                "new": plan.new_sizes[axis],
                "how": plan.operators.get(axis, "unchanged"),
            }
            for axis in plan.axes
        },
        "tensors": [
            {
                "rows": name,
                "count": count,
                "signature": str(t.signature),
                "old": list(t.shape),
                "new": list(t.new_shape),
                "dtype": t.dtype,
            }
            for name, count, t in grouped(plan)
        ],
        "couplings": couplings(plan),
        "config": {name: {"old": a, "new": b} for name, (a, b) in plan.config_changes.items()},
        "cost": {
            side: {
                **asdict(cost),
                "flops_per_token": cost.flops_per_token,
                "train_bytes": cost.train_bytes,
            }
            for side, cost in (("old", old), ("new", new))
        },
        **({"world": memory_document(plan, world)} if world else {}),
        "notes": notes(plan),
    }


def notes(plan: Plan) -> list[str]:
    """Those of the plan, and what speaks against a growth of this size."""
    old, new = plan.parameters
    return [*plan.notes, *doubts(new, old, upcycled=plan.change.upcycling is not None)]


def grouped(plan: Plan) -> Iterator[tuple[str, int, TensorPlan]]:
    """(name with `{layers}` and `{experts}`, how many, one of them) for tensors that are alike in every layer."""
    groups: dict[tuple, list[TensorPlan]] = {}
    for t in plan.tensors:
        name = numberless(t.name)
        groups.setdefault((name, t.shape, t.new_shape, t.dtype), []).append(t)
    for (name, *_), members in groups.items():
        yield name, len(members), members[0]


def couplings(plan: Plan) -> list[str]:
    """The facts that shapes do not show, for this config."""
    source, family = plan.source, plan.family
    norm, attention = family.norm, family.attention
    kind = {"rms": "RMSNorm", "layernorm": "LayerNorm"}[norm.kind]
    place = "behind each branch" if source.branch_norms else "in front of each branch"
    if source.norm_writes_stream:
        place = "whose output is the residual stream"
    facts = [f"{kind} {place}; its eps stays as it is"]
    if source.alibi:
        facts.append("ALiBi: each head has a slope that follows from the number of heads")
    if source.rope:
        part = source.rope == "partial" or attention.rotated
        facts.append("RoPE on " + ("part of each head" if part else "whole heads"))
    if source.qk_norm:
        facts.append("RMSNorm on " + ("all heads" if attention.whole_norm else "each head") + " of q and k")
    if family.experts:
        facts.append(f"a token gets {source.top_k} -> {plan.grown.top_k} experts")
        facts.append("their weights sum to 1" if plan.grown.experts_sum_to_one else "their weights are not normalised")
    if family.attends:
        facts.append("scores ÷ √head_dim" if source.scaled else "scores unscaled")
    for axis, law in source.followed.items():
        if (axis, str(law)) != ("kv_heads", "heads"):
            facts.append(f"{axis} = {law}" + ("" if axis in family.axes else ", not a field"))
    if source.tie:
        stays = plan.new_config.get("tie_word_embeddings", True)
        facts.append("embedding and head are one table and stay so" if stays else "embedding and head part")
    if family.divides:
        facts.append("stock config asks for hidden % heads == 0")
    return facts
