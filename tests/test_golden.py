"""Golden files: a growth is checked without its source, every kind of damage is found, and no file is believed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from models import save

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused
from grow.families import family_of
from grow.families.architecture import Architecture
from grow.notation.maps import identity
from grow.planning import readback
from grow.planning.record import read_record
from grow.verification import golden
from grow.verification.golden import against, record, sketch
from grow.verification.golden.content import Golden, pack, unpack
from grow.verification.golden.golden_file import write
from grow.verification.golden.questions import fit
from grow.verification.outputs import pair as pair_module
from grow.verification.outputs.compare import difference
from grow.verification.outputs.forward_passes import STORAGE_K, storage_floor
from grow.verification.outputs.pair import Pair
from grow.verification.probes import Probe, Probes
from grow.verification.result import EXACT, Verification
from grow.verification.weights.recorded_growth import Replay

LIMIT = 400_000  # bytes of a golden file of a small language model


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[..., tuple[Path, Path, Path]]:
    """`made("llama", "2x")`: source, golden file and grown of a random checkpoint, made once; do not change them."""
    kept: dict[str, tuple[Path, Path, Path]] = {}

    def get(family: str, to: str, *, budget: int = 10**6, options=None, **fields) -> tuple[Path, Path, Path]:
        key = repr((family, to, budget, options, fields))
        if key not in kept:
            folder = tmp_path_factory.mktemp("golden")
            source = tiny.checkpoint(folder / "source", family, **fields)
            record(source, folder / "golden.safetensors", budget=budget)
            grow.widen(source, to, out=folder / "grown", verify=False, **(options or {}))
            kept[key] = source, folder / "golden.safetensors", folder / "grown"
        return kept[key]

    return get


@pytest.fixture
def copied(made, tmp_path) -> tuple[Path, Path]:
    """A golden file and a llama grown × 2 of one's own, to be damaged."""
    _, file, grown = made("llama", "2x")
    return shutil.copy(file, tmp_path), shutil.copytree(grown, tmp_path / "grown")


def statuses(found: Verification) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def judged(found: Verification) -> tuple[str, int]:
    return found.verdict, found.exit_code


# What is the same


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """The golden file of the bundled `small`, and `small` grown × 2."""
    folder = tmp_path_factory.mktemp("small")
    record("small", folder / "small.safetensors")
    return folder / "small.safetensors", grow.widen("small", "2x", out=folder / "2x", verify=False).path


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


# Every damage


def kinds(family: str, **fields) -> list[str]:
    """One tensor of each row of the family's table: of the last layer, where there are layers."""
    config = {"model_type": family, **tiny.CONFIGS[family], **fields}
    rows = Architecture(family_of(family), config).tensors
    return list({row.name: name for name, row in rows.items() if not row.optional}.values())


DAMAGED = [
    *(("llama", name, {}) for name in kinds("llama")),
    *(("llama", name, {"tie_word_embeddings": False}) for name in ("lm_head.weight", "model.embed_tokens.weight")),
    *(("gpt2", name, {}) for name in kinds("gpt2")),
    *(("bert", name, {}) for name in kinds("bert")),
]
# A number that is added to the scores of every key alike: softmax does not see it, and no output does.
UNSEEN = ("attention.self.key.bias",)


@pytest.mark.parametrize(("family", "name", "fields"), DAMAGED)
def test_each_kind_of_tensor_reversed_is_found_by_every_check(made, family, name, fields):
    _, file, grown = made(family, "2x", **fields)
    before = (grown / tiny.WEIGHTS).read_bytes()
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__(..., raw[::-1].copy()))
    try:
        found = against(file, grown)
    finally:
        (grown / tiny.WEIGHTS).write_bytes(before)
    assert judged(found) == ("different", 1)
    assert found.check("certificate").reason == f"{name}: sha256 is not grow.json's"
    assert found.first["tensor"] == name
    seen = "pass" if name.endswith(UNSEEN) else "fail"
    assert found.check("true_float64").status == seen
    head = name.startswith(("cls.", "lm_head"))
    assert found.check("hidden_states").status == ("pass" if head else seen)


