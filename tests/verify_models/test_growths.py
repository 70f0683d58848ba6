"""`grow verify` by running models: growths written by hand pass, and damaged ones do not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from edited_models import BERT, NAMES, derive, exact, make, only

from grow.verification.checks.cached_decoding import cached_decoding
from grow.verification.checks.save_reload import save_reload
from grow.verification.outputs.forward_passes import EXACT, runtime_dtype, true_float64
from grow.verification.outputs.noise_floors import STORAGE_K, storage_floor
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_dtypes import stored_dtype


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("verify") / "bert", "bert", BERT, transformers.AutoModel)


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
