"""Axes that a family adds, and those that it says do not grow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.facts import Refusal
from grow.errors import Refused
from grow.notation.maps import SILENT, UNREAD
from grow.planning.choose_maps import choose_maps
from grow.planning.target import resolve

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 1,
    "head_dim": 4, "intermediate_size": 10, "num_hidden_layers": 2, "vocab_size": 29, "max_position_embeddings": 16,
    "q_lora_rank": 6, "adapter_rank": 5,
}  # fmt: skip
LLAMA = FAMILIES["llama"]
RANKS = replace(
    LLAMA,
    axes={**LLAMA.axes, "q_rank": "q_lora_rank", "rank": "adapter_rank"},
    table=LLAMA.table
    + """
    model.layers.{layers}.q_a.weight   q_rank <- hidden
    model.layers.{layers}.norm.weight  q_rank *
    model.layers.{layers}.down.weight  rank <- hidden
    """,
)


def test_an_axis_with_a_gain_of_its_own_is_a_normed_stream_and_any_other_one_of_units():
    source = Architecture(RANKS, CONFIG)
    assert RANKS.units == ("ffn", "q_rank", "rank")
    assert source.contexts["q_rank"] == "rms"
    assert source.contexts["rank"] == source.contexts["ffn"] == "elementwise"
    maps, words = choose_maps(source, resolve(source, "q_lora_rank=9,rank=7").sizes, {})
    assert (maps["q_rank"].source[6:] == SILENT).all()
    assert maps["q_rank"].write[0] == pytest.approx(1.5**0.5)
    assert (maps["rank"].source[5:] == UNREAD).all()
    assert maps["rank"].write[0] == 1
    assert "silent" in words["q_rank"]
    assert "unread" in words["rank"]


def test_a_factor_scales_every_axis_of_units():
    assert {"q_rank": 12, "rank": 10, "ffn": 20}.items() <= resolve(Architecture(RANKS, CONFIG), "2x").sizes.items()


def test_an_axis_that_does_not_grow_says_why():
    family = replace(LLAMA, refusals=(Refusal("heads", "its slopes follow their number", when="attention_bias"),))
    with pytest.raises(
        Refused, match=r"heads 3 -> 6.*\n.*its slopes follow their number.*\n.*leave num_attention_heads"
    ):
        resolve(Architecture(family, {**CONFIG, "attention_bias": True}), "num_attention_heads=6")
    source = Architecture(family, {**CONFIG, "attention_bias": False})
    assert resolve(source, "num_attention_heads=6,head_dim=4,hidden_size=24").sizes["heads"] == 6
