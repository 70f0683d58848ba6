"""A model and its optimizer grown in place, so that every loop that holds them goes on.

The grown model and optimizer are made and checked as `grow.widen` does it; then the old objects take over the contents
of the new ones, in one assignment each. A refusal or failure before that leaves both as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from grow.api import widen
from grow.errors import BadInput, Refused
from grow.growth.model_source import ModelSource, check_model
from grow.growth.results import Growth
from grow.growth.written_and_verified import Different
from grow.integrations.updates import NewEntryUpdates, bare
from grow.models.as_configured import bare_object, twin_of
from grow.models.differences_from_config import HOOKS, hooked
from grow.models.same_outputs import check_runs_alike, outputs

# RMS of the difference of the outputs, over their std. Measured for `small` and `small-gpt2`: 4e-7 in float32, where
# only summation order differs, and 4e-3 in bfloat16, whose 2^-9 per number add up over the layers.
LIMIT = {torch.float64: 1e-4, torch.float32: 1e-4}
NARROW = 5e-2


def grow_in_place(
    model: Any,
    to: Any,
    *,
    optimizer: Any = None,
    state: str = "fresh-new",
    batch: Mapping[str, Any] | None = None,
    verify: bool = True,
    **options: Any,
) -> Growth:
    """`grow.widen` of a model in memory, after which `model` and `optimizer` are the grown ones: the same objects.

    model      a plain `PreTrainedModel` (`accelerator.unwrap_model(model)`), without gradients: grow after
               `optimizer.step()` and `zero_grad()`
    optimizer  every optimizer of the model: one or a list, torch's or Accelerate's. Schedulers go on as they are
    state      what becomes of the optimizer state, as in `grow.widen`
    batch      inputs of the model: both models must answer them alike before anything changes
    verify     run the whole ladder too, as `grow.widen` does
    options    those of `grow.widen`: place, fill, method, split, seed, …

    Parameters are new objects: code that kept some (an average of weights, a hook) has to get them from the model
    again. Returns the `Growth`, whose model and optimizer are those given. Raises BadInput, Refused, and Different
    where the grown model computes something else; model and optimizer are then as they were.
    """
    wrapped = [] if optimizer is None else list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    bares = [bare(one) for one in wrapped]
    check_in_place(model, bares)
    with bare_object(model):
        growth = widen(model, to, optimizer=bares or None, state=state, verify=verify, **options)
        if batch is not None:
            check_runs_alike(model, twin_of(model, ModelSource(model).config), batch)
    if type(growth.model) is not type(model):
        raise Refused(
            type(model).__name__,
            what=f"would become a {type(growth.model).__name__}",
            why="an object keeps its class",
            fix="grow.upcycle, and a new loop for the result",
        )
    if not growth.plan.lossy:
        _check_same(growth, model, batch)
    _become(model, growth.model)
    for one, new in zip(bares, growth.optimizer or ()):
        _continue(one, new)
    return replace(growth, model=model, optimizer=optimizer)


def check_in_place(model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Refused or BadInput where something else holds on to the model's parts; nothing is changed."""
    check_model(model)
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise Refused(
            "a growth in place",
            what=f"runs on one process, got {torch.distributed.get_world_size()}",
            why="DDP, FSDP and DeepSpeed keep buffers of the old parameters",
            fix="save a checkpoint, grow.widen(it, …), and start the processes from the result",
        )
    for name, module in model.named_modules():
        where = name or type(model).__name__
        if getattr(module, "_compiled_call_impl", None) is not None:
            why = "its code was compiled for the old shapes"
            raise Refused(where, what="is compiled", why=why, fix="compile after growing")
        if hasattr(module, "_hf_hook"):
            why = "accelerate's hooks move the old weights between devices"
            raise Refused(where, what="is dispatched (device_map)", why=why, fix="load the model on one device")
        if name and (kind := hooked(module)):
            raise _kept(f"{where}: {kind}")
    for name, p in model.named_parameters():
        if getattr(p, "_backward_hooks", None) or getattr(p, "_post_accumulate_grad_hooks", None):
            raise _kept(f"{name}: a hook on its gradient")
        if p.grad is not None and p.grad.any():
            raise BadInput(
                name,
                what="has a gradient",
                why="gradients of the old shapes would be lost",
                fix="grow after optimizer.step() and zero_grad(), not between micro-batches",
            )
    for one in optimizers:
        _check_optimizer(one)


