"""The grown model in memory: a stock model of the source's class with the grown config and weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from grow.applying.tensor_rows import grow_tensor
from grow.files.json_floats import plain
from grow.models import gradient_checkpointing
from grow.models.as_configured import (
    carry_padding,
    skeleton,
)
from grow.models.fused_experts import called
from grow.notation.dtypes import RAW
from grow.notation.origins import SourcePart
from grow.planning.plan import Plan


class Rows(Protocol):
    """What has the rows of a source's weights."""

    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray: ...


def grow_state(plan: Plan, source: Rows) -> dict[str, torch.Tensor]:
    """The grown state dict on the CPU, names as in the source's."""
    result = {}
    for t in plan.tensors:
        out = np.empty(t.new_matrix, dtype=RAW[t.dtype])
        for begin, part in t.parts:

            def put(first: int, rows: np.ndarray, out: np.ndarray = out[begin:]) -> None:
                out[first : first + len(rows)] = rows

            grow_tensor(part, source.rows, put, split=plan.split, seed=plan.seed)
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
    own = {stored: name for name, stored in (called(grown) or {}).items()}
    named = {own.get(name, name): tensor for name, tensor in state.items()}
    missing, unexpected = grown.load_state_dict(named, strict=False, assign=True)
    grown.tie_weights()
    tied = set(getattr(grown, "all_tied_weights_keys", {}) or {})
    if unexpected or set(missing) - tied:
        raise AssertionError(f"the grown model misses {missing} and does not know {unexpected}")
    freeze_alike(plan, model, grown)
    carry_padding(model, grown)
    if getattr(model, "generation_config", None) is not None:
        grown.generation_config = copy.deepcopy(model.generation_config)
    if gradient_checkpointing.enabled(model):
        gradient_checkpointing.enable(grown, gradient_checkpointing.arguments(model))
    if "_require_grads_hook" in vars(model) and "_require_grads_hook" not in vars(grown):
        grown.enable_input_require_grads()
    device = next(model.parameters()).device
    return grown.to(device).train(model.training)


def freeze_alike(plan: Plan, model: Any, grown: Any) -> None:
    """What comes from a frozen parameter is frozen."""
    source, (old_names, new_names) = {t.name: t.source for t in plan.tensors}, (called(m) or {} for m in (model, grown))
    before = {old_names.get(name, name): p for name, p in model.named_parameters()}
    for name, new in grown.named_parameters():
        stored = new_names.get(name, name)
        if (old := before.get(source.get(stored, stored))) is not None:
            new.requires_grad_(old.requires_grad)
