"""Experts of a model in memory and in files: which parameters are fused, and what files call them.

mlp.experts.gate_up_proj  (experts, 2·ffn, hidden)   ->   mlp.experts.{e}.gate_proj.weight  (ffn, hidden), …
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def fused(model: Any) -> list[str]:
    """The parameters that hold a matrix per expert."""
    return [name for name, p in model.named_parameters() if p.ndim == 3]


def in_files(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of parameters under the names and in the shapes that `save_pretrained` writes.

    Unchanged for a model without experts; there names are compared by their endings.
    """
    if not fused(model):
        return dict(tensors)
    from transformers.core_model_loading import revert_weight_conversion

    stored: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(tensors))
    return stored


def file_names(model: Any, parameter: str) -> list[str]:
    """What the files call a parameter, one name per expert; its own name in a model without experts."""
    if not fused(model):
        return [parameter]
    fused_parameter = model.get_parameter(parameter)
    return list(in_files(model, {parameter: torch.empty(fused_parameter.shape, device="meta")}))


@contextlib.contextmanager
def asked(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """While it is open: fused parameter -> (experts, 1, 1), in how many forward passes an expert had a token."""
    owners: dict[str, list[str]] = {}
    for name in fused(model):
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    seen = {name: torch.zeros(model.get_parameter(name).shape[0], 1, 1, dtype=torch.int64) for name in fused(model)}

    def watch(names: list[str]) -> Any:
        def hook(module: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            for value in (*given, *named.values()):
                if isinstance(value, torch.Tensor) and not value.is_floating_point():
                    for name in names:
                        seen[name][value.unique()] += 1
                    return  # what the experts are, comes first; masks and positions may follow

        return hook

    hooks = [
        model.get_submodule(owner).register_forward_pre_hook(watch(names), with_kwargs=True)
        for owner, names in owners.items()
    ]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()
