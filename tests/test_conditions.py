"""Conditions in a family's table are parsed with it: what they mean, and that a word that means nothing is an error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grow.architectures import FAMILIES, stock_source
from grow.architectures.architecture import Architecture
from grow.architectures.conditions import HEADS, parse_condition
from grow.architectures.facts import Refusal

FIELDS = ("attention_bias", "tie_word_embeddings", "embed", "width", "act", "missing")


class Model:
    """What a condition asks, with answers of its own."""

    class_name = "ToyForCausalLM"

    def get(self, name: str):
        return {"attention_bias": True, "embed": 6, "width": 6, "act": "gated-gelu"}.get(name)

    def sparse(self, layer: int) -> bool:
        return layer == 1


@pytest.mark.parametrize(
    ("text", "layer", "holds"),
    [
        ("", None, True), ("always", None, True), ("optional", None, True), ("never", None, False),
        ("attention_bias", None, True), ("not attention_bias", None, False),
        ("tie_word_embeddings", None, False), ("not tie_word_embeddings", None, True),
        ("embed==width", None, True), ("embed!=width", None, False), ("not embed==width", None, False),
        ("embed==attention_bias", None, False), ("embed!=attention_bias", None, True),
        ("ForCausalLM", None, True), ("ForMaskedLM|ForCausalLM", None, True), ("ForMaskedLM", None, False),
        ("not ForMaskedLM", None, True), ("LMHeadModel not ForCausalLM", None, False),
        ("act=='gated-gelu'", None, True), ("act!='gated-gelu'", None, False), ("act=='gelu'", None, False),
        ("width==6", None, True), ("width!=6", None, False), ("width==0.5", None, False),
        ("missing==none", None, True), ("act==none", None, False), ("act!=none", None, True),
        ("sparse", 1, True), ("sparse", 0, False), ("dense", 1, False), ("dense", 0, True), ("not dense", 1, True),
        ("sparse", None, True), ("dense", None, True), ("not sparse", None, True),  # of some layer or other
        ("attention_bias ForCausalLM sparse", 1, True), ("attention_bias ForCausalLM sparse", 0, False),
        ("attention_bias never", None, False),
    ],
)  # fmt: skip
def test_all_words_must_hold(text, layer, holds):
    assert parse_condition(text, FIELDS).holds(Model(), layer) is holds


@pytest.mark.parametrize(
    ("text", "word", "hint"),
    [
        ("attention_bais", "attention_bais", "attention_bias"),
        ("attention_bias not tie_word_embedings", "tie_word_embedings", "tie_word_embeddings"),
        ("ForCausalML", "ForCausalML", "ForCausalLM"),
        ("ForMaskedLM|ForMaskdLM", "ForMaskdLM", "ForMaskedLM"),
        ("embed==widht", "widht", "width"),
        ("embd!=width", "embd", "embed"),
        ("Always", "Always", ""),
        ("embed=width", "embed=width", ""),
        ("atc=='gelu'", "atc", "act"),
        ("act=='gelu", "act=='gelu", ""),
        ("embed==", "embed==", ""),
        ("not", "not", ""),
        ("attention_bias not", "not", ""),
        ("not not attention_bias", "not", ""),
    ],
)
def test_a_word_that_means_nothing_is_an_error_that_quotes_it(text, word, hint):
    with pytest.raises(ValueError, match="condition") as error:
        parse_condition(text, FIELDS)
    assert repr(text) in str(error.value)
    assert repr(word) in str(error.value)
    assert hint in str(error.value)


PLACES = {
    "a row": lambda f: replace(f, table=f.table + "odd.weight hidden <- hidden ? attention_bais\n"),
    "writes_stream": lambda f: replace(f, norm=replace(f.norm, writes_stream="not attention_bais")),
    "affine": lambda f: replace(f, norm=replace(f.norm, affine="attention_bais")),
    "bare": lambda f: replace(f, norm=replace(f.norm, bare="attention_bais")),
    "scaled": lambda f: replace(f, attention=replace(f.attention, scaled="attention_bais")),
    "index_scaled": lambda f: replace(f, attention=replace(f.attention, index_scaled="attention_bais")),
    "tie": lambda f: replace(f, tie=replace(f.tie, when="attention_bais")),
    "the tie's norms": lambda f: replace(f, tie=replace(f.tie, norms_when="attention_bais")),
    "a refusal": lambda f: replace(f, refusals=(Refusal("ffn", "", when="attention_bais"),)),
    "experts": lambda f: replace(f, experts=replace(f.experts, normed="attention_bais")),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_family_with_such_a_word_cannot_be_built(place):
    with pytest.raises(ValueError, match="'attention_bais' is not a config field that the family knows"):
        PLACES[place](FAMILIES["mixtral"])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_condition_is_decided_for_a_config(family):
    config = {**dict.fromkeys(family.axes.values(), 2), "architectures": ["ToyForCausalLM"]}
    known = Architecture(family, config)
    for text in family.conditions:
        assert known.holds(text) in (True, False)
    with pytest.raises(KeyError):
        known.holds("attention_bais")


def test_every_ending_of_a_class_name_is_one_of_a_stock_class():
    classes = [name for kind in FAMILIES for name in stock_source.stock_of(kind).classes]
    for ending in HEADS:
        assert any(name.endswith(ending) for name in classes), ending
    used = {ending for f in FAMILIES.values() for c in f.conditions.values() for ending in c.classes}
    assert used == {*HEADS}


def test_an_architecture_keeps_its_facts_when_the_config_it_was_made_of_changes():
    config = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 8, "num_hidden_layers": 2}
    config |= {"vocab_size": 29, "max_position_embeddings": 16}
    known = Architecture(FAMILIES["llama"], config)
    config["hidden_size"] = 24
    assert known.sizes["hidden"] == 12
    assert known.with_config(config).sizes["hidden"] == 24
    assert known.of_class("LlamaForCausalLM").class_name == "LlamaForCausalLM"
    assert known.class_name == "?"
