"""Models whose layers keep a state grow in memory, and the state of an optimizer with them."""

from __future__ import annotations

import models
import pytest
import torch

import grow
from grow.models.fused_experts import called
from grow.models.same_outputs import tokens_for
from grow.optimizer.dual_rule import grow_moment

# Copies of all units, so that every number of the grown model has an old one.
TO = {
    "mamba": {"hidden": 36, "inner": 72, "dt_rank": 6},
    "falcon_mamba": {"hidden": 36, "inner": 72, "dt_rank": 6},
    "lfm2": {"hidden": 36, "ffn": 56},
}
EXACT = 1e-12


def backward(model: torch.nn.Module) -> None:
    model(**tokens_for(model)).logits.square().mean().backward()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    with models.Float64():  # norms and states are computed in float32 elsewhere
        backward(model)
    return {called(model)[name]: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("variant", TO)
def test_gradients_grow_by_gamma(variant):
    model = models.make(variant).double()
    units = dict.fromkeys(TO[variant].keys() | ({"inner"} if variant == "lfm2" else set()), "copies")
    growth = grow.widen(model, TO[variant], operators=units, split="even", verify=False)
    old, new = gradients(model), gradients(growth.model)
    for t in (t for t in growth.plan.tensors if t.name in new):
        wanted = grow_moment(t, old[t.source], 1)
        assert float((new[t.name] - wanted).abs().max()) <= EXACT * float(wanted.abs().max()), t.name


@pytest.mark.parametrize("variant", TO)
def test_a_model_in_memory_and_its_optimizer_grow(variant):
    model = models.make(variant)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    backward(model)
    optimizer.step()
    grown = grow.widen(model, {"hidden": 24, "layers": 4, "vocab": 43}, optimizer=optimizer)
    assert grown.verification.verdict == "lossless"
    assert len(grown.optimizer.state) == len(list(grown.model.parameters()))
    backward(grown.model)
    grown.optimizer.step()
