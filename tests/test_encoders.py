"""What single encoders have and no law of all families tells: shared layers, blocks, tables of angles and distances."""

from __future__ import annotations

import models
import numpy as np
import pytest
import tiny
from models import difference, outputs
from safetensors.numpy import load_file

import grow
from grow.costs.of_a_model import cost_of
from grow.errors import Refused

# 40 roundings of 2^-53 in a row, on outputs of order 1
EXACT = 1e-12


def tensors(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_every_shared_layer_costs_what_one_of_its_own_would(tmp_path):
    shared, apart = (
        cost_of(grow.plan(models.save("albert-mlm-shared", tmp_path / str(n), num_hidden_groups=n), "2x"))
        for n in (1, 3)
    )
    assert [cost.flops for cost in shared] == [cost.flops for cost in apart]
    assert all(few.parameters < many.parameters for few, many in zip(shared, apart))


def test_layers_that_share_their_weights_get_no_company(tmp_path):
    source = models.save("albert-mlm-shared", tmp_path / "source")
    with pytest.raises(Refused, match="layers share their weights") as caught:
        grow.deepen(source, 4, out=tmp_path / "grown")
    assert all((caught.value.where, caught.value.why, caught.value.fix))
    assert not (tmp_path / "grown").exists()
    apart = grow.plan(models.save("albert-mlm", tmp_path / "apart"), {"layers": 4})
    assert apart.config_changes == {"num_hidden_layers": (2, 4), "num_hidden_groups": (2, 4)}


def test_layers_of_two_groups_are_shared_too(tmp_path):
    source = models.save("albert-mlm-shared", tmp_path / "source", num_hidden_layers=4, num_hidden_groups=2)
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False, dtype="float64").path
    assert difference(outputs(source), outputs(grown)) <= EXACT


def test_new_pairs_of_a_head_turn_as_old_ones_and_new_positions_as_theirs(tmp_path):
    source = models.save("roformer-mlm", tmp_path / "source")
    grown = grow.widen(source, {"hidden": 36, "positions": 70}, out=tmp_path / "grown", verify=False).path
    old, new = (tensors(folder)["roformer.encoder.embed_positions.weight"] for folder in (source, grown))
    assert (old.shape, new.shape) == ((64, 4), (70, 12))
    assert np.array_equal(new[:64], old[:, [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]])
    assert np.array_equal(new[64:], new[:6])


def test_a_head_of_an_odd_size_cannot_turn(tmp_path):
    source = models.save("roformer-mlm", tmp_path / "source")
    with pytest.raises(Refused, match="turn in pairs"):
        grow.plan(source, {"hidden": 60, "heads": 12})


def test_new_heads_have_the_biases_of_old_ones(tmp_path):
    source = models.save("mpnet-mlm", tmp_path / "source")
    grown = grow.widen(source, {"hidden": 24, "heads": 5 + 1}, out=tmp_path / "grown", verify=False).path
    old, new = (tensors(folder)["mpnet.encoder.relative_attention_bias.weight"] for folder in (source, grown))
    assert np.array_equal(new, np.tile(old, 2))


def test_blocks_that_are_left_out_stay_left_out(tmp_path):
    """A text of 60 tokens has 15 blocks, of which each sees some; one of fewer than 7 would see all of them."""
    blocks = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    model = models.make("big_bird-mlm", **blocks)
    model.save_pretrained(tmp_path / "source")
    to = {"hidden": 24, "heads": 6, "layers": 3}
    grown = grow.widen(tmp_path / "source", to, out=tmp_path / "grown", verify=False, dtype="float64").path
    sparse = outputs(tmp_path / "source", (60,))
    assert difference(sparse, outputs(grown, (60,))) <= EXACT
    whole = models.make("big_bird-mlm", attention_type="original_full")
    whole.save_pretrained(tmp_path / "whole")
    assert difference(sparse, outputs(tmp_path / "whole", (60,))) > 1e-3  # else nothing was left out


def test_windows_are_listed_by_layer_or_one_for_all(tmp_path):
    listed = grow.plan(models.save("longformer-mlm", tmp_path / "listed"), {"layers": 3})
    assert listed.new_config["attention_window"] == [4, 4, 8]
    one = models.save("longformer-mlm", tmp_path / "one", attention_window=6)
    tiny.edit_json(one / "config.json", lambda config: config.update(attention_window=6))  # stock code writes a list
    assert grow.plan(one, {"layers": 3}).new_config["attention_window"] == 6


def test_no_layer_comes_from_a_first_one_with_tensors_of_its_own(tmp_path):
    source = models.save("modernbert-mlm", tmp_path / "source")
    plan = grow.plan(source, {"layers": 7}, place="0,0,1")
    assert plan.change.depth.source == (0, 1, 1, 1, 1, 2, 3)
    assert plan.new_config["layer_types"] == ["full_attention", *["sliding_attention"] * 5, "full_attention"]
    alone = models.save("modernbert-mlm", tmp_path / "alone", num_hidden_layers=1)
    with pytest.raises(Refused, match="where the first would be another"):
        grow.plan(alone, {"layers": 2})
    with pytest.raises(Refused, match="where the first would be another"):
        grow.plan(source, {"layers": 8}, method="gstack", allow_lossy=True)


def test_positions_stay_where_buckets_of_distances_follow_from_their_number(tmp_path):
    source = models.save("deberta-v2-mlm", tmp_path / "source", max_relative_positions=-1)
    with pytest.raises(Refused, match="would change positions 64 -> 80") as caught:
        grow.plan(source, {"positions": 80})
    assert all((caught.value.where, caught.value.why, caught.value.fix))
    stated = models.save("deberta-v2-mlm", tmp_path / "stated")
    assert grow.plan(stated, {"positions": 80}).new_sizes["positions"] == 80