@pytest.fixture(scope="module")
def wide(made) -> tuple[Path, Path, Path]:
    """A vocabulary of 500, and a budget that leaves no room for all rows and columns of the logits."""
    return made("llama", "2x", budget=30_000, vocab_size=500, tie_word_embeddings=False)


def test_a_wide_output_is_sketched_within_the_budget(wide):
    _, file, grown = wide
    read = golden.read(file)
    assert sum(value.nbytes for kept in read.outputs.kept.values() for value in kept.values()) < 30_000 + 8 * 8 * 8
    assert all("sum" in kept for key, kept in read.outputs.kept.items() if not key.startswith("single"))
    assert judged(against(file, grown)) == ("lossless", 0)


def test_one_column_of_the_logits_that_is_not_kept_is_found(wide):
    _, file, grown = wide
    read = golden.read(file)
    kept = set(sketch.kept_columns(read.seed, 500, 32))
    kept |= {int(c) for parts in read.outputs.kept.values() for c in parts["top_columns"].ravel()}
    column = min(set(range(500)) - kept)
    before = (grown / tiny.WEIGHTS).read_bytes()
    tiny.edit_tensor(grown, "lm_head.weight", lambda raw: raw.__setitem__(column, raw[column] * 1.0001))
    (grown / "grow.json").rename(grown / "aside")
    try:
        found = against(file, grown)
    finally:
        (grown / tiny.WEIGHTS).write_bytes(before)
        (grown / "aside").rename(grown / "grow.json")
    assert judged(found) == ("different", 1)
    assert 1e-7 < found.check("true_float64").measured["relative"] < 1e-4
    assert "projection" in found.check("true_float64").reason or "sum" in found.check("true_float64").reason


