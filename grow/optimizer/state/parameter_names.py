"""Which parameter of a stock class is which tensor of the files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from grow.applying.fused import layout, names_of, spellings, wholes
from grow.errors import Refused
from grow.models.true_float64 import LOCAL, model_class, quiet
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan
from grow.spelling import option


def bare_model(folder: Path, config: Mapping[str, Any] | None = None) -> Any:
    """The stock model of a folder on the meta device: names, shapes and ties. `config` replaces its own."""
    with quiet():
        kind, cls = transformers.AutoConfig.from_pretrained(folder, **LOCAL), model_class(folder)
        if config is not None:
            made = config.get("model_type", kind.model_type)
            if made != kind.model_type:  # a dense model that was given experts
                kind, cls = transformers.AutoConfig.for_model(made), getattr(transformers, config["architectures"][0])
            kind = type(kind).from_dict(json.loads(json.dumps(dict(config))))
        with torch.device("meta"):
            return cls(kind)


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape; a tied table appears once."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def places(model: Any) -> dict[str, tuple[str, int]]:
    """Tensor of the files -> (the parameter that holds it, its first row there, see `grow.applying.fused`)."""
    located: dict[str, tuple[str, int]] = {}
    aliases, named = names_of(model), dict(model.named_parameters())
    for name, slabs in layout(model).items():
        for slab in slabs:
            called = (slab.name, *aliases[id(named[name])]) if len(slabs) == 1 else (slab.name,)
            located |= {s: (name, slab.first) for n in called for s in spellings(model, n)}
    return located


def pairs(plan: Plan, model: Any, grown: Any) -> Iterator[tuple[str, TensorPlan, str]]:
    """(parameter, its growth, parameter that it became); both models may be on the meta device.

    Where experts are made of an FFN, the parameter is the first that is read.
    Refused where no tensor of the files is known to be a parameter.
    """
    by_name: dict[str, TensorPlan] = {}
    for made in plan.tensors:
        by_name |= {made.canonical: made, made.name: made}
    there, read = places(model), set()
    for new, _, t in wholes(grown, by_name):
        if t is None:
            raise _unknown(new, f"no tensor of the growth is this parameter of {type(grown).__name__}")
        sources = [there.get(part.source, ("", 0))[0] for _, part in t.parts]
        if "" in sources:
            raise _unknown(new, f"it grew from no parameter of {type(model).__name__}")
        read.update(sources)
        yield sources[0], t, new
    for name in shapes(model):
        if name not in read:
            raise _unknown(name, f"no tensor of the files has the name of this parameter of {type(model).__name__}")


def _unknown(name: str, what: str) -> Refused:
    return Refused(
        f"state of {name}", what=what, why="moments grow with the weight that they belong to", fix=option(state="drop")
    )
