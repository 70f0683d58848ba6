"""The growth of a model in memory, from state dict to state dict.

Its optimizers can grow along, see `grow.optimizer.torch_classes`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused
from grow.growth.built_model import build, freeze_alike, grow_state
from grow.growth.file_options import FileOptions
from grow.growth.from_files import plan_files, widen_files
from grow.growth.model_source import ModelSource
from grow.growth.results import Growth
from grow.growth.saved_model import save, save_grown
from grow.growth.written_and_verified import Different
from grow.models.as_configured import carry_padding, twin_of
from grow.models.fused_experts import called, fused
from grow.models.same_outputs import check_runs_alike, outputs, tokens_for
from grow.models.true_float64 import LOCAL, model_class, quiet
from grow.optimizer.dual_rule import POLICIES
from grow.optimizer.torch_classes import check_optimizers, grow_optimizers
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import Plan, plan_for
from grow.verification.ladder import verify_folders
from grow.verification.outputs.compare import HIDDEN_OUTPUTS
from grow.verification.rungs import FUNCTION, LOSSY
from grow.verification.verdict import Verification


def widen_model(
    model: Any, to: Any, options: GrowthOptions, *, verify: bool, optimizer: Any = None, state: str | None = None
) -> Growth:
    """`grow.widen` for a model in memory: a `Growth` whose `.model` is new, on the source's device and in its mode."""
    started, state = time.monotonic(), state or POLICIES[0]
    source = ModelSource(model)
    if source.names is None or options.upcycling:
        if optimizer is not None:
            with_experts = fused(model) or options.upcycling
            raise Refused(
                "optimizer",
                what=f"given for a model with {'experts' if with_experts else 'parameters that its files fuse'}",
                why="stock classes fuse experts in memory, so such a model grows through files, and its optimizer's "
                "state where a checkpoint has it"
                if with_experts
                else "such a model grows through files, and its optimizer's state where a checkpoint has it",
                fix="grow.widen(the checkpoint's folder, …), or a new optimizer for grown.model.parameters()",
            )
        _, twin = source.checked()
        if verify:
            check_runs_alike(model, twin)
        return _through_files(model, to, options, verify=verify)
    check_optimizers(optimizer, state, model)
    matched = source.matched()
    if verify:
        check_runs_alike(model, twin_of(model, source.config))
    plan = plan_for(matched, to, options)
    if plan.lossy and optimizer is not None:
        raise BadInput(
            "optimizer",
            what=f"given for {plan.method}, which is not exact here",
            why="gradients of a function that changed are not those that its moments were made of",
            fix="a new optimizer for grown.model",
        )
    grown = build(plan, model, grow_state(plan, source))
    plan = replace(plan, in_memory={stored: name for name, stored in (called(grown) or {}).items()})
    new = None if optimizer is None else grow_optimizers(optimizer, state, plan, model, grown)
    verification = _verify(model, grown, plan, options.seed) if verify else None
    if verify:
        check_answers(plan, model, grown)
    notes = (*source.notes, *plan.notes)
    return Growth(plan, None, grown, verification, time.monotonic() - started, notes, new)


def plan_model(model: Any, to: Any, options: GrowthOptions) -> Plan:
    """`grow.plan` for a model in memory."""
    source = ModelSource(model)
    if source.names is not None:
        plan = plan_for(source.matched(), to, options)
        return replace(plan, notes=(*source.notes, *plan.notes))
    source.checked()
    with tempfile.TemporaryDirectory(prefix="grow-memory-") as folder:
        save(model, Path(folder))
        plan = plan_files(folder, to, options, FileOptions())
        return replace(plan, notes=(*source.notes, *plan.notes))


def _through_files(model: Any, to: Any, options: GrowthOptions, *, verify: bool) -> Growth:
    """Stock classes fuse experts in memory and the files hold them one by one, so the growth goes through files."""
    with tempfile.TemporaryDirectory(prefix="grow-memory-") as folder:
        source, out = Path(folder, "source"), Path(folder, "grown")
        save(model, source)
        growth = widen_files(source, to, options, FileOptions(out=out, verify=verify))
        with quiet():
            kernel = model.config._attn_implementation
            grown = model_class(out).from_pretrained(  # type: ignore[attr-defined]
                out, dtype="auto", attn_implementation=kernel, **LOCAL
            )
    freeze_alike(growth.plan, model, grown)
    if fused(model):
        grown.set_experts_implementation(model.config._experts_implementation)
    carry_padding(model, grown)
    if verify:
        check_answers(growth.plan, model, grown)
    device = next(model.parameters()).device
    return replace(growth, path=None, model=grown.to(device).train(model.training))


def check_answers(plan: Plan, model: Any, grown: Any) -> None:
    """Different where two models in memory answer a few tokens otherwise, in the dtype they have.

    Their bits differ by the order of sums, which layers amplify: what is proved is proved in float64, of what both are
    saved as. This is for what only the object has, and off by more than any rounding.
    """
    if plan.lossy:
        return
    batch = {k: v.to(next(model.parameters()).device) for k, v in tokens_for(model).items()}
    old, new = outputs(model, batch), outputs(grown.to(next(model.parameters()).device), batch)
    for name, wanted in old.items():
        got = new.get(name)
        if got is None or name in HIDDEN_OUTPUTS:
            continue
        got = got[..., : wanted.shape[-1]]
        limit = min(0.25, 1e5 * torch.finfo(torch.promote_types(wanted.dtype, torch.float32)).eps)
        limit = 0.25 if wanted.dtype in (torch.float16, torch.bfloat16) else max(limit, 1e-2)
        scale = (
            wanted.double().std().clamp_min(torch.finfo(torch.float64).tiny)
            if wanted.numel() > 1
            else wanted.double().abs()
        )
        off = float(((wanted.double() - got.double()).square().mean().sqrt() / scale).max())
        if not off <= limit and bool(wanted.isfinite().all()):
            raise Different(
                type(model).__name__,
                what=f"{name} is {off:.2g} of its std off after the growth; the result was not kept",
                why=f"rounding moves it by {limit:.2g} at most in {str(wanted.dtype).removeprefix('torch.')}",
                fix="report this with the plan (grow.plan)",
            )


def _verify(model: Any, grown: Any, plan: Plan, seed: int) -> Verification:
    """Both models through stock save_pretrained into a temporary folder, then the ladder on the folders."""
    rungs = LOSSY if plan.lossy else FUNCTION
    with tempfile.TemporaryDirectory(prefix="grow-verify-") as folder:
        a, b = Path(folder, "source"), Path(folder, "grown")
        save(model, a)
        save_grown(grown, plan, b, source=type(model).__name__)
        with open_checkpoint(a) as source, open_checkpoint(b) as result:
            return verify_folders(source, result, rungs=rungs, seed=seed, names=(type(model).__name__, "in memory"))
