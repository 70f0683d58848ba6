"""The fields of config.json are read as stock code reads them, and every value is one that it takes.

grow reads the source of the stock classes and imports none of them; here the classes themselves are asked.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny
import torch
import transformers
from models import difference, inputs, make, outputs, save
from stock_configs import INF, NAN, defaults_of, stock_config, variant_of

import grow
from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.stock_source import known_type, stock_of
from grow.errors import BadInput, GrowError, Refused

HOSTILE = (None, True, -1, 0, 3, -1.0, 1.5, "1e-5", "false", "banana", [], ["a"], {}, INF, NAN)


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
                check_fields(Architecture(family, config))
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
        ("llama", "architectures", ["GPT2LMHeadModel"], "is not a class of stock llama"),
        ("llama", "architectures", ["LLaMAForCausalLM"], "did you mean 'LlamaForCausalLM'?"),
        ("llama", "attention_dropout", 1.5, "wanted a number from 0 to 1"),
        ("llama", "initializer_range", 1.5, "wanted float from 0 to 1"),
        ("granite", "logits_scaling", 0, "that is not 0"),
        ("granite", "residual_multiplier", NAN, "NaN (float); wanted a finite number"),
        ("qwen3", "layer_types", ["full_attention"], "wanted a list of"),
        ("smollm3", "no_rope_layers", [1] * 35, "wanted a list of 36 of 0, 1"),
        ("smollm3", "no_rope_layers", [2] * 36, "wanted a list of 36 of 0, 1"),
        ("smollm3", "no_rope_layers", None, "missing, null or empty"),
        ("exaone4", "layer_types", None, "missing, null or empty"),
        ("internlm3", "mlp_bias", True, "False (bool), and mlp_bias: True (bool): stock code wants them equal"),
        ("cwm", "rope_parameters", None, "missing, null or empty"),
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
        check_fields(Architecture(FAMILIES[kind], config))
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in FAMILIES for name in FAMILIES[kind].needed_fields])
def test_a_field_without_which_the_table_is_not_true_must_be_there(kind, name):
    """Stock code takes another number of layers, or another RoPE, than the family says; either name of two will do."""
    first, *other = name.split("|")
    whole = defaults_of(kind)
    check_fields(Architecture(FAMILIES[kind], whole))
    config = {field: value for field, value in whole.items() if field != first}
    with pytest.raises(BadInput, match=f"config.json: {first}: missing") as caught:
        check_fields(Architecture(FAMILIES[kind], config))
    assert caught.value.fix == f"write {first} into config.json, as save_pretrained of the stock class does"
    for field in other:
        check_fields(Architecture(FAMILIES[kind], {**config, field: whole[first]}))


def test_all_wrong_values_are_told_at_once():
    wrong = {"rms_norm_eps": -2.0, "tie_word_embeddings": 1}
    with pytest.raises(BadInput) as caught:
        check_fields(Architecture(FAMILIES["llama"], {**defaults_of("llama"), **wrong}))
    assert "rms_norm_eps: -2.0" in str(caught.value)
    assert "also       tie_word_embeddings: 1" in str(caught.value)


def test_what_a_user_vouches_for_is_checked_all_the_same(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", rms_norm_eps=-1.0)
    with pytest.raises(BadInput, match="rms_norm_eps"):
        grow.plan(source, "2x", assume_harmless=["rms_norm_eps"])


def test_no_torch_for_all_this():
    code = "import sys, grow; grow.plan('small', '2x'); sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


@pytest.mark.parametrize("kind", ["xlm-roberta", "data2vec-text"])
def test_the_source_of_a_type_with_a_hyphen_is_found(kind):
    """Its module has no hyphen, and may lie in a folder of several types."""
    assert known_type(kind)
    assert stock_of(kind).fields["vocab_size"].words == "int"
    assert f"{FAMILIES[kind].class_prefix}ForMaskedLM" in stock_of(kind).classes
    assert not any(known_type(name) for name in (f"../{kind}", "*", f"{kind}/..", "no-such-type"))


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
