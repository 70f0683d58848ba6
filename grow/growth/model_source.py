"""A model in memory as the source of a growth: its tensors, its config, and rows of its weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from grow.architectures import architecture_of
from grow.architectures.any_config import is_public
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.match import Match, check_duplicates, match
from grow.architectures.match_faults import Info
from grow.errors import BadInput
from grow.models.as_configured import (
    check_adapters,
    check_class,
    twin_of,
)
from grow.models.fused_experts import called
from grow.notation.dtypes import code_of
from grow.notation.origins import SourcePart
from grow.optimizer.torch_classes import refuse_sharded


class ModelSource:
    """A `PreTrainedModel` as a source of rows. It is read, never changed."""

    def __init__(self, model: Any) -> None:
        check_model(model)
        self.model = model
        self.names = called(model)
        """Name in its state dict -> in its files; None where files fuse or cut what it holds."""
        names, again = self.names or {}, tied_heads(model)
        self.state: dict[str, torch.Tensor] = {
            names.get(n, n): t for n, t in model.state_dict().items() if n not in again
        }
        """Its tensors, by the names of its files."""
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
        matched = match(architecture, self.tensors, self.path)
        check_duplicates(matched, lambda a, b: torch.equal(self.state[a], self.state[b]))
        return matched

    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray:
        rows = self.state[part.tensor].detach().reshape(part.matrix)[start:stop].cpu().contiguous()
        return _raw(rows)


def tied_heads(model: Any) -> set[str]:
    """Names in its state dict of a table that is the head, too, which a file has once."""
    head = getattr(model.get_output_embeddings(), "weight", None)
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is head]
    table = model.get_input_embeddings()
    tables = [f"{path}.weight" for path, module in model.named_modules() if module is table]
    kept = next((name for name in names if name in tables), names[0] if names else "")
    return {name for name in names if name != kept}


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


def _raw(tensor: torch.Tensor) -> np.ndarray:
    """The stored form: bfloat16 as uint16 bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
