"""Parameters of stock classes and tensors of files: which is which, before and after a growth. No weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from grow.errors import Refused
from grow.plan import Plan
from grow.tensors import TensorPlan
from grow.verify.experts import fused
from grow.verify.float64 import LOCAL, model_class, quiet


def bare_model(folder: Path, config: Mapping[str, Any] | None = None) -> Any:
    """The stock model of a folder on the meta device: names, shapes and ties. `config` in place of its own."""
    with quiet():
        kind = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        if config is not None:
            kind = type(kind).from_dict(json.loads(json.dumps(dict(config))))
        with torch.device("meta"):
            return model_class(folder)(kind)


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape; a tied table is there once."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def spellings(model: Any, name: str) -> tuple[str, str, str]:
    """A base model's files have no prefix, those of a model with a head do; stock loading reads both."""
    prefix = model.base_model_prefix + "."
    return name, name.removeprefix(prefix), prefix + name


def refuse_experts(model: Any) -> None:
    """Refused where a parameter holds a matrix per expert."""
    if stacks := fused(model):
        raise Refused(
            f"state of {stacks[0]}",
            what="is of experts",
            why="stock classes fuse experts in memory and the files hold them one by one, so what an optimizer "
            "remembers has the shape of neither",
            fix="--state drop",
        )


def pairs(plan: Plan, model: Any, grown: Any) -> Iterator[tuple[str, TensorPlan, str]]:
    """(parameter, tensor of the growth, parameter that it became); both models may be on the meta device.

    Refused for a parameter that no tensor of the files is known to be.
    """
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    made: dict[str, list[TensorPlan]] = {}
    for t in plan.tensors:
        made.setdefault(t.source, []).append(t)
    new = dict(grown.named_parameters(remove_duplicate=False))
    chosen = {id(p): name for name, p in grown.named_parameters()}
    for name, p in model.named_parameters():
        spelled = dict.fromkeys(s for alias in names[id(p)] for s in spellings(model, alias))
        found = [t for s in spelled for t in made.get(s, ())]
        seen = set()
        for t in found:
            there = next((s for n in (t.name, t.canonical) for s in spellings(grown, n) if s in new), None)
            if there is None or tuple(new[there].shape) != t.new_shape:
                raise _unknown(name, f"{t.name} of the growth is no parameter of {type(grown).__name__}")
            if id(new[there]) not in seen:  # a tied table may be stored under two names
                seen.add(id(new[there]))
                yield name, t, chosen[id(new[there])]
        if not found:
            raise _unknown(name, f"no tensor of the files has the name of this parameter of {type(model).__name__}")


def _unknown(name: str, what: str) -> Refused:
    return Refused(
        f"state of {name}", what=what, why="moments grow with the weight that they belong to", fix="--state drop"
    )
