"""The model that is given is the model that grows: what its config and weights do not say is refused by name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import VARIANTS, inputs, make
from torch import nn
from torch.nn.utils import parametrize

import grow
from grow.growth.model_source import ModelSource
from grow.integrations import grow_in_place
from grow.models.as_configured import twin_of
from grow.models.names_looked_up import reads
from grow.models.same_outputs import check_runs_alike, outputs

TO = {"hidden": 36}


class Half(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


class Adapter(nn.Module):
    """What peft puts in the place of a layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


Adapter.__module__ = "peft.tuners.lora.layer"


class Eight(nn.Linear):
    """A layer of another library."""


Eight.__module__ = "bitsandbytes.nn.modules"


def layer(model) -> Any:
    return model.model.layers[1]


def eight(model) -> None:
    old = layer(model).mlp.up_proj
    layer(model).mlp.up_proj = Eight(old.in_features, old.out_features, bias=False)


def patched(model) -> None:
    before = layer(model).mlp.forward
    layer(model).mlp.forward = lambda x: 2 * before(x)


def bound(model) -> None:
    cls = type(layer(model).self_attn)

    @functools.wraps(cls.forward)
    def forward(self, *args, **more):
        out, weights = cls.forward(self, *args, **more)
        return 2 * out, weights

    layer(model).self_attn.forward = forward.__get__(layer(model).self_attn)


def untied(model) -> None:
    model.config.tie_word_embeddings = True


def tied(model) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


def another_config(model) -> None:
    layer(model).self_attn.config = copy.deepcopy(model.config)
    layer(model).self_attn.config.attention_dropout = 0.3


def frequencies(model) -> None:
    model.model.rotary_emb.inv_freq *= 1.001


def normed(model) -> None:
    nn.utils.parametrizations.weight_norm(layer(model).mlp.up_proj)


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a hook on outputs": (lambda m: layer(m).mlp.register_forward_hook(lambda *a: 2 * a[2]), "layers.1.mlp: forward_h"),
    "a hook on inputs": (lambda m: layer(m).register_forward_pre_hook(lambda *a: None), "layers.1: forward_pre_hooks"),
    "a hook on the model": (lambda m: m.register_forward_hook(lambda *a: None), "LlamaForCausalLM: forward_hooks"),
    "a hook on gradients": (lambda m: layer(m).register_full_backward_hook(lambda *a: None), "layers.1: backward_hoo"),
    "a hook on a weight": (lambda m: m.lm_head.weight.register_hook(lambda g: g), "lm_head.weight: a hook on its"),
    "a hook on its accumulation": (
        lambda m: m.lm_head.weight.register_post_accumulate_grad_hook(lambda p: None),
        "lm_head.weight: a hook on its gradient",
    ),
    "a hook on the state": (lambda m: m.register_state_dict_post_hook(lambda *a: None), "CausalLM: state_dict_"),
    "a hook on loading": (lambda m: m.register_load_state_dict_pre_hook(lambda *a: None), "load_state_dict_pre_hooks"),
    "a function of its own": (patched, r"layers.1.mlp.forward: was replaced on this object"),
    "a method of its own": (bound, r"layers.1.self_attn.forward: was replaced on this object"),
    "a loss of its own": (lambda m: setattr(m, "loss_function", lambda *a, **k: 0), "LlamaForCausalLM._loss_function"),
    "generation of its own": (
        lambda m: setattr(m, "prepare_inputs_for_generation", lambda *a, **k: {}),
        "prepare_inputs_for_generation: was replaced",
    ),
    "another activation": (lambda m: setattr(layer(m).mlp, "act_fn", nn.GELU()), "layers.1.mlp.act_fn: is a torch"),
    "another class": (eight, r"layers.1.mlp.up_proj: is a bitsandbytes.nn.modules.Eight; its config builds a torch"),
    "no layer": (lambda m: layer(m).mlp.register_module("act_fn", nn.Identity()), "layers.1.mlp.act_fn: is a torch"),
    "one more": (lambda m: layer(m).register_module("more", nn.Linear(2, 3)), "layers.1.more: is a torch"),
    "one less": (lambda m: delattr(layer(m).mlp, "act_fn"), "layers.1.mlp.act_fn: is missing"),
    "a layer twice": (lambda m: m.model.layers.__setitem__(1, m.model.layers[0]), "is the same parameter as"),
    "a parametrisation": (
        lambda m: parametrize.register_parametrization(layer(m).mlp.up_proj, "weight", Half()),
        "layers.1.mlp.up_proj.weight: has a parametrization",
    ),
    "a normed weight": (normed, "layers.1.mlp.up_proj.weight: has a parametrization"),
    "a new bias": (
        lambda m: setattr(m.lm_head, "bias", nn.Parameter(torch.ones(41))),
        "lm_head.bias: is a parameter that its config does not build",
    ),
    "scores scaled": (lambda m: setattr(layer(m).self_attn, "scaling", 0.5), r"layers.1.self_attn.scaling: is 0.5;"),
    "an eps": (lambda m: setattr(m.model.norm, "variance_epsilon", 0.06), r"model.norm.variance_epsilon: is 0.06;"),
    "no causal mask": (lambda m: setattr(layer(m).self_attn, "is_causal", False), "self_attn.is_causal: is False"),
    "dropout": (lambda m: setattr(layer(m).self_attn, "attention_dropout", 0.3), "attention_dropout: is 0.3"),
    "frequencies": (frequencies, "model.rotary_emb.inv_freq: is not the buffer that its config builds"),
    "a scale of RoPE": (lambda m: setattr(m.model.rotary_emb, "attention_scaling", 2.0), "attention_scaling: is 2.0"),
    "a config edited: eps": (lambda m: setattr(m.config, "rms_norm_eps", 1e-6), "variance_epsilon: is 0.05; its"),
    "a config edited: θ": (lambda m: m.config.rope_parameters.update(rope_theta=77.0), "rotary_emb.inv_freq"),
    "a config edited: act": (lambda m: setattr(m.config, "hidden_act", "gelu"), "act_fn: is a transformers"),
    "a config edited: ties": (untied, "is not the same parameter as"),
    "tied in memory alone": (tied, "is the same parameter as"),
    "other sizes": (lambda m: setattr(m.config, "intermediate_size", 30), "gate_proj.weight: is of .28, 18.; its"),
    "a config of a part": (another_config, "layers.1.self_attn.config: is not the model's config"),
}  # fmt: skip


