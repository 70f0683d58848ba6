"""Sources of three layers and their outputs, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import pytest
import torch
from deeper import N
from models import VARIANTS, outputs

import grow
from grow.architectures.layer_lists import expanded

FIELD = {"gpt2": "n_layer", "distilbert": "n_layers"}


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Callable[..., Path]:
    """`deep("llama", "bfloat16")`: a random checkpoint of a variant with `N` layers, made once per worker."""
    made: dict[tuple, Path] = {}

    def get(variant: str, dtype: str = "float32") -> Path:
        if (variant, dtype) not in made:
            kind, _, fields, _ = VARIANTS[variant]
            deeper = {FIELD.get(kind, "num_hidden_layers"): N}
            axes, follows = grow.families[kind].axes, grow.families[kind].follows
            deeper |= {axes[axis]: N for axis, other in follows.items() if other == "layers" and axes[axis] in fields}
            for name in (
                listed.field for listed in grow.families[kind].layer_lists if type(fields.get(listed.field)) is list
            ):
                deeper[name] = [fields[name][i % len(fields[name])] for i in range(N)]
            for listed in grow.families[kind].layer_lists:
                for name in listed.said_too:
                    entries = expanded(fields[name])
                    deeper |= listed.otherwise([entries[i % len(entries)] for i in range(N)])
            made[variant, dtype] = models.save(variant, tmp_path_factory.mktemp("deep") / variant, dtype, **deeper)
        return made[variant, dtype]

    return get


@pytest.fixture(scope="session")
def expected(deep) -> Callable[..., dict[str, torch.Tensor]]:
    """The outputs of a source, computed once per worker."""
    known: dict[tuple, dict[str, torch.Tensor]] = {}

    def get(variant: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
        if (variant, dtype) not in known:
            known[variant, dtype] = outputs(deep(variant, dtype), VARIANTS[variant].lengths)
        return known[variant, dtype]

    return get