def test_damage_of_a_rounded_growth_is_found(made, tmp_path):
    _, file, grown = made("llama", "hidden_size=36")
    grown = shutil.copytree(grown, tmp_path / "grown")
    tiny.edit_tensor(
        grown, "model.layers.1.mlp.down_proj.weight", lambda raw: raw.__setitem__((5, 7), raw[5, 7] + 0.01)
    )
    for there in (True, False):
        found = against(file, grown)
        assert judged(found) == ("different", 1)
        assert found.check("true_float64").status == "fail"
        assert found.check("hidden_states").status == ("fail" if there else "skip")
        (grown / "grow.json").unlink(missing_ok=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_never_pass(copied, value):
    file, grown = copied
    (grown / "grow.json").unlink()
    tiny.edit_tensor(grown, "model.norm.weight", lambda raw: raw.__setitem__(0, value))
    found = against(file, grown)
    assert judged(found) == ("different", 1)
    assert "NaN or Inf" in found.check("true_float64").reason


def test_a_config_field_that_changes_the_function_is_found(copied):
    file, grown = copied
    tiny.edit_json(grown / "config.json", lambda c: c.update(rms_norm_eps=0.011))
    found = against(file, grown)
    assert judged(found) == ("different", 1)
    assert {"field": "rms_norm_eps", "source": 0.01, "grown": 0.011} in found.config


def test_a_tensor_that_is_missing_or_nobody_wrote_is_named(copied):
    file, grown = copied
    tensors = tiny.read_tensors(grown)
    moved = {name.replace("1.mlp.up", "1.mlp.upp"): tensor for name, tensor in tensors.items()}
    tiny.write_tensors(grown, moved)
    found = against(file, grown)
    assert found.check("certificate").reason == (
        "model.layers.1.mlp.up_proj.weight: missing; model.layers.1.mlp.upp_proj.weight: not written by grow"
    )
    assert found.check("true_float64").status == "fail"
    assert "1 weights are missing" in found.check("true_float64").reason
    tiny.write_tensors(grown, {**tensors, "extra.weight": tensors["model.norm.weight"]})
    (grown / "grow.json").unlink()
    found = against(file, grown)
    assert "stock transformers ignores 1 tensors: extra.weight" in found.check("true_float64").reason


def test_another_class_is_judged_by_its_answers(made, tmp_path):
    _, file, _ = made("llama", "2x")
    other = tiny.checkpoint(tmp_path / "other", "gpt2")
    found = against(file, other)
    assert judged(found) == ("different", 1)
    assert "the golden file is of LlamaForCausalLM, this is GPT2LMHeadModel" in found.check("true_float64").reason
    base = save("llama-base", tmp_path / "base")
    assert "has no output 'random/logits'" in against(file, base).check("true_float64").reason
    few = tiny.checkpoint(tmp_path / "few", "llama", vocab_size=11)
    assert "the source runs and the grown model does not" in against(file, few).check("true_float64").reason


def test_a_layer_too_many_is_different(made, tmp_path):
    _, file, _ = made("llama", "2x")
    deeper = tiny.checkpoint(tmp_path / "deeper", "llama", num_hidden_layers=3)
    found = against(file, deeper)
    assert judged(found) == ("different", 1)
    assert found.check("hidden_states").reason == "the grown model has other layers: far_positions/hidden.3"


def test_without_memory_nothing_is_proved_and_nothing_recorded(made, tmp_path, monkeypatch):
    source, file, grown = made("llama", "2x")
    monkeypatch.setattr(pair_module, "available_memory", lambda: 1000)
    found = against(file, grown)
    assert judged(found) == ("unproved", 1)
    assert found.check("true_float64").reason.startswith("not enough memory")
    with pytest.raises(Refused, match="does not fit into memory"):
        record(source, tmp_path / "golden.safetensors")
    assert list(tmp_path.iterdir()) == []


# The tokenizer


def swap(vocab: dict[str, int]) -> None:
    a, b = list(vocab)[300:302]
    vocab[a], vocab[b] = vocab[b], vocab[a]


@pytest.fixture
def tokenized(small, tmp_path) -> Callable[[Callable[[dict], object]], Verification]:
    """What is found when the grown tokenizer.json was edited."""

    def get(edit: Callable[[dict], object]) -> Verification:
        grown = shutil.copytree(small[1], tmp_path / "grown")
        tiny.edit_json(grown / "tokenizer.json", edit)
        return against(small[0], grown, rungs=["tokenizer"])

    return get


def test_a_shifted_token_id_is_found(tokenized):
    found = tokenized(lambda t: swap(t["model"]["vocab"]))
    assert judged(found) == ("different", 1)
    assert "the recorded text reads differently from token" in found.checks[0].reason


def test_a_token_that_the_text_does_not_have_is_found(tokenized):
    def edit(t: dict) -> None:
        vocab = t["model"]["vocab"]
        text = set(golden.tokenizer.fingerprint(Path(grow.__file__).parent / "zoo" / "small")["ids"])
        merged = {a for pair in t["model"]["merges"] for a in (pair if isinstance(pair, list) else pair.split())}
        unused = [token for token, i in vocab.items() if i not in text and token not in merged and i > 300][:2]
        vocab[unused[0]], vocab[unused[1]] = vocab[unused[1]], vocab[unused[0]]

    found = tokenized(edit)
    assert found.checks[0].status == "fail"
    assert "are others than the recorded ones" in found.checks[0].reason


def test_another_layout_of_the_same_tokenizer_passes(tokenized):
    found = tokenized(lambda t: None)
    assert found.checks[0].status == "pass"
    assert found.checks[0].measured["identical"] is False


def test_a_tokenizer_that_does_not_load_is_found(tokenized):
    found = tokenized(lambda t: t.pop("model"))
    assert found.checks[0].status == "fail"
    assert found.checks[0].reason.startswith("does not load")


def test_a_tokenizer_that_is_gone_is_a_fault_and_none_to_begin_with_is_not(copied, small):
    assert against(*copied).check("tokenizer").reason == "no tokenizer: the golden file has none of the source"
    found = against(small[0], copied[1], rungs=["tokenizer"])
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].reason.endswith("has none, and its source had")