def kept(model) -> list[tuple[str, torch.Tensor]]:
    return [*((n, p.clone()) for n, p in model.named_parameters()), *((n, b.clone()) for n, b in model.named_buffers())]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("call", [grow.widen, grow.plan])
def test_what_would_be_lost_is_refused_by_name(change, call):
    model = make("llama").train()
    CHANGES[change][0](model)
    before, random = kept(model), torch.get_rng_state()
    options = {"verify": False} if call is grow.widen else {}
    with pytest.raises(grow.GrowError, match=CHANGES[change][1]) as error:
        call(model, TO, **options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    assert all(n == m and torch.equal(a, b) for (n, a), (m, b) in zip(before, kept(model)))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training


@pytest.mark.parametrize("change", ["a function of its own", "another activation", "scores scaled", "an eps"])
def test_in_place_and_with_experts_it_is_refused_too(change):
    model = make("llama")
    CHANGES[change][0](model)
    with pytest.raises(grow.GrowError, match=CHANGES[change][1]):
        grow_in_place(model, TO, verify=False)
    assert model.config.hidden_size == 18
    with pytest.raises(grow.GrowError, match=CHANGES[change][1]):
        grow.upcycle(model, 4, verify=False)


def test_a_hook_on_the_object_itself_stays_with_an_object_that_grows():
    model, seen = make("llama"), []
    model.register_forward_hook(lambda *_: seen.append(1))
    grow_in_place(model, TO, batch=inputs(model.config, 9), verify=False)
    seen.clear()
    model(**inputs(model.config, 9))
    assert seen == [1]


def test_what_no_setting_shows_is_found_by_running(monkeypatch):
    """Functions of one layer read something else: the module is named, and nothing about the model has changed."""
    model = make("llama-tied").train()
    twin = twin_of(model, ModelSource(model).config)
    check_runs_alike(model, twin)
    strange = layer(model).mlp
    cls, before = type(strange), type(strange).forward
    monkeypatch.setattr(cls, "forward", lambda self, x: before(self, x) * (1.0001 if self is strange else 1))
    random, buffers = torch.get_rng_state(), dict(model.named_buffers())
    with pytest.raises(grow.Refused, match=r"model.layers.1.mlp: computes something else than its config"):
        grow.widen(model, TO)
    assert torch.equal(random, torch.get_rng_state())
    assert all(model.get_buffer(n) is b for n, b in buffers.items())
    assert all(module.training for module in model.modules())


def test_a_grown_model_that_answers_otherwise_is_not_kept(monkeypatch):
    from grow.growth import in_memory

    build = in_memory.build

    def wrong(*arguments):
        grown = build(*arguments)
        grown.model.norm.register_forward_hook(lambda module, given, result: 1.1 * result)
        return grown

    monkeypatch.setattr(in_memory, "build", wrong)
    with pytest.raises(grow.Different, match="of its std off after the growth"):
        grow.widen(make("llama-tied"), TO)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_stock_model_is_refused(variant):
    """As made, with a table resized, a padding token set late (which everybody does), in bfloat16."""
    model = make(variant).train()
    check_runs_alike(model, ModelSource(model).checked()[1])
    table = "vocab" in grow.families[VARIANTS[variant].model_type].axes
    if table and not variant.endswith(
        "mlm-untied"
    ):  # stock resizing leaves a bias of the old length, or one that is shared
        model.resize_token_embeddings(50)
    if not grow.families[VARIANTS[variant].model_type].positions_from:  # there it says where positions begin
        model.config.pad_token_id = 3
    for one in (model, model.bfloat16()):
        check_runs_alike(one, twin_of(one, ModelSource(one).config))
    assert model.training


def test_what_comes_along_or_does_no_harm_is_let_be():
    model = make("llama").train()
    model.note, model.name_or_path = "mine", "here"
    model.config.pad_token_id = 3
    model.model.embed_tokens.padding_idx = 5
    model.enable_input_require_grads()
    model(**inputs(model.config, 9), output_hidden_states=True)  # transformers puts hooks of its own
    model.forward = torch.autocast("cpu", torch.bfloat16)(type(model).forward).__get__(model)
    model._original_forward = type(model).forward.__get__(model)
    for p in model.model.parameters():
        p.requires_grad_(False)
    grown = grow.widen(model, TO).model
    assert grown.model.embed_tokens.padding_idx == 5
    found = grown.model.embed_tokens(torch.tensor([4]))
    assert found.requires_grad
    assert "forward" not in vars(grown)


def test_a_positional_model_reads_its_padding_token():
    """RoBERTa counts positions from it: there a token set late is another function."""
    model = make("roberta-mlm")
    model.config.pad_token_id = 3
    with pytest.raises(grow.Refused, match=r"embeddings\.padding_idx: is"):
        grow.plan(model, {"hidden": 24})


def test_frequencies_that_follow_the_length_are_no_change():
    model = make("llama-dynamic")
    with torch.no_grad():
        model(torch.arange(4, 40)[None].repeat(1, 3)[:, :90])
    stock = make("llama-dynamic").model.rotary_emb.inv_freq
    assert not torch.equal(model.model.rotary_emb.inv_freq, stock)
    state = {n: b.clone() for n, b in model.named_buffers()}
    assert grow.widen(model, TO).verified
    assert all(torch.equal(b, state[n]) for n, b in model.named_buffers())


def test_reads_are_what_code_looks_up():
    model = make("llama")
    assert {"scaling", "head_dim", "is_causal", "layer_idx"} <= reads(type(layer(model).self_attn))
    assert "variance_epsilon" in reads(type(model.model.norm))
    assert not {"padding_idx", "vocab_size"} & reads(type(model.model)) - reads(type(model))
    assert "_loss_function" in reads(type(model))


def test_outputs_disturb_nothing():
    model = make("bert-mlm").train()
    first, random = outputs(model, inputs(model.config, 9)), torch.get_rng_state()
    again = outputs(model, inputs(model.config, 9))
    assert all(torch.equal(a, again[n]) for n, a in first.items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training


# Adapters and wrappers


class PeftModel(nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.base_model = model


PeftModel.__module__ = "peft.peft_model"


def adapted(model):
    layer(model).self_attn.q_proj = Adapter(layer(model).self_attn.q_proj)
    return model


def flagged(model):
    model._hf_peft_config_loaded = True
    return model


@pytest.mark.parametrize("wrap", [PeftModel, adapted, flagged, lambda m: PeftModel(adapted(m))])
def test_adapters_are_told_to_be_merged(wrap):
    model = wrap(make("llama"))
    for call in (grow.widen, grow.plan, functools.partial(grow_in_place, verify=False)):
        with pytest.raises(grow.Refused, match="has PEFT adapters") as error:
            call(model, TO)
        assert "merge_and_unload()" in str(error.value)
        assert "DataParallel" not in str(error.value)


def test_a_wrapper_is_told_what_it_wraps():
    class Value(nn.Module):
        def __init__(self, model) -> None:
            super().__init__()
            self.pretrained_model = model

    with pytest.raises(grow.BadInput, match=r"pass what it wraps: model.pretrained_mo"):
        grow.widen(Value(make("llama")), TO)


def test_a_class_of_ones_own_is_no_stock_class():
    class Mine(type(make("llama"))):
        def forward(self, *args, **more):
            found = super().forward(*args, **more)
            found.logits = 2 * found.logits
            return found

    model = make("llama")
    model.__class__ = Mine
    with pytest.raises(grow.Refused, match="is not a class of transformers"):
        grow.widen(model, TO, verify=False)
