"""`grow verify` by running models: what is the same passes with Δ = 0 or 1e-15, and every kind of damage
fails."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from grow.errors import BadInput
from grow.models.true_float64 import TrueFloat64, Unloadable, load, model_class, quiet, tensors
from grow.verification.checks.behaviour import cached_decoding, save_reload
from grow.verification.outputs import pair as pair_module
from grow.verification.outputs.compare import difference, run
from grow.verification.outputs.forward_passes import EXACT, STORAGE_K, runtime_dtype, storage_floor, true_float64
from grow.verification.outputs.pair import Pair, stored_dtype
from grow.verification.probes import probes
from grow.verification.result import Check

# Pairwise distinct sizes; eps large enough to matter; the padding id inside the vocabulary.
LLAMA = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "rms_norm_eps": 0.01,
    "pad_token_id": 3,
}
BERT = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 96,
    "layer_norm_eps": 0.05,
}
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
Edit = Callable[[str, torch.Tensor], torch.Tensor]


def make(folder: Path, family: str, fields: dict, cls: type, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint whose every parameter is random: N(0, 1) tables, N(0, 1.7 / fan_in) weights, 1 + N(0, .09)
    gains."""
    with quiet():
        model = cls.from_config(transformers.AutoConfig.for_model(family, **fields))
        draw = torch.Generator().manual_seed(0)
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            if p.ndim == 1:
                noise = 0.3 * noise + name.endswith("weight")
            elif not any(table in name for table in ("embed", "wte", "wpe")):
                noise *= 1.3 * p.shape[-1] ** -0.5
            p.data = noise
        model.to(dtype).save_pretrained(folder)
    return folder


