"""Experts of a model in memory and in files: which parameters are fused, and what files call them.

mlp.experts.gate_up_proj  (experts, 2·ffn, hidden)   ->   mlp.experts.{e}.gate_proj.weight  (ffn, hidden), …
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.modules.conv import _ConvNd

from grow.architectures import known_architecture


def fused(model: Any) -> list[str]:
    """The parameters that hold a matrix per expert.

    A family's table says whether there are experts; of a model that no family knows, kernels and tables that are there
    once are told from their stacks by their modules and shapes.
    """
    known = known_architecture(model.config.to_dict())
    if known is not None and known.family.experts is None:
        return []
    shaped = (name for name, p in model.named_parameters() if p.ndim == 3 and len(p) > 1)
    stacks = (name for name in shaped if ".parametrizations." not in name)
    return [name for name in stacks if not isinstance(model.get_submodule(name.rpartition(".")[0]), _ConvNd)]


def in_files(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of parameters under the names and in the shapes that `save_pretrained` writes.

    Prefixes of the base model are left as they are: names are compared by their endings.
    """
    from transformers.core_model_loading import revert_weight_conversion

    stored: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(tensors))
    return stored


def called(model: Any) -> dict[str, str] | None:
    """Name in the state dict -> what files call it; None where they hold another number of tensors, fused or cut."""
    if fused(model):
        return None
    names = list(model.state_dict())
    stored = in_files(model, {name: torch.tensor([k]) for k, name in enumerate(names)})
    if len(stored) != len(names) or any(len(number) != 1 for number in stored.values()):
        return None
    return {names[int(number)]: name for name, number in stored.items()}


def file_names(model: Any, parameter: str) -> list[str]:
    """What the files call a parameter, one name per expert."""
    return list(in_files(model, {parameter: torch.empty(model.get_parameter(parameter).shape, device="meta")}))


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
