"""`grow verify` by running models: what is the same passes with Δ = 0 or 1e-15."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from edited_models import BERT, LLAMA, Edit, derive, exact, make, only
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from grow.models.float64_mode import TrueFloat64
from grow.models.true_float64 import load, model_class, tensors
from grow.verification.checks.cached_decoding import cached_decoding
from grow.verification.checks.save_reload import save_reload
from grow.verification.outputs import pair as pair_module
from grow.verification.outputs.compare import difference, run
from grow.verification.outputs.forward_passes import EXACT, runtime_dtype, true_float64
from grow.verification.outputs.pair import Pair
from grow.verification.probes import probes

OTHERS = {
    "mistral": {**LLAMA, "sliding_window": 20},
    "qwen2": {k: v for k, v in LLAMA.items() if k != "head_dim"},
    "qwen3": {**LLAMA, "head_dim": 12},
    "gpt2": {
        "vocab_size": 67,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 96,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gpt_neox": {**BERT, "bos_token_id": 0, "eos_token_id": 0},
    "opt": {
        "vocab_size": 67,
        "hidden_size": 24,
        "word_embed_proj_dim": 20,
        "ffn_dim": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 96,
    },
    "bert": BERT,
    "roberta": BERT,
    "distilbert": {
        "vocab_size": 67,
        "dim": 24,
        "hidden_dim": 44,
        "n_layers": 2,
        "n_heads": 3,
        "max_position_embeddings": 96,
    },
}


# True float64 really is float64


def test_norm_softmax_and_rope_are_rounded_outside_the_mode_and_not_inside():
    x = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = x.numpy().astype(np.longdouble)
    shifted = np.exp(wide - wide.max(-1, keepdims=True))
    norm = LlamaRMSNorm(32, eps=0.01).double()
    config = transformers.LlamaConfig(hidden_size=32, num_attention_heads=4)
    positions = torch.arange(90)[None]
    theta = np.longdouble(config.rope_parameters["rope_theta"])
    angles = np.arange(90)[:, None] / theta ** (np.arange(0, 8, 2) / np.longdouble(8))
    wanted = {
        "norm": wide / np.sqrt((wide**2).mean(-1, keepdims=True) + np.longdouble(0.01)),
        "softmax": shifted / shifted.sum(-1, keepdims=True),
        "rope": np.concatenate([np.cos(angles)] * 2, -1)[None],
    }

    def found() -> dict[str, torch.Tensor]:
        return {
            "norm": norm(x).detach(),
            "softmax": torch.softmax(x, -1, dtype=torch.float32).double(),
            "rope": LlamaRotaryEmbedding(config)(x[None], positions)[0].double(),
        }

    def errors() -> dict[str, float]:
        return {k: float(np.abs(v.numpy() - wanted[k]).max()) for k, v in found().items()}

    assert all(e > 1e-9 for e in errors().values()), errors()
    with TrueFloat64():
        assert all(e <= 1e-13 for e in errors().values()), errors()


def test_every_kind_of_request_for_fewer_bits_is_widened_and_bits_are_not():
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    with TrueFloat64():
        x = torch.zeros(3)
        made = [
            x,
            torch.tensor([1.0]),
            torch.tensor(np.ones(2, np.float32)),
            x.float(),
            x.half(),
            x.bfloat16(),
        ]
        made += [torch.arange(3, dtype=d) for d in narrow] + [x.to(d) for d in narrow] + [x.type(d) for d in narrow]
        made += [x.type("torch.FloatTensor"), x.new_zeros(2, dtype=torch.float32), x.to("cpu", torch.float32)]
        made += [torch.nn.functional.softmax(x, -1, dtype=torch.float32), torch.nn.Linear(2, 2).weight]
        assert {t.dtype for t in made} == {torch.float64}
        assert torch.polar(x, x).to(torch.complex64).dtype == torch.complex128
        assert torch.ones(1, dtype=torch.int32).view(torch.float32).dtype == torch.float32
    assert torch.zeros(1).dtype == torch.float32
    with pytest.raises(KeyError), TrueFloat64():
        raise KeyError
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("synchronous", ["0", "1"])
def test_a_loaded_model_has_no_narrow_tensor_and_the_values_of_the_file(llama, monkeypatch, synchronous):
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", synchronous)
    model = load(llama, "float64").model
    assert {t.dtype for t in tensors(model).values()} == {torch.float64}
    file = load_file(llama / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == file.keys()
    assert all(torch.equal(state[k], file[k].double()) for k in file)
    inv_freq = dict(model.named_buffers())["model.rotary_emb.inv_freq"]
    wanted = 1 / 10000 ** (np.arange(0, 8, 2) / 8)
    assert np.abs(inv_freq.numpy() - wanted).max() < 1e-16
    assert not torch.equal(inv_freq, inv_freq.float().double())


# The same model


@pytest.mark.parametrize("family", ["llama", *OTHERS])
def test_a_checkpoint_agrees_with_itself_exactly(tmp_path, family):
    masked = family in ("bert", "roberta", "distilbert")
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    folder = make(tmp_path / family, family, OTHERS.get(family, LLAMA), auto)
    with Pair(folder, folder) as pair:
        rung = true_float64(pair)
        assert (rung.status, rung.measured["relative"], rung.measured["top1"]) == ("pass", 0.0, 1.0)
        assert rung.measured["std"] > 0.5, "the logits are dead"
        json.dumps(rung.measured, allow_nan=False)
        assert {t.dtype for t in tensors(pair.model("source", "float64")).values()} <= {
            torch.float64,
            torch.int64,
        }
        decoded = cached_decoding(pair)
        assert decoded.status == ("skip" if masked else "pass"), decoded
        assert masked or decoded.measured["cache_against_full_relative"] < 1e-13
        assert save_reload(pair).status == "pass"


HEADS = ["", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_other_heads_are_compared_too(tmp_path, family, head):
    auto = getattr(transformers, f"AutoModel{head}")
    folder = make(tmp_path / "a", family, OTHERS.get(family, LLAMA), auto)
    last = [k for k in load_file(folder / "model.safetensors") if "norm" in k.lower() or "ln_f" in k][-1]
    worse = derive(folder, tmp_path / "b", only(last, lambda w: w.flip(0)))
    assert exact(folder, folder).status == "pass"
    assert exact(folder, worse).status == "fail"


def permuted(order: torch.Tensor) -> Edit:
    """The hidden axis in another order: an exact transformation that rounds sums differently."""

    def edit(name: str, w: torch.Tensor) -> torch.Tensor:
        produces = "o_proj" in name or "down_proj" in name or w.ndim == 1
        return w[order] if produces else w[:, order]

    return edit


def test_a_permuted_llama_passes_every_rung(llama, tmp_path):
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    with Pair(llama, derive(llama, tmp_path / "b", permuted(order))) as pair:
        for rung in (true_float64(pair), runtime_dtype(pair), cached_decoding(pair), save_reload(pair)):
            assert rung.status == "pass", rung
        assert 0 < true_float64(pair).measured["relative"] < EXACT / 10
        assert true_float64(pair).measured["kl"] < 1e-15


# Probes, memory and saving


def test_probes_are_valid_seeded_and_padded_where_they_say(tmp_path):
    folder = make(tmp_path / "roberta", "roberta", BERT, transformers.AutoModelForMaskedLM)
    config, cls = transformers.AutoConfig.from_pretrained(folder), model_class(folder)
    found = {p.name: p for p in probes(config, cls, folder, seed=7)}
    again = {p.name: p for p in probes(config, cls, folder, seed=7)}
    other = {p.name: p for p in probes(config, cls, folder, seed=8)}
    assert {"random", "repeated", "single", "left_padded", "right_padded", "far_positions", "masked"} <= set(found)
    assert torch.equal(found["random"].inputs["input_ids"], again["random"].inputs["input_ids"])
    assert not torch.equal(found["random"].inputs["input_ids"], other["random"].inputs["input_ids"])
    for name, probe in found.items():
        ids = probe.inputs["input_ids"]
        assert 0 <= ids.min() <= ids.max() < 67
        read = name == "padding_read"  # there the padding token counts
        assert torch.equal((ids != config.pad_token_id) | read, probe.counted), name
        assert read == bool((probe.counted & (ids == config.pad_token_id)).any())
        assert torch.equal(probe.inputs["attention_mask"].bool(), probe.counted)
    assert not found["left_padded"].counted[1, 0]
    assert found["left_padded"].counted[:, -1].all()
    assert found["right_padded"].counted[:, 0].all()
    assert found["far_positions"].inputs["position_ids"].max() == 95


def test_padding_positions_do_not_count_and_top1_ties_do(llama):
    model = load(llama, "float32").model
    config = transformers.AutoConfig.from_pretrained(llama)
    out = run(model, probes(config, type(model), llama))
    assert out["left_padded/logits"].shape == (32 + 10 + 31, 67)
    a = {"p/logits": torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)}
    b = {"p/logits": torch.tensor([[0.9, 1.1, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)}
    found = difference(a, b)
    assert found.top1 == 0.5
    assert found.where == "p/logits[1, 1]"
    assert found.relative == pytest.approx(2 / a["p/logits"].std(unbiased=False).item())
    assert found.kl is not None
    assert found.kl > 0
    assert difference(a, {}).reason


def test_too_little_memory_is_a_skip_with_the_numbers(llama, monkeypatch):
    monkeypatch.setattr(pair_module, "available_memory", lambda: 1000)
    rung = exact(llama, llama)
    assert rung.status == "skip"
    assert "GB are free" in rung.reason


def test_a_checkpoint_that_does_not_survive_saving_fails(llama, monkeypatch):
    real = transformers.PreTrainedModel.save_pretrained

    def lossy(self, folder, *args, **kwargs):
        self.lm_head.weight.data[0, 0] += 1
        real(self, folder, *args, **kwargs)
        self.lm_head.weight.data[0, 0] -= 1

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", lossy)
    with Pair(llama, llama) as pair:
        rung = save_reload(pair)
    assert rung.status == "fail"
    assert "lm_head.weight" in rung.reason
