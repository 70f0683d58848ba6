"""Kinds of layers in runs, sizes that stock code computes, and a rotated width that a field says."""

from __future__ import annotations

import pytest

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.layer_lists import expanded
from grow.architectures.size_laws import parse_size_laws
from grow.errors import BadInput, Refused
from grow.planning.change import layer_config
from grow.planning.layers import insert
from grow.planning.target import resolve

pytestmark = pytest.mark.quick

NEO = {
    "architectures": ["GPTNeoForCausalLM"], "hidden_size": 12, "num_heads": 3, "num_layers": 4, "vocab_size": 41,
    "attention_types": [[["global", "local"], 2]],
}  # fmt: skip
GPT = {"n_embd": 12, "n_head": 3, "n_layer": 2, "vocab_size": 41, "n_positions": 64}


def neo(**other) -> Architecture:
    return Architecture(FAMILIES["gpt_neo"], {**NEO, **other})


@pytest.mark.parametrize(
    "runs", ["global", [["global", 4]], [[["global"], "4"]], [[["global"], 4, 1]], [[["global"], 10**12]]]
)
def test_what_is_no_list_of_runs_is_told(runs):
    assert expanded(runs) is None
    with pytest.raises(BadInput, match=r"runs .*that make 4 of global, local"):
        check_fields(neo(attention_types=runs))


def test_runs_of_another_depth_or_kind_are_told():
    for runs in ([[["global"], 3]], [[["global", "dilated"], 2]]):
        with pytest.raises(BadInput, match="attention_types"):
            check_fields(neo(attention_types=runs))


def test_a_list_and_runs_that_contradict_each_other_are_told():
    check_fields(neo(attention_layers=["global", "local"] * 2))
    with pytest.raises(BadInput, match=r"attention_layers.*attention_types says"):
        check_fields(neo(attention_layers=["global"] * 4))


def test_new_layers_see_what_the_layer_sees_that_they_come_from():
    """In the list and in the runs; layer 1 sees a window, and so does the new one behind it."""
    kinds = ["global", "local", "local", "global", "local"]
    depth = insert(4, [1])
    changes = layer_config(neo(), {"layers": depth})
    wanted = [kinds[:2][i % 2] for i in depth.source]
    assert changes == {"attention_layers": wanted, "attention_types": [[wanted, 1]]}
    assert layer_config(neo(attention_types=[[["local"], 4]]), {"layers": depth})["attention_types"] == [[["local"], 5]]


@pytest.mark.parametrize("multi_query", [True, False])
def test_stock_code_computes_how_many_kv_heads_there_are(multi_query):
    """Whatever the field says, which it writes and does not read."""
    source = Architecture(FAMILIES["gpt_bigcode"], {**GPT, "multi_query": multi_query, "num_key_value_heads": 7})
    assert source.sizes["kv_heads"] == (1 if multi_query else 3)
    assert resolve(source, "2x").sizes["kv_heads"] == (1 if multi_query else 6)
    with pytest.raises(Refused, match="kv_heads 2 != " + ("1" if multi_query else "heads 3")) as caught:
        resolve(source, "num_key_value_heads=2" if multi_query else "kv_heads=2,n_head=3")
    assert caught.value.fix == "leave kv_heads out"


def test_where_no_field_says_kv_heads_they_are_the_heads():
    """A target that named them grew a model that no config can say."""
    with pytest.raises(Refused, match="kv_heads 3 != heads 6"):
        resolve(Architecture(FAMILIES["gpt2"], GPT), "kv_heads=3,heads=6,hidden=24")


@pytest.mark.parametrize("text", ["", "/ heads", "2 3", "4 Hidden", "0"])
def test_a_size_that_is_no_product_is_no_law(text):
    with pytest.raises(ValueError, match="no product of axes"):
        parse_size_laws(text)


@pytest.mark.parametrize("rotated", [0, 3, 6, -2, "4", None])
def test_a_rotated_width_that_is_none_is_told(rotated):
    source = Architecture(FAMILIES["gptj"], {**GPT, "rotary_dim": rotated})
    with pytest.raises(BadInput, match="rotary_dim"):
        check_fields(source)
    check_fields(source.with_config({**source.config, "rotary_dim": 4}))
