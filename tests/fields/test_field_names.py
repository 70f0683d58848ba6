"""Null, RoPE and the other names of fields mean what they mean to stock code."""

from __future__ import annotations

import json
import math
import random
from contextlib import suppress

import pytest
import tiny
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from models import difference, outputs, save
from stock_configs import INF, NAN, defaults_of, stock_config, variant_of

import grow
from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.common_fields import TRAINS
from grow.architectures.config_values import check_fields
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, GrowError, Refused
from grow.notation.rope_parameters import rope_of

KV = "num_key_value_heads"


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if KV in FAMILIES[kind].axes.values()])
def test_null_is_what_stock_code_makes_of_it(kind):
    config = {**defaults_of(kind), KV: None, "num_attention_heads": 4, "hidden_size": 32}
    try:
        check_fields(Architecture(FAMILIES[kind], config))
    except BadInput:
        with suppress(StrictDataclassFieldValidationError):
            assert getattr(stock_config(config), KV) is None  # of no use to a model
    else:
        assert Architecture(FAMILIES[kind], config).sizes["kv_heads"] == getattr(stock_config(config), KV)


def drawn_rope(draw: random.Random, own: tuple[str, str]) -> dict:
    """Rope fields of all generations, some of them in contradiction."""
    kinds = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional")
    theta = draw.choice((500.0, 10000.0, 10000))

    def parameters() -> dict:
        kind = draw.choice(kinds)
        made: dict = {draw.choice(("type", "rope_type")): kind}
        if kind in ("linear", "dynamic", "yarn", "llama3") or (kind == "proportional" and draw.random() < 0.5):
            made["factor"] = draw.choice((2.0, 4))
        if kind == "llama3":
            made |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        if kind == "longrope":
            made |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 2.0}
        if kind in ("llama3", "yarn", "longrope") and draw.random() < 0.6:
            made["original_max_position_embeddings"] = 32
        if draw.random() < 0.5:
            made["rope_theta"] = draw.choice((theta, theta, 77.0))
        if draw.random() < 0.2:
            made = {"rope_theta": 99.0} if draw.random() < 0.5 else {}
        if draw.random() < 0.1:
            made = {"full_attention": made, "sliding_attention": {"rope_type": "default", "rope_theta": 3.0}}
        return made

    config: dict = {}
    for name in ("rope_parameters", "rope_scaling"):
        if draw.random() < 0.5:
            config[name] = draw.choice((None, parameters(), parameters(), parameters()))
    for name, value in zip((*own, "rope_theta"), (theta, 0.5, theta)):
        if draw.random() < 0.4 and (name != "partial_rotary_factor"):
            config[name] = draw.choice((value, value, value, None))
    return config


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral", "flex_olmo", "gpt_neox"])
def test_rope_is_read_as_stock_code_reads_it_or_refused(kind):
    family, draw, agreed = FAMILIES[kind], random.Random(kind), 0
    base = {
        "model_type": kind,
        "vocab_size": 40,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    base |= {"head_dim": 8, "num_key_value_heads": 2} if kind != "gpt_neox" else {}
    for _ in range(400):
        config = {**base, **drawn_rope(draw, family.rope_spelling)}
        try:
            check_fields(Architecture(family, config))
        except GrowError:
            continue
        agreed += 1
        stock = stock_config(json.loads(json.dumps(config))).rope_parameters
        found = rope_of(Architecture(family, config).ropes[""])
        assert {k: v for k, v in stock.items() if k != "type"} == found, config
    assert agreed > 40


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_theta"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "rope_theta": 1e4}}, "full_attention"),
    ],
)
def test_rope_fields_that_contradict_each_other_are_refused(fields, named, tmp_path):
    with pytest.raises(GrowError) as caught:
        grow.plan(tiny.checkpoint(tmp_path / "source", "llama", **fields), "head_dim=12")
    assert named in str(caught.value)


