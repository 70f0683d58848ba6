"""Golden files: a growth is checked without its source."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny
from golden_files import judged, statuses
from models import save

import grow
from grow.errors import BadInput
from grow.planning.record import read_record
from grow.verification import golden
from grow.verification.golden import against, record
from grow.verification.outputs.noise_floors import STORAGE_K, storage_floor
from grow.verification.outputs.pair import Pair
from grow.verification.rungs import EXACT

LIMIT = 400_000  # bytes of a golden file of a small language model


# What is the same


def test_a_bundled_model_grown_twice_as_wide_passes(small):
    file, grown = small
    found = against(file, grown)
    assert judged(found) == ("lossless", 0), found.checks
    assert statuses(found) == {
        "certificate": "skip", "true_float64": "pass", "tokenizer": "pass",
        "generation_config": "pass", "hidden_states": "pass",
    }  # fmt: skip
    assert found.check("certificate").reason == "no source to compare with; its sha256 in grow.json were checked"
    assert 0 < found.check("true_float64").measured["relative"] < 1e-13
    assert found.check("true_float64").measured["top1"] == 1
    assert 0 < found.check("hidden_states").measured["worst"] < 1e-13
    assert found.first is None
    assert {field["field"] for field in found.config} >= {"hidden_size", "intermediate_size"}
    points = found.check("true_float64").measured["points"]
    assert np.allclose(points["source"], points["grown"], rtol=0, atol=1e-10)
    assert len(points["source"]) == 400
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_golden_file_is_small_and_says_what_it_holds(small):
    file, _ = small
    read = golden.read(file)
    assert file.stat().st_size < LIMIT
    said = read.summary()
    assert said["bytes"] == file.stat().st_size
    assert (said["source"], said["class"], said["whole"]) == ("small", "LlamaForCausalLM", False)
    assert said["outputs"]["text/logits"] == [64, 2048]
    assert said["hidden_states"] == [f"hidden.{k}" for k in range(7)]
    assert said["tokenizer"]
    assert said["floors"]["float32"]["outputs"] < said["floors"]["float16"]["outputs"] < 0.01
    assert set(read.floors) == {"float32", "bfloat16", "float16"}
    json.dumps(said, allow_nan=False)


def test_the_source_passes_against_itself_with_no_difference_at_all(small):
    found = against(small[0], "small")
    assert judged(found) == ("lossless", 0)
    assert found.check("true_float64").measured["relative"] == 0
    assert found.check("hidden_states").measured["worst"] == 0
    assert found.check("certificate").reason == "no grow.json, and no source to compare with"
    assert "no grow.json in the grown checkpoint: the outputs decide" in found.notes


@pytest.mark.parametrize(
    ("family", "to"),
    [("bert", "2x"), ("gpt2", "2x"), ("opt", "3x"), ("llama", "ffn=50,heads=6")],
)
def test_a_bit_exact_growth_passes(made, family, to):
    _, file, grown = made(family, to)
    found = against(file, grown)
    assert judged(found) == ("lossless", 0), found.checks
    assert found.check("hidden_states").status == "pass"
    assert golden.content.whole(golden.read(file).outputs)


@pytest.mark.parametrize(
    ("family", "to", "dtype"),
    [("llama", "hidden_size=36", "float32"), ("llama", "hidden_size=36", "bfloat16"), ("gpt2", "n_embd=36", "float16")],
)
def test_a_rounded_growth_passes_by_what_storage_explains(made, family, to, dtype):
    _, file, grown = made(family, to, options={"dtype": dtype})
    floor = golden.read(file).floors[dtype]
    found = against(file, grown)
    assert judged(found) == ("lossless", 0), found.checks
    assert statuses(found)["proof"] == "skip"
    assert EXACT < found.check("true_float64").measured["relative"] <= STORAGE_K * floor.outputs
    assert found.check("hidden_states").measured["limits"] == [STORAGE_K * v for v in floor.hidden.values()]


def test_a_rounded_growth_in_float64_has_to_be_exact(made):
    _, file, grown = made("llama", "hidden_size=36", options={"dtype": "float64"})
    found = against(file, grown)
    assert judged(found) == ("lossless", 0)
    assert found.check("true_float64").limit.startswith("max |Δ| / std <= 1e-12")


def test_the_floors_are_those_of_the_ladder_or_more(made):
    source, file, _ = made("llama", "2x")
    with Pair(source, source) as pair:
        for dtype, floor in golden.read(file).floors.items():
            assert storage_floor(pair, dtype) <= floor.outputs < 3 * storage_floor(pair, dtype)


def test_rounded_weights_without_a_record_are_not_called_proved(made, tmp_path):
    _, file, grown = made("llama", "hidden_size=36")
    grown = shutil.copytree(grown, tmp_path / "grown")
    (grown / "grow.json").unlink()
    found = against(file, grown)
    assert judged(found) == ("unproved", 1)
    assert found.check("true_float64").measured["within_storage"]
    assert found.check("hidden_states").reason == "the widths differ and no grow.json says how one is the other"
    assert "rounding" in found.notes[-1]


def test_a_growth_of_a_growth_passes_and_its_maps_are_not_used(made, tmp_path):
    _, file, grown = made("llama", "2x")
    again = grow.widen(grown, "2x", out=tmp_path / "again", verify=False).path
    found = against(file, again)
    assert judged(found) == ("lossless", 0)
    assert found.check("hidden_states").status == "skip"
    assert any("another checkpoint than the recorded one" in note for note in found.notes)


def test_a_larger_vocabulary_is_compared_on_the_sources_tokens(made, tmp_path):
    source, file, _ = made("llama", "2x", tie_word_embeddings=False)
    larger = shutil.copytree(source, tmp_path / "larger")
    tensors = tiny.read_tensors(larger)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name].raw = np.concatenate([tensors[name].raw, 9 + tensors[name].raw[:5]])
    tiny.write_tensors(larger, tensors)
    tiny.edit_json(larger / "config.json", lambda c: c.update(vocab_size=34))
    assert judged(against(file, larger)) == ("lossless", 0)


@pytest.mark.parametrize(("variant", "to"), [("llama-base", "2x"), ("llama-base", "hidden=30"), ("bert-base", "2x")])
def test_hidden_outputs_are_read_back_and_every_copy_counts(variant, to, tmp_path):
    source = save(variant, tmp_path / "source")
    file, grown = tmp_path / "golden.safetensors", tmp_path / "grown"
    record(source, file)
    grow.widen(source, to, out=grown, verify=False, dtype="float64")
    assert judged(against(file, grown)) == ("lossless", 0)
    norm = next(name for name in tiny.read_tensors(grown) if name.endswith(("norm.weight", "LayerNorm.weight")))
    last = np.flatnonzero(read_record(grown).change.maps["hidden"].source == 0)[-1]
    tiny.edit_tensor(grown, norm, lambda raw: raw.__setitem__(last, raw[last] * 1.001))
    found = against(file, grown, rungs=["true_float64"])
    assert judged(found) == ("different", 1)
    assert found.first["text"].startswith("true_float64: ")


def test_rungs_that_need_the_source_are_skipped_with_that_reason(made):
    _, file, grown = made("llama", "2x")
    found = against(file, grown, rungs=["true_float64", "runtime_dtype", "trainability"])
    assert statuses(found) == {"true_float64": "pass", "runtime_dtype": "skip", "trainability": "skip"}
    assert "needs the source's weights" in found.check("runtime_dtype").reason
    alone = against(file, grown, rungs=["certificate"])
    assert judged(alone) == ("unproved", 1)
    assert alone.notes[-1] == "the outputs were not compared: true_float64 was not asked for"
    with pytest.raises(BadInput, match="did you mean"):
        against(file, grown, rungs=["certificat"])
