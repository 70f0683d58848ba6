"""New layers whose branches end in a norm: its gain is the one zero factor, and what it reads is drawn."""

from __future__ import annotations

import pytest
import torch
from models import Float64, difference, inputs, load, outputs
from safetensors.torch import load_file

import grow
from grow.optimizer.dual_rule import grow_moment

EXACT = 1e-12


@pytest.mark.parametrize("variant", ["gemma2", "glm4", "olmo2", "exaone4"])
def test_a_new_layer_learns_on_coordinates_that_are_new_too(variant, tiny, tmp_path):
    old = grow.plan(tiny(variant), "2x").sizes
    to = {"hidden": old["hidden"] + old["heads"], "layers": old["layers"] + 1}
    grown = grow.widen(tiny(variant), to, out=tmp_path / "grown", verify=False, dtype="float64")
    assert difference(outputs(tiny(variant)), outputs(tmp_path / "grown")) <= EXACT
    found = grow.verify(tiny(variant), tmp_path / "grown", rungs=["certificate", "trainability"])
    check = found.check("trainability")
    assert (check.status, check.measured["dead"], check.measured["twins"]) == ("pass", 0, 0), check.reason
    weights, (new,) = (
        load_file(tmp_path / "grown" / "model.safetensors"),
        [layer for layer, inserted in enumerate(grown.plan.change.depth.inserted) if inserted],
    )
    kept = (new + 1) % (old["layers"] + 1)
    for layer, silent in ((new, False), (kept, True)):
        written = weights[f"model.layers.{layer}.self_attn.o_proj.weight"][old["hidden"] :]
        assert bool((written == 0).all()) == silent
    gains = [t for t in grown.plan.tensors if t.name.startswith(f"model.layers.{new}.") and t.signature.dims[0].behind]
    assert len(gains) == 2
    for t in gains:
        assert torch.equal(weights[t.name] + t.offset, torch.zeros_like(weights[t.name]))


@pytest.mark.parametrize("variant", ["gemma2", "glm4", "olmo2"])
def test_the_gradient_of_a_gain_behind_a_branch_is_what_its_moments_grow_by(variant, tiny, tmp_path):
    sizes = grow.plan(tiny(variant), "2x").sizes
    to = {"hidden": sizes["hidden"] + sizes["heads"]}
    plan = grow.widen(tiny(variant), to, out=tmp_path / "grown", verify=False, dtype="float64").plan
    old, new = (gradients(folder) for folder in (tiny(variant), tmp_path / "grown"))
    gains = [t for t in plan.tensors if t.signature.dims[0].behind]
    assert gains
    for t in gains:
        wanted = grow_moment(t, old[t.source], 1)
        kept = torch.from_numpy(t.maps[0].source >= 0)
        assert (new[t.name] - wanted)[kept].abs().max() <= EXACT * wanted.abs().max(), t.name


def gradients(folder) -> dict[str, torch.Tensor]:
    """Of a fixed function of the logits, in true float64."""
    with Float64():
        model = load(folder)
        logits = model(**inputs(model.config, 17)).logits
        weigh = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        (logits * weigh).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
