"""The whole way on tiny models, once each: a growth by every operator, a verification, a step of training.

For `make quick`, which wants something of everything. What is claimed of it is tested in the other files.
"""

from __future__ import annotations

import math

import pytest
import tiny as files
import torch
from drawn_targets import EXACT
from models import difference, outputs
from training import QUICK, curve, same, tokens, weights

import grow
from grow.notation.operators import OPERATORS

pytestmark = pytest.mark.quick

# operator -> where it grows what: the variant, the target, and the axis that it is chosen for
GROWTHS = {
    "copies": ("llama-tied", {"hidden": 54, "ffn": 43}, "hidden"),
    "silent": ("llama-tied", {"hidden": 30, "heads": 10}, "hidden"),
    "mean": ("gpt2", {"hidden": 21, "ffn": 53}, "hidden"),
    "unread": ("llama", {"ffn": 45}, "ffn"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_grows_a_model_with_the_same_outputs(operator, tiny, tmp_path):
    variant, target, axis = GROWTHS[operator]
    source = tiny(variant, "float64")
    made = grow.widen(source, target, out=tmp_path / "g", operators={axis: operator}, verify=False)
    assert operator in {m.operator for t in made.plan.tensors for m in t.maps if m is not None}
    assert difference(outputs(source), outputs(made.path)) < EXACT


def test_layers_and_experts_grow_too(tiny, tmp_path):
    source = tiny("llama-tied", "float64")
    deeper = grow.deepen(source, 5, out=tmp_path / "deeper", verify=False).path
    assert difference(outputs(source), outputs(deeper)) < EXACT
    wider = grow.upcycle(source, 4, out=tmp_path / "experts", verify=False).path
    assert difference(outputs(source), outputs(wider)) < EXACT


def test_every_rung_passes_a_growth_and_a_damaged_one_fails(tiny, tmp_path):
    made = grow.widen(tiny("gpt2"), {"hidden": 24, "heads": 6, "ffn": 53}, out=tmp_path / "g")
    assert made.verification.lossless, made.verification
    files.edit_tensor(made.path, "transformer.h.1.mlp.c_fc.weight", lambda raw: raw.__setitem__(..., raw[::-1].copy()))
    found = grow.verify(tiny("gpt2"), made.path, rungs=("certificate", "true_float64"))
    assert found.verdict == "different"
    assert "transformer.h.1.mlp.c_fc.weight" in found.first["text"]


def test_a_grown_model_takes_steps_and_the_first_is_the_same_again(tiny, tmp_path):
    text = tokens(tmp_path / "tokens")
    source = grow.widen(tiny("llama-tied"), {"hidden": 36, "ffn": 43}, out=tmp_path / "g", verify=False).path
    for steps in (1, 2):
        grow.train(
            source, text, out=tmp_path / f"{steps}", **{**QUICK, "steps": steps, "save_every": 1, "eval_every": 1}
        )
    assert curve(tmp_path / "1")[:2] == curve(tmp_path / "2")[:2]
    assert all(math.isfinite(line["loss"]) for line in curve(tmp_path / "2")[1:])
    assert same(weights(tmp_path / "1", 1), weights(tmp_path / "2", 1))
    first, second = (weights(tmp_path / "2", step) for step in (1, 2))
    assert not any(torch.equal(first[name], second[name]) for name in first)
