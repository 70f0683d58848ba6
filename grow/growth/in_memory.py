"""The growth of a model in memory, from state dict to state dict.

Its optimizers can grow along, see `grow.optimizer.torch_classes`.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from grow.applying.tensor_rows import grow_tensor
from grow.architectures import architecture_of
from grow.architectures.any_config import is_public
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.match import Match, check_duplicates, match
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused
from grow.files.json_floats import plain
from grow.files.writer import write_json
from grow.growth.file_options import FileOptions
from grow.growth.from_files import plan_files, widen_files
from grow.growth.results import Growth
from grow.growth.written_and_verified import Different
from grow.models import gradient_checkpointing
from grow.models.as_configured import (
    carry_padding,
    check_adapters,
    check_class,
    check_runs_alike,
    outputs,
    skeleton,
    tokens_for,
    twin_of,
)
from grow.models.experts import fused
from grow.models.true_float64 import LOCAL, model_class, quiet
from grow.notation.dtypes import RAW, code_of
from grow.optimizer.dual_rule import POLICIES
from grow.optimizer.torch_classes import check_optimizers, grow_optimizers, refuse_sharded
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import Plan, plan_for
from grow.planning.record import NAME, record_of
from grow.planning.tensor import TensorPlan
from grow.verification.ladder import verify_folders
from grow.verification.outputs.compare import HIDDEN_OUTPUTS
from grow.verification.rungs import FUNCTION, LOSSY
from grow.version import __version__


@dataclass(frozen=True)
class Info:
    dtype: str
    shape: tuple[int, ...]


class ModelSource:
    """A `PreTrainedModel` as a source of rows. It is read, never changed."""

    def __init__(self, model: Any) -> None:
        check_model(model)
        self.model = model
        self.state: dict[str, torch.Tensor] = model.state_dict()
        self.config: dict[str, Any] = json.loads(model.config.to_json_string())
        self.config["architectures"] = [type(model).__name__]
        self.config = {k: v for k, v in self.config.items() if is_public(k)}
        self.path = type(model).__name__
        self.notes: tuple[str, ...] = ()
        """What `checked` found that is not a fault."""

    @property
    def tensors(self) -> dict[str, Info]:
        """Name -> dtype and shape, as a checkpoint has them."""
        return {name: Info(code_of(t.dtype) or str(t.dtype), tuple(t.shape)) for name, t in self.state.items()}

    def checked(self) -> tuple[Architecture, Any]:
        """Its family read with its config, and what stock code builds from the two. Refused where it differs."""
        architecture = architecture_of(self.config)
        self.notes = check_fields(architecture)
        meta = [name for name, tensor in self.state.items() if tensor.is_meta]
        if meta:
            raise BadInput(
                meta[0],
                what="has no data (meta device)",
                why="there is nothing to grow",
                fix="load the weights first",
            )
        return architecture, twin_of(self.model, self.config)

    def matched(self) -> Match:
        architecture, _ = self.checked()
        found = match(architecture, self.tensors, self.path)
        check_duplicates(found, lambda a, b: torch.equal(self.state[a], self.state[b]))
        return found

    def rows(self, t: TensorPlan, start: int, stop: int) -> np.ndarray:
        part = self.state[t.source].detach()[start:stop].cpu().contiguous()
        return _raw(part).reshape(stop - start, -1)


def widen_model(
    model: Any, to: Any, options: GrowthOptions, *, verify: bool, optimizer: Any = None, state: str | None = None
):
    """`grow.widen` for a model in memory: a `Growth` whose `.model` is new, on the source's device and in its mode."""
    started, state = time.monotonic(), state or POLICIES[0]
    source = ModelSource(model)
    if fused(model) or options.upcycling:
        if optimizer is not None:
            raise Refused(
                "optimizer",
                what="given for a model with experts",
                why="stock classes fuse experts in memory, so such a model grows through files, and its optimizer's "
                "state where a checkpoint has it",
                fix="grow.widen(the checkpoint's folder, …), or a new optimizer for grown.model.parameters()",
            )
        _, twin = source.checked()
        if verify:
            check_runs_alike(model, twin)
        return _through_files(model, to, options, verify=verify)
    check_optimizers(optimizer, state, model)
    found = source.matched()
    if verify:
        check_runs_alike(model, twin_of(model, source.config))
    plan = plan_for(found, to, options)
    if plan.lossy and optimizer is not None:
        raise BadInput(
            "optimizer",
            what=f"given for {plan.method}, which is not exact here",
            why="gradients of a function that changed are not those that its moments were made of",
            fix="a new optimizer for grown.model",
        )
    grown = build(plan, model, grow_state(plan, source))
    new = None if optimizer is None else grow_optimizers(optimizer, state, plan, model, grown)
    verification = _verify(model, grown, plan, options.seed) if verify else None
    if verify:
        check_answers(plan, model, grown)
    notes = (*source.notes, *plan.notes)
    return Growth(plan, None, grown, verification, time.monotonic() - started, notes, new)


