"""The fields of config.json are read as stock code reads them, and every value is one that it takes.

grow reads the source of the stock classes and imports none of them; here the classes themselves are asked.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import warnings
from contextlib import suppress

import pytest
import tiny
import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from models import ONE_EACH, VARIANTS, difference, inputs, make, outputs, save

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, GrowError, Refused
from grow.families import FAMILIES
from grow.families.config_values import TRAINS
from grow.families.stock_source import stock_of
from grow.files.config_json import check_config
from grow.files.json_floats import plain
from grow.notation.rope import rope_of

INF, NAN = {"__float__": "Infinity"}, {"__float__": "NaN"}
HOSTILE = (None, True, -1, 0, 3, -1.0, 1.5, "1e-5", "false", "banana", [], ["a"], {}, INF, NAN)


def defaults_of(kind: str) -> dict:
    """A whole config.json of this type."""
    text = transformers.AutoConfig.for_model(kind).to_json_string(use_diff=False)
    return check_config(json.loads(text), "config.json", [])


def variant_of(kind: str) -> str:
    return next(name for name in ONE_EACH if VARIANTS[name].model_type == kind)


def stock_config(config: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoConfig.for_model(**plain(config))


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_accepted_is_what_stock_code_takes(kind):
    """Each field of each stock config with each wrong value: nothing passes that the stock class refuses."""
    family, whole, refused = FAMILIES[kind], defaults_of(kind), 0
    for name in whole:
        for value in HOSTILE:
            config = {**whole, name: value}
            if name == "model_type":
                continue
            try:
                family.check_config(config)
            except GrowError:
                refused += 1
                continue
            if name in ("transformers_version", "dtype"):
                continue
            stock_config(config)
    assert refused > 150


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_names_of_one_field_are_those_of_the_stock_class(kind):
    stock = type(transformers.AutoConfig.for_model(kind)).attribute_map
    assert {frozenset(pair) for pair in FAMILIES[kind].synonyms.items()} == {frozenset(p) for p in stock.items()}


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        ("llama", "rms_norm_eps", -1, "-1 (int); wanted float"),
        ("llama", "rms_norm_eps", -1e-5, "wanted a number from 0 on"),
        ("llama", "rms_norm_eps", "1e-5", "'1e-5' (str); wanted float"),
        ("llama", "rms_norm_eps", None, "null; wanted float"),
        ("gpt2", "layer_norm_epsilon", INF, "Infinity (float); wanted a number from 0 on"),
        ("llama", "rope_theta", 0, "0; wanted a positive number"),
        ("llama", "rope_theta", -1.0, "-1.0; wanted a positive number"),
        ("llama", "rope_theta", "10000", "'10000'; wanted a positive number"),
        ("llama", "rope_theta", None, "None; wanted a positive number"),
        ("llama", "rope_scaling", {"rope_type": "banana"}, "'banana'; known rope types"),
        ("llama", "rope_scaling", {"type": "linear"}, "is missing or null"),
        ("llama", "rope_scaling", {"type": "linear", "factor": "2"}, "'2'; wanted a positive number"),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0, "spice": 1}, "nobody has read: spice"),
        ("llama", "rope_scaling", {"type": "linear", "rope_type": "dynamic", "factor": 2.0}, "two names"),
        ("llama", "rope_scaling", "linear", "wanted an object"),
        ("llama", "tie_word_embeddings", "false", "'false' (str); wanted bool"),
        ("llama", "architectures", [], "wanted a list with the name of the class"),
        ("llama", "architectures", [3], "wanted a list with the name of the class"),
        ("llama", "architectures", "LlamaForCausalLM", "wanted a list with the name of the class"),
        ("llama", "architectures", ["GPT2LMHeadModel"], "is no class of stock llama"),
        ("llama", "architectures", ["LLaMAForCausalLM"], "did you mean 'LlamaForCausalLM'?"),
        ("llama", "attention_dropout", 1.5, "wanted a number from 0 to 1"),
        ("llama", "initializer_range", 1.5, "wanted float from 0 to 1"),
        ("granite", "logits_scaling", 0, "that is not 0"),
        ("granite", "residual_multiplier", NAN, "NaN (float); wanted a finite number"),
        ("qwen3", "layer_types", ["full_attention"], "wanted a list of"),
        ("mixtral", "num_experts_per_tok", 9, "9 of 8 experts"),
        ("qwen2_moe", "decoder_sparse_step", 0, "wanted a whole number from 1 on"),
        ("bert", "id2label", {"a": "A"}, "an object with whole numbers as keys"),
        ("gpt2", "hidden_size", "24", "'24' (str); wanted int"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_planned(kind, field, value, words):
    config = {**defaults_of(kind), field: value}
    if field == "rope_theta":
        config["rope_parameters"] = None
    if field == "hidden_size":
        del config["n_embd"]
    with pytest.raises(GrowError) as caught:
        FAMILIES[kind].check_config(config)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_wrong_values_are_told_at_once():
    with pytest.raises(BadInput) as caught:
        FAMILIES["llama"].check_config({**defaults_of("llama"), "rms_norm_eps": -2.0, "tie_word_embeddings": 1})
    assert "rms_norm_eps: -2.0" in str(caught.value)
    assert "also       tie_word_embeddings: 1" in str(caught.value)


def test_what_a_user_vouches_for_is_checked_all_the_same(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", rms_norm_eps=-1.0)
    with pytest.raises(BadInput, match="rms_norm_eps"):
        grow.plan(source, "2x", assume_harmless=["rms_norm_eps"])


def test_no_torch_for_all_this():
    code = "import sys, grow; grow.plan('small', '2x'); sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


KV = "num_key_value_heads"


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if KV in FAMILIES[kind].axes.values()])
def test_null_is_what_stock_code_makes_of_it(kind):
    config = {**defaults_of(kind), KV: None, "num_attention_heads": 4, "hidden_size": 32}
    try:
        FAMILIES[kind].check_config(config)
    except BadInput:
        with suppress(StrictDataclassFieldValidationError):
            assert getattr(stock_config(config), KV) is None  # of no use to a model
    else:
        assert FAMILIES[kind].sizes_of(config)["kv_heads"] == getattr(stock_config(config), KV)


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
            family.check_config(config)
        except GrowError:
            continue
        agreed += 1
        stock = stock_config(json.loads(json.dumps(config))).rope_parameters
        found = rope_of(family.rope_config(config))
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
    FAMILIES["llama"].check_config(new)


def test_positions_do_not_grow_where_the_rotation_takes_them_for_its_own(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    with pytest.raises(Refused, match="max_position_embeddings"):
        grow.plan(tiny.checkpoint(tmp_path / "a", "llama", rope_parameters=rope), "positions=128")
    stated = {**rope, "original_max_position_embeddings": 32}
    grow.plan(tiny.checkpoint(tmp_path / "b", "llama", rope_parameters=stated), "positions=128")


UNREAD = {
    "gpt2": dict(n_special=0, predict_special_tokens=True),
    "llama": dict(
        unsloth_fixed=True, unsloth_version="2026.4.5", max_sequence_length=2048, tokenizer_model_max_length=2048,
        tokenizer_padding_side="right", sliding_window=None, layer_types=None, banana_factor=3, x=1,
    ),
    "bert": dict(sentence_transformers={"version": "4.1.0"}, model_max_length=512, embedding_size=12),
    "roberta": dict(language="english", name="Roberta"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREAD)
def test_fields_that_nobody_reads_come_along(kind, tmp_path):
    fields = UNREAD[kind]
    source = save(variant_of(kind), tmp_path / "source", dtype="float64")
    tiny.edit_json(source / "config.json", lambda c: c.update(fields))
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False)
    assert fields.items() <= tiny.read_json(tmp_path / "grown/config.json").items()
    told = [note for note in grown.notes if "no stock code reads" in note]
    assert len(told) == (fields.keys() != {"language", "name"} or 1)
    assert difference(outputs(source), outputs(tmp_path / "grown")) < 1e-12
    grow.plan(tmp_path / "grown", "2x")


READ = {
    "llama": dict(
        sliding_window=3, is_causal=True, attn_implementation="eager", validate=1, to_dict=2, encoder_layers=2,
    ),
    "gpt2": dict(head_dim=5, rope_theta=1e4),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in READ for name in READ[kind]])
def test_fields_that_stock_code_reads_are_refused(kind, name, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", kind, **{name: READ[kind][name]})
    with pytest.raises(Refused, match="does not know") as caught:
        grow.plan(source, "2x")
    sized = name in ("head_dim",)
    assert ("assume_harmless=" in str(caught.value)) != sized


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_field_that_stock_code_asks_for_counts_as_unread(kind, monkeypatch):
    """Every attribute of a config that is asked for while a model is built, runs and generates is known."""
    asked: set[str] = set()
    base = transformers.PreTrainedConfig
    original = base.__getattribute__

    def recording(self, name):
        asked.add(name)
        return original(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(base, "__getattribute__", recording)
        model = make(variant_of(kind)).float()
        if FAMILIES[kind].experts:
            model.set_experts_implementation("eager")
        with torch.no_grad():
            model(**inputs(model.config, 9))
        if model.can_generate():
            ids = torch.tensor([[5, 6, 7]])
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
        model.config.to_json_string()
    names = sorted(name for name in asked if not name.startswith("_"))
    assert len(names) > 20
    readings = stock_of(kind).readings(names)
    assert [name for name in names if not readings[name].at_all] == []


def test_where_the_source_is_not_known_nothing_counts_as_unread():
    assert stock_of("no_such_type").readings(["n_special"])["n_special"].at_all


def test_what_was_vouched_for_is_not_asked_again(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", is_causal=True)
    with pytest.raises(Refused, match=r'assume_harmless=\["is_causal"\]'):
        grow.plan(source, "2x")
    grow.widen(source, "2x", out=tmp_path / "grown", verify=False, assume_harmless=["is_causal"])
    grow.widen(tmp_path / "grown", "2x", out=tmp_path / "again", verify=False)
    grow.plan(tmp_path / "again", "2x")
    tiny.edit_json(tmp_path / "again/config.json", lambda c: c.update(is_causal=False))
    with pytest.raises(Refused, match="is_causal"):
        grow.plan(tmp_path / "again", "2x")


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
    FAMILIES[kind].check_config(new)


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


@pytest.mark.parametrize("kind", ["bart", "albert", "gpt_neo", "gemma"])
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
    assert dropouts
    for name in dropouts:
        family.check_config({**defaults_of(kind), name: 0.3})
        assert family.knows(name)
        assert name not in family.known_fields  # no list says it again
        with pytest.raises(BadInput):
            family.check_config({**defaults_of(kind), name: 1.3})
