"""Without grow.json the growth that most stored tensors follow names the one that does not; classes keep their names,
and the tokens that end a text their numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import models
import numpy as np
import pytest
import tiny

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.verification.weights.certificate import fault_of
from grow.verification.weights.inferred_growth import most_likely_growth

BOTH = ("certificate", "true_float64")


def grown_from(source: Path, to, folder: Path, **options) -> Path:
    path = grow.widen(source, to, out=folder, verify=False, **options).path
    (path / "grow.json").unlink()
    return path


def not_followed(source: Path, grown: Path) -> list[str] | None:
    """The tensors that are not what the likeliest growth makes them; None where there is none."""
    with open_checkpoint(source) as a, open_checkpoint(grown) as b:
        found = most_likely_growth(a, b)
        return None if found is None else [t.name for t in found.tensors if fault_of(found, t)]


GROWTHS = {
    "llama": ({"hidden": 54, "ffn": 41, "vocab": 50}, {"split": "even"}),
    "llama-tied": ({"hidden": 36}, {"operators": {"hidden": "silent"}}),
    "qwen3": (
        {"hidden": 36, "ffn": 33, "heads": 12, "kv_heads": 4}, {"operators": {"ffn": "copies", "heads": "copies"}},
    ),
    "granite": ({"layers": 5, "hidden": 36}, {"place": "top"}),
    "mixtral": ({"experts": 8, "hidden": 36}, {}),
    "qwen2_moe": ({"hidden": 48, "expert_ffn": 20}, {}),
    "bert-mlm": ({"hidden": 24, "layers": 3}, {}),
    "opt": ({"hidden": 16, "heads": 4}, {}),
    "gpt2": ({"hidden": 24}, {"method": "hypercloning-symmetric"}),
}  # fmt: skip


@pytest.mark.parametrize("variant", GROWTHS)
def test_the_growth_is_found_and_a_number_that_does_not_follow_is_named(variant, tmp_path):
    source = models.save(variant, tmp_path / "source", "float64")
    to, options = GROWTHS[variant]
    grown = grown_from(source, to, tmp_path / "grown", **options)
    assert not_followed(source, grown) == []
    layer = [n for n in tiny.read_tensors(grown) if ".0." in n and n.endswith("weight") and "norm" not in n.lower()]
    name = models.seeded(variant).choice(layer)
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__(..., raw * 1.001))
    wrong = not_followed(source, grown)
    shared = ".experts." in name and variant == "mixtral"  # two experts share what one wrote
    assert name in wrong
    assert shared or wrong == [name]


@pytest.mark.parametrize("experts", [3, 4])
def test_an_ffn_that_became_experts_is_known_again(experts, tmp_path):
    source = models.save("llama", tmp_path / "source", "float64")
    grown = grow.upcycle(source, experts=experts, top_k=2, out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__((5, 3), raw[5, 3] + 0.5))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["tensor"], found.first["index"]) == ("different", name, [5, 3])


def test_weights_of_another_model_follow_no_growth(tmp_path):
    source = models.save("llama", tmp_path / "source", "float64")
    other = models.make("llama", seed=5)
    other.double().save_pretrained(tmp_path / "other")
    grown = grown_from(tmp_path / "other", "2x", tmp_path / "grown")
    assert not_followed(source, grown) is None
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["tensor"]) == ("different", None)


def test_a_field_is_named_and_not_the_fields_that_the_growth_has_to_change(tmp_path):
    """More experts, more of them per token, more layers: none of that is what makes the outputs differ."""
    source = models.save("granitemoe", tmp_path / "source", "float64")
    grown = grown_from(source, {"experts": 8, "layers": 3}, tmp_path / "grown")
    tiny.edit_json(grown / "config.json", lambda c: c.update(logits_scaling=1.75))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["field"], found.first["wanted"]) == ("different", "logits_scaling", 1.5)


@pytest.mark.parametrize("variant", ["bert-base", "mistral-base", "distilbert-base"])
def test_hidden_outputs_are_read_as_most_tensors_say(variant, tmp_path):
    """A class without a head gives wider outputs; without grow.json nobody else says how to read them."""
    source = models.save(variant, tmp_path / "source", "float64")
    grown = grown_from(source, "2x", tmp_path / "grown")
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("lossless", 0)
    assert any("are read as most stored tensors say" in note for note in found.notes)
    name = [n for n in tiny.read_tensors(grown) if n.endswith(("dense.weight", "o_proj.weight", "out_lin.weight"))][-1]
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__(2, raw[2] * 1.01))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["tensor"], found.first["index"][0]) == ("different", name, 2)


@pytest.mark.parametrize("field", ["rms_norm_eps", "a row"])
def test_a_difference_as_small_as_rounding_is_one_where_the_growth_rounds_nothing(field, tmp_path):
    source = models.save("qwen2-tied", tmp_path / "source", "bfloat16")
    grown = grown_from(source, "2x", tmp_path / "grown")
    assert grow.verify(source, grown, rungs=BOTH).verdict == "lossless"
    name = "model.layers.1.mlp.down_proj.weight"
    if field == "a row":
        tiny.edit_tensor(grown, name, lambda raw: raw.view("<u2").__setitem__((4, 5), raw.view("<u2")[4, 5] + 1))
    else:
        tiny.edit_json(grown / "config.json", lambda c: c.update({field: c[field] * 1.01}))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["field"] == field if field != "a row" else found.first["tensor"] == name


def test_a_tensor_that_is_stored_in_fewer_bits_is_told(tmp_path):
    source = models.save("gpt2", tmp_path / "source", "float64")
    grown = grown_from(source, "2x", tmp_path / "grown")
    name, tensors = "transformer.h.1.mlp.c_fc.weight", tiny.read_tensors(grown)
    tensors[name] = tiny.Tensor("F32", tensors[name].raw.astype(np.float32))
    tiny.write_tensors(grown, tensors)
    found = grow.verify(source, grown, rungs=BOTH)
    assert found.verdict == "unproved"
    assert any(f"{name} (F64 -> F32)" in note for note in found.notes)


LABELS = {
    "two names swapped": ("id2label", lambda c: c["id2label"].update({"1": "2", "2": "1"}), "1 is '2', wanted '1'"),
    "a name": ("id2label", lambda c: c["id2label"].update({"3": "other"}), "3 is 'other', wanted '3'"),
    "a number": ("label2id", lambda c: c["label2id"].update({"4": 0}), "'4' is 0, wanted 4"),
    "no names": ("id2label", lambda c: c.update(id2label=None, label2id=None, num_labels=5), "'LABEL_0', wanted '0'"),
    "the kind of task": (
        "problem_type",
        lambda c: c.update(problem_type="multi_label_classification"),
        "'multi_label_classification', wanted None",
    ),
}


@pytest.mark.parametrize("way", ["grow.json", "no grow.json", "same shapes"])
@pytest.mark.parametrize("name", LABELS)
def test_a_class_with_another_name_is_another_answer(name, way, tmp_path):
    field, change, text = LABELS[name]
    variant = models.seeded(name, way).choice(["gpt2-token", "bert-sequence", "llama-sequence", "distilbert-token"])
    source = models.save(variant, tmp_path / "source", "float64")
    other = tmp_path / "other"
    if way == "same shapes":
        shutil.copytree(source, other)
    else:
        grow.widen(source, "2x", out=other, verify=False)
    if way == "no grow.json":
        (other / "grow.json").unlink()
    assert grow.verify(source, other, rungs=("labels",)).checks[0].status == "pass"
    tiny.edit_json(other / "config.json", change)
    found = grow.verify(source, other, rungs=("labels", "certificate"))
    assert (found.verdict, found.exit_code) == ("different", 1)
    said = found.check("labels").reason
    assert f"config.json: {field}" in said
    assert text in said


@pytest.mark.parametrize("to", ["2x", ""])
@pytest.mark.parametrize("field", ["eos_token_id", "bos_token_id"])
def test_the_tokens_that_end_a_text_are_compared_in_config_json_too(field, to, tmp_path):
    source = models.save("llama", tmp_path / "source")
    other = tmp_path / "other"
    if to:
        grow.widen(source, to, out=other, verify=False)
    else:
        shutil.copytree(source, other)
    assert (other / "generation_config.json").is_file()  # which `generate` reads, and those who serve the model do not
    assert grow.verify(source, other, rungs=("generation_config",)).checks[0].status == "pass"
    tiny.edit_json(other / "config.json", lambda c: c.update({field: 7}))
    found = grow.verify(source, other, rungs=("generation_config",))
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert f"config.json: {field} is 7" in found.first["text"]


def test_the_tokens_that_end_a_text_are_compared_for_a_class_that_writes_none(tmp_path):
    source = models.save("gpt_neox-sequence", tmp_path / "source")
    other = shutil.copytree(source, tmp_path / "other")
    assert grow.verify(source, other, rungs=("generation_config",)).checks[0].status == "skip"
    tiny.edit_json(other / "config.json", lambda c: c.update(bos_token_id=7))
    found = grow.verify(source, other)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "config.json: bos_token_id is 7" in found.first["text"]


def test_a_field_that_a_growth_changes_is_not_what_another_failure_comes_from(tmp_path):
    """OPT whose norms stand behind its layers is untied by a growth; the end of its texts is what was changed."""
    source = models.save("opt-post", tmp_path / "source")
    grown = grown_from(source, "2x", tmp_path / "grown")
    tiny.edit_json(grown / "config.json", lambda c: c.update(eos_token_id=9))
    found = grow.verify(source, grown, rungs=(*BOTH, "generation_config"))
    assert (found.verdict, found.first["field"]) == ("different", None)
    assert "config.json: eos_token_id is 9" in found.first["text"]


@pytest.mark.parametrize("way", ["shape", "gone"])
@pytest.mark.parametrize("variant", ["llama", "gpt2-untied", "mixtral"])
def test_a_tensor_with_which_no_class_loads_is_named(variant, way, tmp_path):
    source = models.save(variant, tmp_path / "source")
    grown = grown_from(source, "2x", tmp_path / "grown")
    tensors = tiny.read_tensors(grown)
    name = [n for n, t in tensors.items() if t.raw.ndim == 2 and t.raw.shape[0] != t.raw.shape[1] and ".1." in n][-1]
    if way == "shape":
        tensors[name].raw = tensors[name].raw.reshape(tensors[name].raw.shape[::-1])
    else:
        del tensors[name]
    tiny.write_tensors(grown, tensors)
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["tensor"]) == ("different", name)
    assert found.first["rule"] == "missing" if way == "gone" else "wanted" in found.first["rule"]


@pytest.mark.parametrize("way", ["grow.json", "no grow.json"])
@pytest.mark.parametrize(("field", "value"), [("return_dict", False), ("chunk_size_feed_forward", 7)])
def test_a_field_with_which_no_model_runs_is_named(field, value, way, tmp_path):
    source = models.save("bert-mlm", tmp_path / "source")
    if way == "grow.json":
        grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    else:
        grown = grown_from(source, "2x", tmp_path / "grown")
    tiny.edit_json(grown / "config.json", lambda c: c.update({field: value}))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["field"], found.first["found"]) == ("different", field, value)


def test_an_expert_of_more_is_named_behind_the_stack_it_is_in(tmp_path):
    """Twice as many experts get other tokens in another order: what is inside of them is not compared."""
    source = models.save("mixtral", tmp_path / "source", "float64")
    grown = grown_from(source, {"experts": 8}, tmp_path / "grown")
    name = "model.layers.1.block_sparse_moe.experts.6.w2.weight"
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__(3, raw[3] * 1.5))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["module"]) == ("different", "model.layers.1.mlp.experts")
    assert name in found.first["text"]


@pytest.mark.parametrize("to", ["2x", ""])
def test_a_model_that_looks_ahead_is_named_by_the_field_that_lets_it(to, tmp_path):
    """No such field and `false` are two things to code that takes an absent one for true."""
    source = models.save("qwen2", tmp_path / "source", "float64")
    other = grown_from(source, to, tmp_path / "grown") if to else Path(shutil.copytree(source, tmp_path / "other"))
    tiny.edit_json(other / "config.json", lambda c: c.update(is_causal=False))
    found = grow.verify(source, other, rungs=BOTH)
    assert found.verdict == "different"
    assert "is_causal" in found.first["text"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("variant", "to", "end"),
    [
        ("granitemoe", {"hidden": 48, "ffn": 40}, ".input_linear.weight"),
        ("qwen2_moe", {"hidden": 48, "expert_ffn": 20}, ".experts.1.gate_proj.weight"),
        ("llama", {"hidden": 48, "ffn": 40}, "layers.1.mlp.gate_proj.weight"),
    ],
)
def test_a_number_that_is_none_is_named(variant, to, end, value, tmp_path):
    """In a new unit that nobody reads yet, which no equation holds."""
    source = models.save(variant, tmp_path / "source", "float64")
    grown = grown_from(source, to, tmp_path / "grown")
    name = next(n for n in tiny.read_tensors(grown) if n.endswith(end))
    shape = tiny.read_tensors(grown)[name].raw.shape
    place = (*(1,) * (len(shape) - 2), (40 if "ffn" in to else 20) - 1, shape[-1] - 1)
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__(place, value))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.verdict, found.first["tensor"], tuple(found.first["index"])) == ("different", name, place)
