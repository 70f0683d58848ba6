"""Golden files: every kind of damage is found, the tokenizer's too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from golden_files import judged, statuses
from models import save

import grow
from grow.architectures import family_of
from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.verification import golden
from grow.verification.golden import against, record, sketch
from grow.verification.golden.golden_file import write
from grow.verification.golden.kept_tokenizer import fingerprint
from grow.verification.outputs import pair as pair_module
from grow.verification.verdict import Verification

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
        text = set(fingerprint(Path(grow.__file__).parent / "zoo" / "small")["ids"])
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