@pytest.mark.parametrize("field", ["padding_side", "model_max_length", "chat_template"])
def test_a_setting_of_the_tokenizer_is_recorded_and_compared(field, small, tmp_path):
    grown = shutil.copytree(small[1], tmp_path / "grown")
    new = {"padding_side": "left", "model_max_length": 7, "chat_template": "{{ messages }}"}[field]
    tiny.edit_json(grown / "tokenizer_config.json", lambda c: c.update({field: new}))
    found = against(small[0], grown, rungs=["tokenizer"])
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert field in found.checks[0].reason


def test_a_setting_of_generate_is_recorded_and_compared(small, tmp_path):
    grown = shutil.copytree(small[1], tmp_path / "grown")
    tiny.edit_json(grown / "generation_config.json", lambda c: c.update(repetition_penalty=1.4))
    found = against(small[0], grown, rungs=["generation_config"])
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].reason == "repetition_penalty is 1.4, wanted at its default"


def test_a_file_without_settings_is_read_and_compares_the_rest(small, tmp_path):
    """Files of earlier versions have none."""
    read = golden.read(small[0])
    read.source.pop("generation")
    for name in ("settings", "positions"):
        read.tokenizer.pop(name)
    older = replace(read, path=tmp_path / "older.safetensors")
    write(older)
    found = against(older.path, small[1])
    assert judged(found) == ("lossless", 0)
    assert statuses(found)["generation_config"] == "skip"


# The file


def test_recording_again_gives_the_same_bytes_and_overwrites_nothing_unasked(made, tmp_path):
    source, file, _ = made("llama", "2x")
    again = tmp_path / "again.safetensors"
    record(source, again, name=str(source), budget=10**6)
    assert again.read_bytes() == file.read_bytes()
    with pytest.raises(BadInput, match="exists") as error:
        record(source, again)
    assert error.value.exit_code == 2
    record(source, again, overwrite=True, seed=1)
    assert golden.read(again).seed == 1
    assert again.read_bytes() != file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(made, tmp_path, monkeypatch):
    _, file, _ = made("llama", "2x")
    old = Path(shutil.copy(file, tmp_path))
    read = golden.read(old)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="cannot be written"):
        write(replace(read, seed=7), overwrite=True)
    assert old.read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


@pytest.mark.parametrize("target", ["missing/golden.safetensors", "."])
def test_a_place_that_cannot_be_is_told_before_a_model_is_loaded(made, tmp_path, target, monkeypatch):
    source, _, _ = made("llama", "2x")
    monkeypatch.setattr(pair_module, "load", None)
    with pytest.raises(BadInput) as error:
        record(source, tmp_path / target)
    assert error.value.fix


def test_a_negative_seed_is_bad_input(made, tmp_path):
    with pytest.raises(BadInput, match="--seed -1"):
        record(made("llama", "2x")[0], tmp_path / "golden.safetensors", seed=-1)


def test_answers_that_tell_nothing_are_not_recorded(made, tmp_path):
    source = shutil.copytree(made("llama", "2x")[0], tmp_path / "source")
    tiny.edit_tensor(source, "model.norm.weight", lambda raw: raw.__setitem__(..., 0))
    with pytest.raises(BadInput, match="logits is constant"):
        record(source, tmp_path / "golden.safetensors")
    tiny.edit_tensor(source, "model.norm.weight", lambda raw: raw.__setitem__(..., np.nan))
    with pytest.raises(BadInput, match="is NaN or Inf"):
        record(source, tmp_path / "golden.safetensors")
    assert not (tmp_path / "golden.safetensors").exists()


def refused(path: Path) -> BadInput:
    with pytest.raises(BadInput) as error:
        against(path, "small")
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    assert path.name in str(error.value)
    return error.value


