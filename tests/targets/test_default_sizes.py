"""Sizes that a config leaves out are those that stock code takes, and are written once they would follow another."""

from __future__ import annotations

import pytest
import transformers
from target_configs import plan

from grow.architectures import architecture_of
from grow.architectures.size_laws import parse_size_law
from grow.errors import BadInput

MAMBA = {
    "model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": 40, "num_hidden_layers": 2,
    "state_size": 5, "vocab_size": 41, "expand": 3, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("said", [{}, {"time_step_rank": "auto"}, {"intermediate_size": None}], ids=str)
def test_what_is_left_out_is_what_stock_code_takes(said):
    stock = transformers.AutoConfig.for_model(**{k: v for k, v in {**MAMBA, **said}.items() if v is not None})
    sizes = architecture_of({**MAMBA, **said}).sizes
    assert (sizes["inner"], sizes["dt_rank"]) == (stock.intermediate_size, stock.time_step_rank) == (120, 3)


@pytest.mark.parametrize("said", [{}, {"time_step_rank": "auto"}], ids=str)
def test_what_would_follow_hidden_is_written_when_hidden_grows(said):
    grown = plan({**MAMBA, **said}, {"hidden": 56})
    assert (grown.new_sizes["inner"], grown.new_sizes["dt_rank"]) == (120, 3)
    again = transformers.AutoConfig.for_model(**grown.new_config)
    assert (again.hidden_size, again.intermediate_size, again.time_step_rank) == (56, 120, 3)


def test_what_follows_a_field_that_is_no_number_is_bad_input():
    with pytest.raises(BadInput, match="wanted int"):
        plan({**MAMBA, "expand": "3"}, {"hidden": 56})
    with pytest.raises(BadInput, match="intermediate_size is the size of the axis inner"):
        assert architecture_of({**MAMBA, "expand": "3"}).sizes


def test_a_size_that_is_rounded_up():
    law = parse_size_law("⌈2 hidden / 16⌉")
    assert [law.value({"hidden": n}) for n in (8, 9, 16, 17)] == [1, 2, 2, 3]
    assert str(law) == "⌈2 hidden / 16⌉"


def test_a_kind_of_layers_has_rows_of_its_own():
    """A condition asks what the layer's entry in a list is; without the list stock code takes numbers of layers."""
    fields = {"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "hidden_size": 18, "num_attention_heads": 6}
    fields |= {"num_key_value_heads": 2, "intermediate_size": 28, "num_hidden_layers": 3, "vocab_size": 41}
    fields |= {"block_auto_adjust_ff_dim": False}
    for said in ({"full_attn_idxs": [1]}, {"layer_types": ["conv", "full_attention", "conv"]}):
        names = architecture_of({**fields, **said}).tensors
        assert [f"model.layers.{i}.conv.conv.weight" in names for i in range(3)] == [True, False, True]
        assert [f"model.layers.{i}.self_attn.q_proj.weight" in names for i in range(3)] == [False, True, False]
    assert not any(".conv." in name for name in architecture_of(fields).tensors)  # then all attend
    grown = plan({**fields, "full_attn_idxs": [1], "architectures": ["Lfm2ForCausalLM"]}, {"layers": 5})
    assert grown.new_config["layer_types"].count("full_attention") == 2
