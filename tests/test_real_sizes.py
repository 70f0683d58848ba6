"""Outputs as large as those of models that people use: a vocabulary of 152k, 40k positions, little memory."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
import transformers

import grow
from grow.verification.outputs import memory_needed, noise_floors, stored_outputs
from grow.verification.outputs import pair as pair_module
from grow.verification.outputs.compare import difference, evenly, scatter, spread
from grow.verification.outputs.noise_floors import reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_outputs import StoredOutputs
from grow.verification.probes.token_ids import BRIEF, full_context


def test_places_of_a_plot_are_whole_numbers_beyond_what_float32_counts():
    n = 128 * 151_936
    places = evenly(n, 400)
    assert (places[0], places[-1], len(places)) == (0, n - 1, 400)
    assert evenly(1, 400).tolist() == [0]
    value = torch.zeros(n, 1).expand(n, 1)
    assert len(scatter({"random/logits": value}, {"random/logits": value})["grown"]) == 400


def test_large_outputs_lie_on_disk_and_read_back_bit_for_bit(monkeypatch):
    monkeypatch.setattr(stored_outputs, "SPILL", 100)
    out, draw = StoredOutputs(), torch.Generator().manual_seed(1)
    wanted = {
        f"p{k}/logits": torch.randn(7, 5 + k, generator=draw).to(dtype)
        for k, dtype in enumerate((torch.float64, torch.bfloat16, torch.float32))
    }
    out.update(wanted)
    assert out._file is not None
    for key, value in wanted.items():
        assert out.shape(key) == tuple(value.shape)
        assert out[key].dtype == value.dtype
        assert torch.equal(out[key], value)
    both = out.only({"p0/logits"}) | out.only({"p1/logits"})
    assert sorted(both) == ["p0/logits", "p1/logits"]


def test_slices_measure_what_the_whole_measures(monkeypatch):
    draw = torch.Generator().manual_seed(2)
    a = {f"p{k}/logits": torch.randn(9 + k, 13, generator=draw, dtype=torch.float64) + k for k in range(3)}
    b = {key: value + 1e-3 * torch.randn(value.shape, generator=draw) for key, value in a.items()}
    b["p2/logits"][8, 11] += 1.0
    whole = difference(a, b)
    monkeypatch.setattr(stored_outputs, "ELEMENTS", 30)
    parts = difference(a, b)
    assert parts.where == whole.where == "p2/logits[8, 11]"
    for name in ("relative", "max_abs", "mean_abs", "std", "kl", "kl_max", "top1"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    together = torch.cat([value.flatten() for value in a.values()])
    assert spread(a)["logits"] == pytest.approx(float(together.std(correction=0)), rel=1e-12)


def test_positions_of_forty_thousand_make_no_long_probe():
    assert full_context(transformers.LlamaConfig(max_position_embeddings=40_960), 0, 64)[0] == BRIEF
    assert full_context(transformers.LlamaConfig(max_position_embeddings=2048), 0, 64)[0] == 512


def test_a_config_that_rounds_on_loading_is_different(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype="F32")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    assert grow.verify(source, grown, rungs=["true_float64", "runtime_dtype"]).lossless
    tiny.edit_json(grown / "config.json", lambda config: config.update(dtype="float16"))
    found = grow.verify(source, grown, rungs=["true_float64", "runtime_dtype"])
    assert found.verdict == "different"
    check = found.check("runtime_dtype")
    assert check.reason.startswith("config.json: dtype: stock loading rounds float32 weights to float16")


def test_outputs_of_equal_bits_are_held_to_the_noise(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    real, count = Pair.run, [0]

    def nudged(self, side, model, *args, **named):
        out = real(self, side, model, *args, **named)
        if model is not self._models.get((side, "float32", None), (None,))[0] and model.dtype == torch.float32:
            count[0] += 1
            for key in list(out):
                out[key] = out[key] * (1 + count[1])
        return out

    monkeypatch.setattr(Pair, "run", nudged)
    for size, verdict in ((1e-7, "lossless"), (1e-2, "different")):
        count[1:] = [size]
        found = grow.verify(source, source, rungs=["true_float64", "save_reload"])
        assert found.verdict == verdict, found.checks
    assert count[0] == 2


def test_a_probe_that_a_class_cannot_take_is_left_out_and_named(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    real = transformers.LlamaForCausalLM.forward

    @functools.wraps(real)
    def picky(self, *args, position_ids=None, **named):
        if position_ids is not None and named.get("past_key_values") is None and not named.get("use_cache"):
            raise ValueError("no positions, please")
        return real(self, *args, position_ids=position_ids, **named)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", picky)
    found = grow.verify(source, grown, rungs=["true_float64"])
    assert found.lossless
    assert "far_positions" in found.check("true_float64").measured["probes"]["skipped"]
    assert any("far_positions was left out: ValueError: no positions, please" in note for note in found.notes)


def test_the_limit_of_a_chaotic_model_follows_from_its_own_rounding(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    with Pair(source, source) as pair:
        assert reproducible_limit(pair, 5e-12, 1e-12) == (1e-12, "")  # this model reproduces itself to 1e-12
        monkeypatch.setattr(noise_floors, "storage_floor", lambda pair, dtype: {"float64": 2e-12}[dtype])
        limit, why = reproducible_limit(pair, 5e-12, 1e-12)
        assert limit == noise_floors.STORAGE_K * 2e-12
        assert "one rounding of each weight" in why
        assert reproducible_limit(pair, 1e-3, 1e-12) == (1e-12, "")  # no rounding of float64 does that
        assert reproducible_limit(pair, 5e-5, 1e-4) == (1e-4, "")


LIMITED = """
import json, resource, sys
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
import torch
import grow
done = grow.widen(sys.argv[1], sys.argv[2], out=sys.argv[4])
checks = {c.name: [c.status, c.reason] for c in done.verification.checks}
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
peak = int(status["VmHWM"].split()[0]) * 1024  # ru_maxrss is that of the parent where it was larger
used = resource.getrusage(resource.RUSAGE_SELF)
cpu = used.ru_utime + used.ru_stime
print(json.dumps({"verdict": done.verification.verdict, "checks": checks, "peak": peak, "cpu": cpu}))
"""


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
REAL = {
    "Qwen3-0.6B": (
        "Qwen3ForCausalLM",
        {
            "vocab_size": 151_936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": True,
        },
        "hidden_size=2048,intermediate_size=6144",
    ),
    "a Llama with the sizes of Gemma-3-270m": (
        "LlamaForCausalLM",
        {
            "vocab_size": 262_144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": True,
        },
        "intermediate_size=4096",
    ),
    "Llama-3.2-1B": (
        "LlamaForCausalLM",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131_072,
            "rope_parameters": LLAMA3,
            "tie_word_embeddings": True,
        },
        "intermediate_size=16384",
    ),
    "a Llama with the sizes of SmolLM3": (
        "LlamaForCausalLM",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "max_position_embeddings": 65_536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5_000_000.0},
            "tie_word_embeddings": True,
        },
        "num_attention_heads=32,num_key_value_heads=8",
    ),
    "BERT-large": (
        "BertForMaskedLM",
        {
            "vocab_size": 30_522,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "max_position_embeddings": 512,
        },
        "2x",
    ),
}


@pytest.mark.large
@pytest.mark.parametrize("name", REAL)
def test_real_sizes_grow_and_are_proved_in_six_gigabytes(name, tmp_path):
    kind, fields, to = REAL[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(num_hidden_layers=2, **fields))
    model = model if kind == "BertForMaskedLM" else model.to(torch.bfloat16)
    for p in model.parameters():
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, 0.03)
    model.save_pretrained(tmp_path / "source")
    del model
    command = [sys.executable, "-c", LIMITED, tmp_path / "source", to, 6 * 10**9, tmp_path / "grown"]
    env = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["verdict"] == "lossless", found
    assert found["checks"]["true_float64"] == ["pass", ""], found
    assert found["checks"]["runtime_dtype"] == ["pass", ""], found
    assert [c for c in found["checks"].values() if c[0] == "skip" and "GB are free" in c[1]] == [], found
    assert found["peak"] < 6e9


def test_too_little_memory_counts_the_outputs(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama", vocab_size=4001)
    with Pair(source, source) as pair:
        weights = pair.elements("source") * 8 * memory_needed.HEADROOM
        monkeypatch.setattr(pair_module, "available_memory", lambda: int(weights * 1.5))
        assert pair.streaming  # the weights alone would fit