def test_any_flipped_byte_is_bad_input(copied):
    file = Path(copied[0])
    raw = file.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    places = {0, 7, 8, 9, 40, header - 1, header, len(raw) - 1}
    for at in sorted(places | set(range(50, header, header // 40)) | set(range(header, len(raw), len(raw) // 20))):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        refused(file)


@pytest.mark.parametrize("share", [0, 0.0001, 0.2, 0.5, 0.999])
def test_a_truncated_file_is_bad_input(copied, share):
    file = Path(copied[0])
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    refused(file)


def test_what_is_no_golden_file_is_bad_input(copied, tmp_path):
    file, grown = Path(copied[0]), copied[1]
    assert "no golden file" in refused(grown / tiny.WEIGHTS).what
    for raw in (
        b"PK\x03\x04" + bytes(99),
        b"\x80\x02" + bytes(99),
        b"x" * 99,
        (10**15).to_bytes(8, "little") + b"{" * 99,
    ):
        file.write_bytes(raw)
        refused(file)
    file.unlink()
    refused(file)
    file.mkdir()
    refused(file)
    file.rmdir()
    with open(file, "wb") as hole:
        hole.truncate(1 << 30)
    assert "1,073,741,824 bytes" in refused(file).what


def signed(golden_file: Golden, tmp_path: Path, **changes: Any) -> Path:
    """A file with a right sha256 and wrong content."""
    path = tmp_path / "signed.safetensors"
    write(replace(golden_file, path=path, **changes), overwrite=True)
    return path


def test_another_schema_says_so(copied, tmp_path, monkeypatch):
    read = golden.read(copied[0])
    monkeypatch.setattr(golden.file, "SCHEMA", 2)
    path = signed(read, tmp_path)
    monkeypatch.undo()
    assert refused(path).what == "schema 2, this version reads 1"


def test_content_that_does_not_belong_together_is_bad_input(wide, tmp_path):
    read = golden.read(wide[1])
    out, key = read.outputs, "random/logits"

    def outputs(**parts: np.ndarray) -> dict[str, Any]:
        return {"outputs": replace(out, kept={**out.kept, key: {**out.kept[key], **parts}})}

    def shape(*shape: int) -> dict[str, Any]:
        return {"outputs": replace(out, shapes={**out.shapes, key: shape})}

    ask = read.asked["random"]
    wrong: list[dict[str, Any]] = [
        shape(-1, 500), shape(0, 0), shape(1, 500), shape(128, 8),
        outputs(top_columns=np.full_like(out.kept[key]["top_columns"], 500)),
        outputs(top_columns=np.full_like(out.kept[key]["top_columns"], -1)),
        outputs(projections=out.kept[key]["projections"][:, :3]),
        outputs(values=out.kept[key]["values"][:-1]),
        outputs(values=np.full_like(out.kept[key]["values"], np.nan)),
        outputs(values=out.kept[key]["values"].astype(np.float32)),
        outputs(logsumexp=np.full_like(out.kept[key]["logsumexp"], np.inf)),
        {"outputs": replace(out, kept={k: v for k, v in out.kept.items() if k != key})},
        {"outputs": replace(out, std={"logits": 0.0})},
        {"outputs": replace(out, std={"logits": -1.0})},
        {"outputs": replace(out, std={**out.std, "other": 1.0})},
        {"outputs": replace(out, std={}, shapes={}, kept={})},
        {"asked": {k: v for k, v in read.asked.items() if k != "random"}},
        {"asked": {**read.asked, "random": replace(ask, counted=~ask.counted)}},
        {"asked": {**read.asked, "random": replace(ask, counted=ask.counted[:1])}},
        {"asked": {**read.asked, "random": replace(ask, inputs={})}},
        {"floors": {"float32": replace(read.floors["float32"], hidden={})}},
        {"source": {**read.source, "config": []}},
        {"source": {}},
        {"tokenizer": 3},
        {"environment": 3},
        {"skipped": []},
        {"seed": "x"},
    ]  # fmt: skip
    for change in wrong:
        assert refused(signed(read, tmp_path, **change)).what == "is no record of a model's answers", change
    for large in (shape(10**12, 500), shape(128, 10**12)):  # could be; nothing is built of a size that a file claims
        found = against(signed(read, tmp_path, **large), wide[2], rungs=["true_float64"])
        assert "instead of" in found.checks[0].reason


def test_inputs_that_no_model_takes_fail_and_do_not_raise(copied, tmp_path):
    read = golden.read(copied[0])
    ask = read.asked["random"]
    ids = ask.inputs["input_ids"]
    for inputs in ({**ask.inputs, "input_ids": ids + 10**6}, {**ask.inputs, "input_ids": ids - 10**6}, {"x": ids}):
        path = signed(read, tmp_path, asked={**read.asked, "random": replace(ask, inputs=inputs)})
        assert against(path, copied[1]).check("true_float64").status == "fail"


# Sketches


def random(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


@pytest.mark.parametrize(
    ("rows", "columns", "top"), [(12, 90, 8), (12, 10, 8), (5, 10, 8), (5, 90, 8), (5, 0, 0), (1, 0, 0)]
)
def test_every_element_moves_a_sketch(rows, columns, top):
    x = random(12, 90)
    kept = sketch.sketch(x, seed=3, rows=rows, columns=columns, top=top)
    sketch.check(kept, 12, 90)
    assert sketch.worst(kept, x, 3) == (0, "")
    for row, column in np.ndindex(12, 90):
        y = x.copy()
        y[row, column] += 1e-3
        delta, where = sketch.worst(kept, y, 3)
        assert 0.99e-3 / np.sqrt(12 * 90) < delta < 1.01e-3
        assert where


@pytest.mark.parametrize("part", ["values", "top", "logsumexp", "projections", "sum"])
def test_every_part_of_a_sketch_is_compared(part):
    x = random(12, 90)
    kept = sketch.sketch(x, seed=0, rows=5, columns=10, top=8)
    kept[part] = kept[part] + 0.5 * (np.arange(kept[part].size).reshape(kept[part].shape) == kept[part].size - 1)
    delta, where = sketch.worst(kept, x, 0)
    assert delta == pytest.approx(0.5)
    assert {"values": "[11, ", "top": "[11, ", "logsumexp": "[11] in logsumexp", "projections": "[11] in projection 7",
            "sum": " in the sum over all 12 rows"}[part] in where  # fmt: skip


def test_a_tie_in_the_first_place_is_no_difference():
    x = random(3, 90)
    x[:, [20, 30]] = 9
    kept = sketch.sketch(x, seed=0, rows=3, columns=10, top=8)
    y = x.copy()
    y[:, 30] += 1e-14
    assert sketch.worst(kept, y, 0).delta < 1e-13
    assert sketch.same_first(kept, y, 1e-12).all()
    y[:, 30] += 1
    assert not sketch.same_first(kept, y, 1e-12).any()


def test_the_signs_are_the_same_for_ever():
    found = sketch.signs(0, "columns", 2048, 8)
    assert found[:2].astype(int).tolist() == [[-1, -1, 1, 1, -1, -1, -1, 1], [-1, 1, 1, 1, 1, -1, 1, -1]]
    assert abs(found.mean()) < 0.02
    assert sketch.kept_columns(0, 2048, 4).tolist() == [270, 919, 1494, 1644]
    assert sketch.kept_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert sketch.kept_rows(10, 1).tolist() == [9]
    assert sketch.kept_rows(1, 1).tolist() == [0]


def test_the_unit_is_that_of_the_ladder():
    a, b = random(7, 5), random(3, 5, seed=1)
    outputs = {"x/logits": torch.from_numpy(a), "y/logits": torch.from_numpy(b)}
    moved = {key: value + 1 for key, value in outputs.items()}
    assert sketch.spread([a, b]) == pytest.approx(difference(outputs, moved).std)
    assert sketch.spread([np.array([-3.0])]) == 3


# Probes


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 1], [1, 1]]), np.array([[True, False]]), np.array([[0, 50_000]]), np.array([[-100, 2**40]]),
        np.array([[-127.0, 0.0, 64.0]]), np.array([[0.0]]), np.array([[0.375, -0.5]], np.float32),
    ],
)  # fmt: skip
def test_inputs_are_stored_as_the_smallest_integers_that_hold_them(values):
    stored, scale = pack(values)
    back = unpack(stored, scale, values.dtype.name)
    assert back.dtype == values.dtype
    assert (back == values).all()
    again, same = pack(back)
    assert same == scale
    assert (again == stored).all()