def plan_model(model: Any, to: Any, options: GrowthOptions) -> Plan:
    """`grow.plan` for a model in memory."""
    source = ModelSource(model)
    if not fused(model):
        found = plan_for(source.matched(), to, options)
        return replace(found, notes=(*source.notes, *found.notes))
    source.checked()
    with tempfile.TemporaryDirectory(prefix="grow-memory-") as folder:
        _save(model, Path(folder))
        found = plan_files(folder, to, options, FileOptions())
        return replace(found, notes=(*source.notes, *found.notes))


def _through_files(model: Any, to: Any, options: GrowthOptions, *, verify: bool):
    """Stock classes fuse experts in memory and the files hold them one by one, so the growth goes through files."""
    with tempfile.TemporaryDirectory(prefix="grow-memory-") as folder:
        source, out = Path(folder, "source"), Path(folder, "grown")
        _save(model, source)
        growth = widen_files(source, to, options, FileOptions(out=out, verify=verify))
        with quiet():
            kernel = model.config._attn_implementation
            grown = model_class(out).from_pretrained(  # type: ignore[attr-defined]
                out, dtype="auto", attn_implementation=kernel, **LOCAL
            )
    _freeze_alike(growth.plan, model, grown)
    if fused(model):
        grown.set_experts_implementation(model.config._experts_implementation)
    carry_padding(model, grown)
    if verify:
        check_answers(growth.plan, model, grown)
    device = next(model.parameters()).device
    return replace(growth, path=None, model=grown.to(device).train(model.training))


def _save(model: Any, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)


def grow_state(plan: Plan, source: ModelSource) -> dict[str, torch.Tensor]:
    """The grown state dict on the CPU, names as in the source's."""
    result = {}
    for t in plan.tensors:
        out = np.empty((t.new_shape[0], int(np.prod(t.new_shape[1:], dtype=np.int64))), dtype=RAW[t.dtype])

        def put(first: int, rows: np.ndarray, out: np.ndarray = out) -> None:
            out[first : first + len(rows)] = rows

        above = partial(source.rows, replace(t, source=t.above)) if t.above else None
        grow_tensor(t, partial(source.rows, t), put, split=plan.split, seed=plan.seed, read_above=above)
        tensor = torch.from_numpy(out.reshape(t.new_shape))
        result[t.name] = tensor.view(torch.bfloat16) if t.dtype == "BF16" else tensor
    return result


def build(plan: Plan, model: Any, state: Mapping[str, torch.Tensor]) -> Any:
    """A model of the source's class with the grown config and weights; tied tables are tied again.

    What a training loop has set comes along: mode, frozen parameters (inserted layers are frozen where the layer they
    took their weights from is), gradient checkpointing, generation config. The random state stays as it was.
    """
    config = type(model.config).from_dict(plain(dict(plan.new_config)))
    config._attn_implementation = model.config._attn_implementation
    grown = skeleton(type(model), config)
    # not .to(dtype), which would round RoPE's frequencies: weights bring their dtype, buffers have the source's
    buffers = dict(model.named_buffers())
    for name, buffer in grown.named_buffers():
        if buffer.is_floating_point() and name in buffers:
            buffer.data = buffer.data.to(buffers[name].dtype)
    missing, unexpected = grown.load_state_dict(dict(state), strict=False, assign=True)
    grown.tie_weights()
    tied = set(getattr(grown, "all_tied_weights_keys", {}) or {})
    if unexpected or set(missing) - tied:
        raise AssertionError(f"the grown model misses {missing} and does not know {unexpected}")
    _freeze_alike(plan, model, grown)
    carry_padding(model, grown)
    if getattr(model, "generation_config", None) is not None:
        grown.generation_config = copy.deepcopy(model.generation_config)
    if gradient_checkpointing.enabled(model):
        gradient_checkpointing.enable(grown, gradient_checkpointing.arguments(model))
    if "_require_grads_hook" in vars(model) and "_require_grads_hook" not in vars(grown):
        grown.enable_input_require_grads()
    device = next(model.parameters()).device
    return grown.to(device).train(model.training)


