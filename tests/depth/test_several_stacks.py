"""An encoder and its decoder have depths of their own: one number is of both, and a first layer keeps what it has."""

from __future__ import annotations

import json

import pytest
import tiny
from models import save

import grow
from grow.errors import BadInput, Refused


def test_one_number_is_of_both_stacks_where_they_have_one_depth(tmp_path):
    source = save("t5", tmp_path / "source")
    plan = grow.plan(source, {"layers": 3})
    assert (plan.new_config["num_layers"], plan.new_config["num_decoder_layers"]) == (3, 3)
    uneven = save("t5-untied", tmp_path / "uneven")
    with pytest.raises(BadInput, match="3 encoder_layers and 2 decoder_layers") as caught:
        grow.deepen(uneven, 4, out=tmp_path / "grown")
    assert "num_layers" in caught.value.fix
    assert "num_decoder_layers" in caught.value.fix
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize(
    "to", [{"num_layers": 4}, {"num_decoder_layers": 3}, {"num_layers": 5, "num_decoder_layers": 4}]
)
def test_each_stack_grows_on_its_own_and_grow_json_says_so(to, tmp_path):
    source = save("t5-untied", tmp_path / "source", "float64")
    grown = grow.widen(source, {**to, "d_model": 18}, out=tmp_path / "grown", place="after:0")
    assert (grown.verification.verdict, grown.verification.exit_code) == ("lossless", 0)
    assert grown.verification.check("hidden_states").status == "pass"
    depths = json.loads((tmp_path / "grown" / "grow.json").read_text())["plan"]["depths"]
    fields = {"encoder_layers": "num_layers", "decoder_layers": "num_decoder_layers"}
    assert {fields[axis]: len(depth["source"]) for axis, depth in depths.items()} == to
    biases = [name for name in tiny.read_tensors(tmp_path / "grown") if "relative_attention_bias" in name]
    assert sorted(biases) == [
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for stack in ("decoder", "encoder")
    ]


def test_a_decoder_does_not_become_deeper_than_its_cache(tmp_path):
    source = save("t5", tmp_path / "source")
    with pytest.raises(Refused, match="could not generate") as caught:
        grow.plan(source, {"num_decoder_layers": 3})
    assert caught.value.fix == "num_decoder_layers=3,num_layers=3"
    deeper = save("t5", tmp_path / "deeper", num_decoder_layers=3)
    assert grow.plan(deeper, {"num_decoder_layers": 4}).new_sizes["decoder_layers"] == 4  # as it could not before


def test_a_depth_that_another_field_said_stays(tmp_path):
    """Without a field of its own a decoder is as deep as its encoder, which grows."""
    source = save("t5", tmp_path / "source")
    tiny.edit_json(source / "config.json", lambda config: config.pop("num_decoder_layers"))
    plan = grow.plan(source, {"num_layers": 4})
    assert (plan.new_sizes["decoder_layers"], plan.new_config["num_decoder_layers"]) == (2, 2)


def test_a_table_under_its_other_names_is_read_once(tmp_path):
    source = save("t5", tmp_path / "source")
    tensors = tiny.read_tensors(source)
    again = {f"{stack}.embed_tokens.weight": tensors["shared.weight"] for stack in ("encoder", "decoder")}
    tiny.write_tensors(source, {**tensors, **again})
    assert {t.name for t in grow.plan(source, "2x").tensors} == set(tensors)
    del tensors["shared.weight"]
    tiny.write_tensors(source, {**tensors, "decoder.embed_tokens.weight": again["decoder.embed_tokens.weight"]})
    assert "shared.weight" in {t.name for t in grow.plan(source, "2x").tensors}
