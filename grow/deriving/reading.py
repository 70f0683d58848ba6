"""Who reads what in a forward pass: which module reads a norm's output, and which the residual stream itself.

What is seen here only says which value of a fact is tried first; growth decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from grow.deriving.tiny_models import TinyModel, answers


@dataclass
class Reads:
    """Modules in the order in which they ran.

    source  module -> the norm whose output it reads, "" where it reads something else
    norms   norms in order, and whether a module reads their output as it is
    """

    order: list[str] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)
    norms: dict[str, bool] = field(default_factory=dict)


def is_norm(module: torch.nn.Module) -> bool:
    """Whether a module is a norm: it has a 1-D weight (or none) and a name that says so."""
    name = type(module).__name__.lower()
    weight = getattr(module, "weight", None)
    return "norm" in name and not list(module.children()) and (weight is None or weight.ndim == 1)


def traced(tiny: TinyModel) -> Reads:
    """One forward pass of the tiny model, watched."""
    model = tiny.model()
    reads = Reads()
    kept: list[torch.Tensor] = []
    made: dict[int, str] = {}

    def watch(name: str, norm: bool) -> Any:
        def hook(module: Any, given: Any, named: Any, result: Any) -> None:
            first = next(_tensors((*given, *named.values())), None)
            out = next(_tensors((result,)), None)
            if first is None or out is None or name in reads.source:
                return
            reads.order.append(name)
            source = made.get(first.data_ptr(), "")
            reads.source[name] = source
            if source and source in reads.norms:
                reads.norms[source] = True
            kept.extend((first, out))
            if norm:
                made[out.data_ptr()] = name
                reads.norms.setdefault(name, False)
            elif out.data_ptr() != first.data_ptr():
                made.pop(out.data_ptr(), None)

        return hook

    handles = [
        module.register_forward_hook(watch(name, is_norm(module)), with_kwargs=True)
        for name, module in model.named_modules()
        if is_norm(module) or isinstance(getattr(module, "weight", None), torch.nn.Parameter)
    ]
    try:
        answers(model, tiny.batches[:1])
    finally:
        for handle in handles:
            handle.remove()
    return reads


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