def derive(source: Path, folder: Path, edit: Edit, dtype: torch.dtype | None = None, **fields) -> Path:
    """A copy of `source` with every tensor edited and some config fields replaced."""
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    if dtype is not None:
        fields["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    found = load_file(source / "model.safetensors")
    new = {k: edit(k, w).to(dtype or w.dtype).contiguous() for k, w in found.items()}
    save_file(new, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def only(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda key, w: change(w.clone()) if key == name else w


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "llama"
    return make(folder, "llama", LLAMA, transformers.AutoModelForCausalLM)


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("verify") / "bert", "bert", BERT, transformers.AutoModel)


def exact(source: Path, grown: Path, **more) -> Check:
    with Pair(source, grown) as pair:
        return true_float64(pair, **more)


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


# Damage

NAMES = [
    f"model.layers.0.{n}.weight"
    for n in (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
]
NAMES += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


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


# Growth


def duplicate(name: str, w: torch.Tensor) -> torch.Tensor:
    """Every axis of a Llama twice: producers copied, consumers halved."""
    if w.ndim == 1:
        return torch.cat([w, w])
    if "embed" in name:
        return torch.cat([w, w], 1)
    w = torch.cat([w, w], 1) / 2
    return w if "lm_head" in name else torch.cat([w, w])


DOUBLE = {"hidden_size": 64, "intermediate_size": 88, "num_attention_heads": 8, "num_key_value_heads": 4}


def test_a_bf16_llama_grown_twice_passes_and_a_damaged_one_does_not(llama, tmp_path):
    source = derive(llama, tmp_path / "a", lambda _, w: w, torch.bfloat16)
    grown = derive(source, tmp_path / "b", duplicate, **DOUBLE)
    assert stored_dtype(grown) == "bfloat16"
    with Pair(source, grown) as pair:
        rungs = [true_float64(pair), runtime_dtype(pair), cached_decoding(pair), save_reload(pair)]
        assert [rung.status for rung in rungs] == ["pass"] * 4, rungs
        assert rungs[0].measured["relative"] < 1e-13
        assert rungs[1].measured["dtype"] == "bfloat16"
        assert rungs[1].measured["top1"] > 0.97
    for name in NAMES[::2]:
        worse = derive(grown, tmp_path / name, only(name, lambda w: w.flip(0)))
        with Pair(source, worse) as pair:
            rung = runtime_dtype(pair)
            assert rung.status == "fail", (name, rung)
            assert rung.measured["ratio_to_floor"] > 10, (name, rung)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_rounded_growth_is_within_what_its_storage_explains(llama, tmp_path, dtype):
    """hidden 32 -> 48 with silent coordinates, stream x sqrt(3/2), gains divided by it."""
    s = math.sqrt(48 / 32)
    draw = torch.Generator().manual_seed(5)

    def silent(name: str, w: torch.Tensor) -> torch.Tensor:
        w = w.double()
        if w.ndim == 1:
            return torch.cat([w / s, torch.ones(16)])
        if "embed" in name:
            return torch.cat([w * s, torch.zeros(w.shape[0], 16)], 1)
        if "o_proj" in name or "down_proj" in name:
            return torch.cat([w * s, torch.zeros(16, w.shape[1])])
        return torch.cat([w, torch.randn(w.shape[0], 16, generator=draw)], 1)

    source = derive(llama, tmp_path / "a", lambda _, w: w, torch.bfloat16)
    grown = derive(source, tmp_path / "b", silent, dtype, hidden_size=48)
    name = str(dtype).removeprefix("torch.")
    with Pair(source, grown) as pair:
        floor = storage_floor(pair, name)
        rung = true_float64(pair, limit=EXACT if name == "float64" else STORAGE_K * floor)
        assert rung.status == "pass", rung
        assert runtime_dtype(pair).status == ("skip" if name == "float64" else "pass")
        if name != "float64":
            assert true_float64(pair).status == "fail", "stored with fewer bits it cannot be exact"
        assert true_float64(pair, limit=math.nan).status == "skip"
        assert cached_decoding(pair, limit=math.nan).status == "skip"
    worse = derive(grown, tmp_path / "c", only("model.norm.weight", lambda w: w.flip(0)))
    assert exact(source, worse, limit=STORAGE_K * floor).status == "fail"


def duplicate_bert(name: str, w: torch.Tensor) -> torch.Tensor:
    if w.ndim == 1:
        return torch.cat([w, w])
    if "embeddings" in name:
        return torch.cat([w, w], 1)
    return torch.cat([torch.cat([w, w], 1) / 2] * 2)


def test_a_wider_base_model_is_read_back_coordinate_by_coordinate(bert_base, tmp_path):
    wide = {"hidden_size": 48, "intermediate_size": 88, "num_attention_heads": 6}
    grown = derive(bert_base, tmp_path / "b", duplicate_bert, **wide)
    source, write = np.tile(np.arange(24), 2), np.ones(48)
    with Pair(bert_base, grown) as pair:
        rung = true_float64(pair, readback=(source, write))
        assert rung.status == "pass", rung
        assert rung.measured["relative"] < 1e-13
        assert runtime_dtype(pair, readback=(source, write)).status == "pass"
        assert cached_decoding(pair, readback=(source, write)).status == "skip"
        fresh = np.where(np.arange(48) < 30, source, -1)
        assert true_float64(pair, readback=(fresh, write)).status == "pass"
        wrong = {
            "covers 20 of the 24": (np.where(np.arange(48) < 20, source, -1), write),
            "at ": (np.roll(source, 1), write),
            "> 1e-12": (source, np.where(np.arange(48) == 40, 1 + 1e-9, 1.0)),
            "0 or not finite": (source, np.where(np.arange(48) == 40, 0.0, 1.0)),
            "sources": (source[:-1], write[:-1]),
            "instead of": {"last_hidden_state": (source, write)},
        }
        for reason, readback in wrong.items():
            rung = true_float64(pair, readback=readback)
            assert rung.status == "fail", reason
            assert reason in rung.reason
        unknown = true_float64(pair)  # nobody says how one is the other: neither equal nor different
        assert (unknown.status, "needs a readback" in unknown.reason) == ("skip", True)


def test_a_larger_vocabulary_is_compared_on_the_old_tokens(llama, tmp_path):
    def append(name: str, w: torch.Tensor) -> torch.Tensor:
        return torch.cat([w, torch.ones(5, w.shape[1])]) if "embed" in name or "lm_head" in name else w

    grown = derive(llama, tmp_path / "b", append, vocab_size=72)
    assert exact(llama, grown).status == "pass"
    assert exact(grown, llama).status == "fail"


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
