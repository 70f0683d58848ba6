"""`grow verify` by running models: every kind of damage fails."""

from __future__ import annotations

import json
import math

import pytest
import torch
from edited_models import NAMES, derive, exact, only
from safetensors.torch import load_file, save_file

from grow.errors import BadInput
from grow.models.true_float64 import Unloadable, model_class
from grow.verification.checks.cached_decoding import cached_decoding
from grow.verification.outputs.forward_passes import runtime_dtype
from grow.verification.outputs.pair import Pair

# Damage


@pytest.mark.parametrize("name", NAMES)
def test_one_reversed_tensor_fails(llama, tmp_path, name):
    rung = exact(llama, derive(llama, tmp_path / "b", only(name, lambda w: w.flip(0))))
    assert rung.status == "fail"
    assert rung.measured["relative"] > 0.1


def nudge(w: torch.Tensor) -> torch.Tensor:
    w.view(-1)[17] *= 1 + 1e-6
    return w


@pytest.mark.parametrize("name", [n for n in NAMES if "embed" not in n])
def test_one_element_off_by_a_millionth_fails(llama, tmp_path, name):
    assert exact(llama, derive(llama, tmp_path / "b", only(name, nudge))).status == "fail"


@pytest.mark.parametrize(
    "fields",
    [
        {"rms_norm_eps": 0.0100001},
        {"rope_parameters": {"rope_theta": 10001.0, "rope_type": "default"}},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1},
        {"hidden_act": "gelu"},
        {"max_position_embeddings": 12, "vocab_size": 66},
        {"architectures": ["LlamaModel"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_changed_config_fails(llama, tmp_path, fields):
    rung = exact(llama, derive(llama, tmp_path / "b", lambda _, w: w, **fields))
    assert rung.status == "fail", rung
    assert rung.reason


def test_nan_is_never_equal_even_to_itself(llama, tmp_path):
    def poison(w: torch.Tensor) -> torch.Tensor:
        w[0] = math.nan
        return w

    bad = derive(llama, tmp_path / "b", only("model.norm.weight", poison))
    for source, grown in ((llama, bad), (bad, llama), (bad, bad)):
        rung = exact(source, grown)
        assert rung.status == "fail"
        assert "NaN" in rung.reason
        json.dumps(rung.measured, allow_nan=False)
    with Pair(bad, bad) as pair:
        assert runtime_dtype(pair).status == "fail"
        assert cached_decoding(pair).status == "fail"


def test_a_grown_model_that_cannot_decode_fails(llama, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no room for another key")

    with Pair(llama, llama) as pair:
        attention = pair.model("grown", "float64").model.layers[1].self_attn
        monkeypatch.setattr(attention, "forward", broken)
        rung = cached_decoding(pair)
    assert rung.status == "fail"
    assert "step by step: no room for another key" in rung.reason


def test_a_source_with_constant_outputs_proves_nothing(llama, tmp_path):
    dead = derive(llama, tmp_path / "b", only("lm_head.weight", torch.zeros_like))
    rung = exact(dead, dead)
    assert rung.status == "fail"
    assert "constant" in rung.reason


def test_a_weight_that_is_missing_or_misnamed_is_reported_by_name(llama, tmp_path):
    misnamed = derive(llama, tmp_path / "b", lambda _, w: w)
    state = load_file(misnamed / "model.safetensors")
    state["model.norm.scale"] = state.pop("model.norm.weight")
    save_file(state, misnamed / "model.safetensors", metadata={"format": "pt"})
    rung = exact(llama, misnamed)
    assert rung.status == "fail"
    assert "model.norm.weight" in rung.reason
    with pytest.raises(Unloadable, match=r"model\.norm\.weight"):
        exact(misnamed, llama)
    state["model.norm.weight"] = state["model.norm.scale"].clone()
    save_file(state, misnamed / "model.safetensors", metadata={"format": "pt"})
    rung = exact(llama, misnamed)
    assert rung.status == "fail"
    assert "model.norm.scale" in rung.reason
    assert exact(misnamed, misnamed).status == "pass", "what the source's class ignores, the grown one may carry"


def test_remote_code_and_unreadable_folders_are_bad_input(llama, tmp_path):
    remote = derive(
        llama, tmp_path / "b", lambda _, w: w, architectures=["MyForCausalLM"], auto_map={"AutoModel": "x.Y"}
    )
    with pytest.raises(BadInput, match="never run"):
        model_class(remote)
    with pytest.raises(BadInput):
        exact(tmp_path / "nothing", llama)
    assert exact(llama, tmp_path / "nothing").status == "fail"
