"""Multi-head latent attention: every size of a head and every rank grows alone."""

from __future__ import annotations

import pytest
from models import difference, outputs

import grow
from grow.costs.of_a_model import cost_of

EXACT = 1e-12
SIZES = {
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 11, "q_lora_rank": 13, "kv_lora_rank": 28,
    "num_attention_heads": 12,
}  # fmt: skip


@pytest.mark.parametrize("field", SIZES)
def test_each_size_grows_alone_and_nothing_changes(field, tiny, tmp_path):
    source = tiny("youtu")
    plan = grow.widen(source, {field: SIZES[field]}, out=tmp_path / "grown", dtype="float64", verify=False).plan
    assert plan.new_config[field] == SIZES[field]
    assert difference(outputs(source), outputs(tmp_path / "grown")) <= EXACT


def test_all_of_them_grow_together(tiny, tmp_path):
    source, to = tiny("deepseek_v3-groups"), {**SIZES, "hidden_size": 24, "n_shared_experts": 3}
    del to["q_lora_rank"]  # this one has none
    plan = grow.widen(source, to, out=tmp_path / "grown", dtype="float64", verify=False).plan
    assert difference(outputs(source), outputs(tmp_path / "grown")) <= EXACT
    fields = plan.new_config  # numbers that repeat others
    assert (fields["qk_head_dim"], fields["head_dim"], fields["num_key_value_heads"]) == (16, 8, 12)


def test_the_certificate_knows_each_part_of_a_head(tiny, tmp_path):
    for to in ({"v_head_dim": 9}, {"qk_nope_head_dim": 9}):
        growth = grow.widen(tiny("youtu"), to, out=tmp_path / "grown", overwrite=True)
        assert growth.verification.verdict == "lossless"


def test_what_is_kept_of_a_token_is_a_latent_vector(tiny):
    before, after = cost_of(grow.plan(tiny("youtu"), {"kv_lora_rank": 18}))
    assert (before.kv_bytes, after.kv_bytes) == (2 * (14 + 4) * 4, 2 * (18 + 4) * 4)  # layers, ranks, float32
