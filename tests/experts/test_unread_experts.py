"""Experts that no token is sent to: any number of them, top_k as it is, where the choice has a bias of its own."""

from __future__ import annotations

import pytest
from models import difference, outputs
from safetensors.torch import load_file, save_file

import grow
from grow.errors import Refused

EXACT = 1e-12


def grown(tiny, tmp_path, variant, **options):
    options = {"overwrite": True, "dtype": "float64", "verify": False, **options}
    return grow.widen(tiny(variant), out=tmp_path / "grown", **options).plan


@pytest.mark.parametrize(
    ("variant", "to", "operators"),
    [
        ("glm4_moe", {"experts": 7}, None),
        ("glm4_moe", {"experts": 8, "hidden": 24}, {"experts": "unread"}),
        ("glm4_moe-groups", {"n_routed_experts": 12}, None),
        ("exaone_moe-tied", {"experts": 8}, None),
        ("minimax_m2", {"experts": 5}, None),
    ],
)
def test_any_number_of_unread_experts_changes_nothing(variant, to, operators, tiny, tmp_path):
    plan = grown(tiny, tmp_path, variant, to=to, operators=operators)
    assert plan.grown.top_k == plan.source.top_k
    assert "no token is sent to" in plan.operators["experts"]
    assert difference(outputs(tiny(variant)), outputs(tmp_path / "grown")) <= EXACT


def test_new_experts_stand_behind_the_old_ones_of_their_group(tiny, tmp_path):
    plan = grown(tiny, tmp_path, "glm4_moe-groups", to={"experts": 9})  # three groups of two
    assert plan.maps["experts"].source.tolist() == [0, 1, 0, 2, 3, 2, 4, 5, 4]
    bias = load_file(tmp_path / "grown" / "model.safetensors")["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert (bias == -1e4).nonzero().flatten().tolist() == [2, 5, 8]


def test_copies_share_a_weight_where_the_weights_sum_to_one(tiny, tmp_path):
    plan = grown(tiny, tmp_path, "glm4_moe", to={"experts": 8})
    assert plan.grown.top_k == 2 * plan.source.top_k
    assert difference(outputs(tiny("glm4_moe")), outputs(tmp_path / "grown")) <= EXACT


def test_a_new_expert_that_tokens_are_sent_to_is_told(tiny, tmp_path):
    grown(tiny, tmp_path, "glm4_moe", to={"experts": 6}, dtype="auto")
    assert grow.verify(tiny("glm4_moe"), tmp_path / "grown").verdict == "lossless"
    file = tmp_path / "grown" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.gate.e_score_correction_bias"][4:] = 0.5
    save_file(tensors, file, {"format": "pt"})
    assert grow.verify(tiny("glm4_moe"), tmp_path / "grown").exit_code == 1


@pytest.mark.parametrize(
    ("variant", "to", "operator", "why"),
    [
        ("glm4_moe-groups", {"experts": 8}, "", "groups of one size"),
        ("glm4_moe-groups", {"experts": 12}, "copies", "do not get its weight"),
        ("glm4_moe", {"experts": 6}, "copies", "a copy of some experts alone"),
        ("mixtral", {"experts": 8}, "unread", "has no bias"),
        ("glm4_moe", {"experts": 8}, "silent", "grow by copies, or unread"),
        ("phimoe", {"experts": 8}, "", "of like logits"),
    ],
)
def test_what_is_not_exact_is_refused_and_the_fix_is_accepted(variant, to, operator, why, tiny):
    with pytest.raises(Refused, match=why) as caught:
        grow.plan(tiny(variant), to, operators={"experts": operator} if operator else None)
    error = caught.value
    assert all((error.where, error.what, error.why, error.fix))
    assert error.exit_code == 2


@pytest.mark.parametrize(("variant", "dense"), [("glm4_moe", 1), ("dots1", 1)])
def test_dense_layers_stay_in_front(variant, dense, tiny, tmp_path):
    for place in ("0,0,0,1", "spread"):
        plan = grown(tiny, tmp_path, variant, to={"layers": 7}, place=place)
        fields = plan.new_config
        assert [plan.grown.sparse(j) for j in range(7)] == [plan.source.sparse(i) for i in plan.change.depth.source]
        assert fields["first_k_dense_replace"] == dense + (3 if place != "spread" else 0)
        assert difference(outputs(tiny(variant)), outputs(tmp_path / "grown")) <= EXACT