def test_one_theta_in_three_places_grows_in_all(tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    source = tiny.checkpoint(
        tmp_path / "source", "llama", rope_parameters=rope, rope_scaling=dict(rope), rope_theta=500.0
    )
    new = grow.plan(source, "head_dim=8").new_config
    assert new["rope_theta"] == new["rope_parameters"]["rope_theta"] == new["rope_scaling"]["rope_theta"] != 500.0
    check_fields(Architecture(FAMILIES["llama"], new))


def test_positions_do_not_grow_where_the_rotation_takes_them_for_its_own(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    with pytest.raises(Refused, match="max_position_embeddings"):
        grow.plan(tiny.checkpoint(tmp_path / "a", "llama", rope_parameters=rope), "positions=128")
    stated = {**rope, "original_max_position_embeddings": 32}
    grow.plan(tiny.checkpoint(tmp_path / "b", "llama", rope_parameters=stated), "positions=128")


ALIASES = {"gpt2": {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}}
ALIASES["distilbert"] = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("kind", ALIASES)
def test_the_other_names_of_fields_are_read_and_written_as_stock_code_does(kind, beside, tmp_path):
    source = save(variant_of(kind), tmp_path / "source", dtype="float64")
    config = tiny.read_json(source / "config.json")
    for name, other in ALIASES[kind].items():
        config[other] = config[name] if beside else config.pop(name)
    tiny.write_json(source / "config.json", config)
    hidden, layers = (config[name] for name in ("hidden_size", "num_hidden_layers"))
    to = {"hidden_size": 2 * hidden, "num_attention_heads": 2 * config["num_attention_heads"], "layers": layers + 1}
    grow.widen(source, to, out=tmp_path / "grown", verify=False)
    new = tiny.read_json(tmp_path / "grown/config.json")
    for name, other in ALIASES[kind].items():
        assert new[other] == new.get(name, new[other]) != config[other]
    assert difference(outputs(source), outputs(tmp_path / "grown")) < 1e-12
    check_fields(Architecture(FAMILIES[kind], new))


@pytest.mark.parametrize("value", [48, None, "24"])
def test_two_names_of_one_field_with_two_values_are_refused(value, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "gpt2", hidden_size=value)
    with pytest.raises(BadInput) as caught:
        grow.plan(source, "2x", assume_harmless=["hidden_size"])
    assert ("n_embd: 24" in str(caught.value)) == (value != "24")
    assert "hidden_size" in str(caught.value)
    assert "assume_harmless" not in str(caught.value)


def test_floats_that_json_has_no_number_for_come_along(tmp_path):
    limits = [0.0, INF, {"deep": [NAN, {"__float__": "-Infinity"}]}]
    source = save("llama", tmp_path / "source")
    tiny.edit_json(source / "config.json", lambda c: c.update(time_step_limit=limits))
    grow.widen(source, "2x", out=tmp_path / "grown", verify=False)
    assert tiny.read_json(tmp_path / "grown/config.json")["time_step_limit"] == limits
    found = transformers.AutoConfig.from_pretrained(tmp_path / "grown").time_step_limit
    assert found[1] == math.inf
    assert math.isnan(found[2]["deep"][0])
    with open_checkpoint(tmp_path / "grown") as again:
        assert again.config["time_step_limit"] == limits
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    grown = grow.widen(model, "2x", verify=False).model
    assert grown.config.time_step_limit[1] == math.inf


def test_the_window_of_older_readers_follows_the_layers(tmp_path):
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2, "num_hidden_layers": 3}
    source = tiny.checkpoint(tmp_path / "source", "qwen3", layer_types=kinds, **window)
    new = grow.plan(source, "layers=4", place="after:0").new_config
    assert new["layer_types"] == sorted(new["layer_types"]), new["layer_types"]
    assert new["max_window_layers"] == new["layer_types"].count("full_attention") >= 2
    whole = tiny.checkpoint(
        tmp_path / "whole", "qwen3", layer_types=["full_attention"] * 2, max_window_layers=2, num_hidden_layers=2
    )
    assert grow.plan(whole, "layers=5").new_config["max_window_layers"] == 5


def test_a_field_that_follows_may_be_named_with_the_value_it_must_have(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "opt")
    to = {"hidden_size": 48, "num_attention_heads": 6}
    assert grow.plan(source, {**to, "word_embed_proj_dim": 48}).new_config == grow.plan(source, to).new_config
    with pytest.raises(Refused, match="it follows the others to 48"):
        grow.plan(source, {**to, "word_embed_proj_dim": 36})
    with pytest.raises(Refused, match="it follows the others to 48"):
        grow.plan(source, {**to, "word_embed_proj_dim": 24})


@pytest.mark.parametrize("kind", ["bart", "funnel", "reformer", "jamba"])
def test_another_type_is_no_misspelling(kind, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    tiny.edit_json(source / "config.json", lambda c: c.update(model_type=kind))
    with pytest.raises(Refused) as caught:
        grow.plan(source, "2x")
    assert "did you mean" not in str(caught.value)


def test_without_a_model_type_none_is_made_up(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    tiny.edit_json(source / "config.json", lambda c: c.pop("model_type"))
    with pytest.raises(BadInput) as caught:
        grow.plan(source, "2x")
    assert "llama" not in str(caught.value)
    assert "BertForMaskedLM" in caught.value.fix


@pytest.mark.parametrize("kind", FAMILIES)
def test_one_rule_for_all_dropouts(kind):
    family = FAMILIES[kind]
    dropouts = {name for name in defaults_of(kind) if TRAINS.fullmatch(name)}
    assert dropouts or kind in ("ernie4_5", "mamba", "falcon_mamba", "lfm2")
    for name in dropouts:
        check_fields(Architecture(family, {**defaults_of(kind), name: 0.3}))
        assert family.knows(name)
        assert name not in family.known_fields  # no list says it again
        with pytest.raises(BadInput):
            check_fields(Architecture(family, {**defaults_of(kind), name: 1.3}))
