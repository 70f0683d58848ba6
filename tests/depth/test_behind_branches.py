"""New layers whose branches end in a norm: its gain is the one zero factor, and what it reads is drawn."""

from __future__ import annotations

import pytest
import torch
from models import difference, outputs
from safetensors.torch import load_file

import grow

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