def _freeze_alike(plan: Plan, model: Any, grown: Any) -> None:
    """What comes from a frozen parameter is frozen."""
    source, before = {t.name: t.source for t in plan.tensors}, dict(model.named_parameters())
    for name, new in grown.named_parameters():
        if (old := before.get(source.get(name, name))) is not None:
            new.requires_grad_(old.requires_grad)


def check_answers(plan: Plan, model: Any, grown: Any) -> None:
    """Different where two models in memory answer a few tokens otherwise, in the dtype they have.

    Their bits differ by the order of sums, which layers amplify: what is proved is proved in float64, of what both are
    saved as. This is for what only the object has, and off by more than any rounding.
    """
    if plan.lossy:
        return
    batch = {k: v.to(next(model.parameters()).device) for k, v in tokens_for(model).items()}
    old, new = outputs(model, batch), outputs(grown.to(next(model.parameters()).device), batch)
    for name, x in old.items():
        y = new.get(name)
        if y is None or name in HIDDEN_OUTPUTS:
            continue
        y = y[..., : x.shape[-1]]
        limit = min(0.25, 1e5 * torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps)
        limit = 0.25 if x.dtype in (torch.float16, torch.bfloat16) else max(limit, 1e-2)
        scale = x.double().std().clamp_min(torch.finfo(torch.float64).tiny) if x.numel() > 1 else x.double().abs()
        off = float(((x.double() - y.double()).square().mean().sqrt() / scale).max())
        if not off <= limit and bool(x.isfinite().all()):
            raise Different(
                type(model).__name__,
                what=f"{name} is {off:.2g} of its std off after the growth; the result was not kept",
                why=f"rounding moves it by {limit:.2g} at most in {str(x.dtype).removeprefix('torch.')}",
                fix="report this with the plan (grow.plan)",
            )


def check_model(model: Any) -> None:
    """BadInput for what wraps a model, Refused for one that is sharded or has adapters."""
    check_adapters(model)
    if not isinstance(model, PreTrainedModel):
        named = model.named_modules() if isinstance(model, torch.nn.Module) else ()
        inner = next((name for name, part in named if isinstance(part, PreTrainedModel)), "")
        raise BadInput(
            f"a {type(model).__name__}",
            what="is not a transformers.PreTrainedModel",
            why="a wrapper renames parameters and has no config of its own to grow",
            fix=f"pass what it wraps: model.{inner}; wrap the result"
            if inner
            else "pass what it wraps: model.module (DataParallel), model._orig_mod (torch.compile); wrap the result",
        )
    refuse_sharded(model)
    check_class(model)


def _verify(model: Any, grown: Any, plan: Plan, seed: int):
    """Both models through stock save_pretrained into a temporary folder, then the ladder on the folders."""
    rungs = LOSSY if plan.lossy else FUNCTION
    with tempfile.TemporaryDirectory(prefix="grow-verify-") as folder:
        a, b = Path(folder, "source"), Path(folder, "grown")
        _save(model, a)
        _save(grown, b)
        with open_checkpoint(b) as saved:
            digests = {name: saved.sha256(info) for name, info in saved.tensors.items()}
        write_json(b / NAME, record_of(plan, source=type(model).__name__, version=__version__, tensors=digests))
        with open_checkpoint(a) as source, open_checkpoint(b) as result:
            return verify_folders(source, result, rungs=rungs, seed=seed, names=(type(model).__name__, "in memory"))


def _raw(tensor: torch.Tensor) -> np.ndarray:
    """The stored form: bfloat16 as uint16 bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