def test_images_are_rounded_to_a_byte_and_left_out_where_they_do_not_fit():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 8, 8, generator=draw, dtype=torch.float64)
    counted = torch.ones(2, 1, dtype=torch.bool)
    drawn = Probes(0, [Probe(name, {"pixel_values": pixels}, counted) for name in ("random", "natural", "outlier")])
    given = fit(drawn, 3 * 3 * 64 + 5)
    assert {p.name: len(p.counted) for p in given} == {"random": 2, "natural": 1}
    assert given.skipped == {"outlier": "its inputs take 193 bytes, and 2 are left of 581"}
    asked = given.items[0].inputs["pixel_values"]
    assert 0 < float((asked - pixels).abs().max()) <= float(pixels.abs().max()) / 127
    assert (asked == asked.to(torch.bfloat16).double()).all()
    assert [p.name for p in fit(drawn, 1)] == ["random"]


def test_a_model_of_images_is_recorded(tmp_path):
    import transformers

    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    config = transformers.ViTConfig(image_size=16, patch_size=4, **sizes)
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model.save_pretrained(tmp_path / "vit")
    record(tmp_path / "vit", tmp_path / "golden.safetensors")
    assert judged(against(tmp_path / "golden.safetensors", tmp_path / "vit")) == ("lossless", 0)
    name = "vit.embeddings.patch_embeddings.projection.weight"
    tiny.edit_tensor(tmp_path / "vit", name, lambda raw: raw.__setitem__((0, 0, 0, 0), raw[0, 0, 0, 0] + 1e-3))
    assert judged(against(tmp_path / "golden.safetensors", tmp_path / "vit")) == ("different", 1)