def _kept(where: str) -> Refused:
    why = "parts of the model become new objects, and a hook would stay with the old ones"
    return Refused(
        where, what="would be lost", why=why, fix="remove it before growing and register it again afterwards"
    )


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refused where an optimizer keeps parameters outside its groups."""
    for key, value in vars(optimizer).items():
        items = value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
        if any(isinstance(getattr(item, "__self__", None), NewEntryUpdates) for item in items):
            raise Refused(
                "NewEntryUpdates",
                what="would be lost",
                why="its masks belong to the model before the growth",
                fix="call updates.remove() before growing, and make new ones with the Growth",
            )
        if key not in ("param_groups", "state") and any(isinstance(item, nn.Parameter) for item in items):
            raise Refused(
                f"optimizer {type(optimizer).__qualname__}: {key}",
                what="holds parameters",
                why="they would belong to the model before the growth",
                fix="grow.widen(model, …), and a new optimizer for its result",
            )


def _check_same(growth: Growth, model: Any, batch: Mapping[str, Any] | None) -> None:
    verification = growth.verification
    why = next((f"{r.name}: {r.reason}" for r in verification.checks if r.status == "fail"), "") if verification else ""
    if verification and not verification.sound:
        raise _different(model, f"{verification.verdict} after the growth", why or "no rung could run")
    if batch is not None:
        apart, limit = rms_apart(model, growth.model, batch), LIMIT.get(model.dtype, NARROW)
        if not apart <= limit:
            raise _different(
                model,
                f"other outputs after the growth, {apart:.2g} of their std on a batch (RMS)",
                f"a lossless growth changes them by {limit:.2g} at most in {str(model.dtype).removeprefix('torch.')}",
            )


def _different(model: Any, what: str, why: str) -> Different:
    fix = "report this with the plan (grow.plan); the model and its optimizer are as they were"
    return Different(type(model).__name__, what=what, why=why, fix=fix)


@torch.no_grad()
def rms_apart(model: Any, grown: Any, batch: Mapping[str, Any]) -> float:
    """The largest RMS difference of any output, over its std in `model`; appended tokens do not count."""
    old, new = (outputs(one, batch) for one in (model, grown))
    worst = 0.0
    for name, before in old.items():
        after = new[name][..., : before.shape[-1]]
        if before.shape != after.shape:
            return float("inf")
        scale = before.double().std().clamp_min(torch.finfo(torch.float64).tiny)
        error = float((before.double() - after.double()).square().mean().sqrt() / scale)
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _become(model: nn.Module, grown: nn.Module) -> None:
    """Give `model` the contents of `grown`. It keeps its own hooks and what others have set on it, such as the
    forward with which Accelerate computes in mixed precision."""
    own, new = vars(model), vars(grown)
    kept = {k: v for k, v in own.items() if k not in new or k in HOOKS or k == "name_or_path"}
    kept.pop("_output_capturing_hooks_installed", None)
    object.__setattr__(model, "__dict__", {**new, **kept})


def _continue(optimizer: torch.optim.Optimizer, new: torch.optim.Optimizer) -> None:
    """Give the optimizer the state of the new one; its groups stay the dictionaries that schedulers write to."""
    for group, made in zip(optimizer.param_groups, new.param_groups):
        group |= {k: made[k] for k in ("params", "param_names") if k in made}
    optimizer.state.clear()
    optimizer.state.update(new.state)
