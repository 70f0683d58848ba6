"""A model in memory grows along every axis to a model that a training loop can go on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawn_targets import EXACT, FLOAT32
from models import ONE_EACH, Float64, difference, inputs, load, make

import grow
from grow.models.fused_experts import called

# Width, depth, vocabulary and positions in one plan; the families differ in how hidden may grow.
TARGETS = {
    "llama": {"hidden": 24, "heads": 8, "layers": 4, "vocab": 50, "positions": 96},
    "llama-tied": {"hidden": 36, "ffn": 40, "layers": 3, "vocab": 50},
    "mistral": {"hidden": 36, "layers": 5, "vocab": 64},
    "qwen2": {"hidden": 48, "layers": 3, "vocab": 50},
    "qwen2-window": {"hidden": 48, "layers": 4},
    "qwen3": {"head_dim": 12, "layers": 3, "vocab": 42},
    "gpt2": {"hidden": 20, "heads": 5, "layers": 4, "vocab": 50, "positions": 90},
    "gpt2-inverse": {"hidden": 24, "layers": 3, "positions": 65},
    "gpt_neox": {"hidden": 48, "layers": 3, "vocab": 50},
    "opt": {"hidden": 24, "layers": 4, "vocab": 50, "positions": 80},
    "bert-mlm": {"hidden": 24, "ffn": 30, "layers": 4, "vocab": 50, "positions": 80},
    "bert-sequence": {"hidden": 24, "layers": 3, "vocab": 50},
    "roberta-mlm": {"hidden": 36, "layers": 3, "vocab": 50, "positions": 70},
    "distilbert-mlm": {"hidden": 24, "layers": 4, "vocab": 50, "positions": 80},
}

AS_LONG = {"olmoe": {"hidden": 48, "heads": 12, "kv_heads": 4}}
AS_LONG |= {name: {"hidden": 24, "heads": 6} for name in ("modernbert-mlm", "modernbert-decoder")}
"""Targets with heads as long as they were: a longer one has other frequencies."""


def apart(one, two) -> float:
    """max |Δ| / std of the outputs for the same old tokens; logits of new tokens are left out."""
    with Float64(), torch.no_grad():
        a, b = (load(model) if isinstance(model, Path) else model for model in (one, two))
        given = inputs(a.config, 17)
        old, new = (model(**given, use_cache=False).to_tuple() for model in (a, b))
    assert len(old) == len(new)
    named = [{str(i): x[..., : y.shape[-1]] for i, (x, y) in enumerate(zip(found, old))} for found in (old, new)]
    return difference(*named)


@pytest.mark.parametrize("variant", TARGETS)
def test_everything_grows_in_memory(variant, tmp_path):
    model = make(variant).double()
    growth = grow.widen(model, TARGETS[variant], verify=False)
    # the two as they are round RoPE to float32; saved and loaded in true float64 nothing does
    assert apart(model, growth.model) <= FLOAT32
    model.save_pretrained(tmp_path / "source")
    growth.model.save_pretrained(tmp_path / "grown")
    assert apart(tmp_path / "source", tmp_path / "grown") <= EXACT
    in_files = called(growth.model) or {}
    grown = {in_files.get(name, name) for name, _ in growth.model.named_parameters()}
    assert grown <= {t.name for t in growth.plan.tensors}


@pytest.mark.parametrize("variant", ["llama-tied", "gpt2", "bert-mlm"])
def test_what_grew_in_memory_is_verified(variant):
    growth = grow.widen(make(variant), TARGETS[variant])
    assert growth.verified, growth.verification
    assert growth.path is None


def aliases(model) -> set[frozenset[str]]:
    """Names that stand for one parameter."""
    found: dict[int, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(p), set()).add(name)
    return {frozenset(names) for names in found.values() if len(names) > 1}


@pytest.mark.parametrize("variant", ["llama-tied", *ONE_EACH])
def test_what_is_tied_stays_tied_and_buffers_stay_what_they_are(variant):
    model = make(variant)
    whole = {**TARGETS, **AS_LONG}.get(variant, {"hidden": 2 * model.config.hidden_size})
    to = {k: v for k, v in whole.items() if k != "head_dim"}
    grown = grow.widen(model, to, verify=False).model
    assert aliases(grown) == aliases(model)
    old, new = dict(model.named_buffers()), dict(grown.named_buffers())
    assert old.keys() == new.keys()
    for name, buffer in old.items():
        assert new[name].dtype == buffer.dtype
        if "position_ids" not in name and "token_type_ids" not in name and name.endswith("inv_freq"):
            kept = torch.isin(buffer, new[name]).all()  # a head that is hidden / heads has new pairs, too
            assert kept if new[name].shape != buffer.shape else torch.equal(new[name], buffer), name


def test_in_bfloat16_the_frequencies_of_rope_are_not_rounded(tmp_path):
    """Loaded by stock code they are float32; the grown model computes what it computes once saved and loaded."""
    make("llama").bfloat16().save_pretrained(tmp_path / "source")
    model = type(make("llama")).from_pretrained(tmp_path / "source")
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    grown = grow.widen(model, {"hidden": 36}, verify=False).model
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    grown.save_pretrained(tmp_path / "grown")
    again = type(grown).from_pretrained(tmp_path / "grown").eval()
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        assert torch.equal(grown.eval()(ids).logits, again(ids).logits)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
@pytest.mark.parametrize("train", [True, False])
def test_frozen_parameters_mode_and_device_carry_over(variant, train):
    """An inserted layer is frozen where the layer it took its weights from is."""
    model = make(variant).train(train)
    for name, p in model.named_parameters():
        p.requires_grad_("0" in name)
    growth = grow.widen(model, TARGETS[variant], verify=False)
    old, new = dict(model.named_parameters()), dict(growth.model.named_parameters())
    sources = {t.name: t.source for t in growth.plan.tensors}
    assert [p.requires_grad for p in new.values()] == [old[sources[name]].requires_grad for name in new]
    assert {p.requires_grad for p in new.values()} == {True, False}
    assert growth.model.training is train
    assert {p.device for p in new.values()} == {model.device}


def test_settings_of_a_loop_carry_over_and_nothing_random_is_drawn():
    model = make("llama").train()
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    random = torch.get_rng_state()
    grown = grow.widen(model, {"hidden": 24, "layers": 3}, verify=False).model
    assert torch.equal(random, torch.get_rng_state())
    assert grown.generation_config.temperature == 0.7
    assert grown.generation_config is not model.generation_config
    layers = grown.model.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    assert all(layer._gradient_checkpointing_func.keywords == {"use_reentrant": False} for layer in layers)
    ids = torch.arange(4, 30)[None]
    grown(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in grown.parameters())