# Where the old coordinates are


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_reading_back_needs_no_source_and_agrees_with_replay(family, tied, tmp_path):
    to = "2x" if family == "bert" else {"hidden": 36}
    source = tiny.checkpoint(tmp_path / "source", family, tie_word_embeddings=tied)
    grown = grow.widen(source, to, out=tmp_path / "grown", verify=False).path
    found = read_record(grown)
    maps, facts = found.change.maps, family_of(family)
    with open_checkpoint(source) as a, open_checkpoint(grown) as b:
        replay = Replay(found, a, b)
        wanted = {final: replay.stream(final=final) for final in (True, False)}
        for final, (index, factor, shared) in wanted.items():
            got = readback.stream_readback(Architecture(facts, a.config), maps, final=final)
            assert (got[0] == index).all()
            assert (got[1] == factor).all()
            assert got[2] == shared
        assert all((x == y).all() for x, y in zip(readback.output_readback(maps), replay.readback))
    unchanged = {**maps, "hidden": identity(24)}
    assert readback.stream_readback(Architecture(facts, {}), unchanged, final=True) is None
    assert readback.output_readback(unchanged) is None


def test_folding_says_what_is_wrong():
    y, index = random(4, 6), np.array([0, 1, 2, 0, 1, -1])
    folded, apart, problem = readback.fold(y, 3, index, np.full(6, 2.0))
    assert (folded == y[:, :3] / 2).all()
    assert apart == np.abs(y[:, 3:5] - y[:, :2]).max() / 2
    assert problem == ""
    folded, apart, _ = readback.fold(y, 3, index, np.full(6, 0.5), True)
    assert np.allclose(folded[:, 0], (y[:, 0] + y[:, 3]) / 2)
    assert apart == 0
    assert "width of 6, the model has 5" in readback.fold(y[:, :5], 3, index, np.ones(6))[2]
    assert "covers 3 of the 4" in readback.fold(y, 4, index, np.ones(6))[2]
    assert "0 or not finite" in readback.fold(y, 3, index, np.zeros(6))[2]
