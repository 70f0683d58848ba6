"""A verdict says what was run and no more: a growth that no model confirmed, the same function under another record,
and a checkpoint that grew more than once.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny as files
from models import save
from safetensors.numpy import load_file, save_file

import grow
from grow.architectures import FAMILIES
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.verdict import Check, Verification

CERTIFICATE = ("certificate",)
BOTH = ("certificate", "true_float64", "hidden_states")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A Llama in float64, and a growth of it."""
    folder = tmp_path_factory.mktemp("pair")
    source = files.checkpoint(folder / "source", "llama", dtype="F64")
    return source, grow.widen(source, "2x", out=folder / "grown", verify=False).path


def edit(folder: Path, change) -> None:
    weights = load_file(folder / files.WEIGHTS)
    change(weights)
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / files.WEIGHTS, {"format": "pt"})


# What was not run


@pytest.fixture
def wrong_fact(monkeypatch):
    """Llama's table with one false fact in it: attention scores that are not scaled, so head_dim grows wrongly."""
    facts = FAMILIES["llama"]
    attention = dataclasses.replace(facts.attention, scaled="never")
    monkeypatch.setitem(FAMILIES, "llama", dataclasses.replace(facts, attention=attention))


@pytest.mark.usefixtures("wrong_fact")
def test_a_wrong_fact_in_a_family_is_never_called_lossless_by_weights_alone(tmp_path, monkeypatch, capsys):
    source, out = files.checkpoint(tmp_path / "source", "llama"), tmp_path / "grown"
    with pytest.raises(grow.Different, match="true_float64"):
        grow.widen(source, {"head_dim": 12}, out=out)
    line = ("widen", "--from", source, "--to", "head_dim=12", "--out", out, "--no-verify")
    code, said, err = files.command(monkeypatch, capsys, *line)
    card = (out / "README.md").read_text()
    assert (code, err) == (0, "")
    assert said.splitlines()[-1].startswith("unverified: --no-verify was given, so no weight was checked")
    code, text, _ = files.command(monkeypatch, capsys, "verify", source, out, "--rung", "certificate")
    page = tmp_path / "page.html"
    line = ("verify", source, out, "--rung", "certificate", "--json", "--report", page)
    _, document, _ = files.command(monkeypatch, capsys, *line)
    assert (code, json.loads(document)["verdict"]) == (0, "certified")
    assert text.splitlines()[-1].startswith(f"certified: {out}: its weights follow the table from those of {source}")
    for words in (card, said, text, document, page.read_text()):
        for claim in ("lossless", "Lossless", "computes what", "function-preserving", "same function"):
            assert claim not in words, (claim, words)
    assert "Unverified" in card
    assert grow.verify(source, out, rungs=BOTH).verdict == "different"  # and a model tells


def test_what_does_not_fit_into_memory_is_kept_and_told(pair, tmp_path, monkeypatch):
    from grow.verification.outputs import forward_passes
    from grow.verification.outputs.pair import Pair

    def full(*_, **__):
        raise NoRoom("139 GB, and 24 GB are free")

    for name in ("outputs", "model", "load", "hidden"):
        monkeypatch.setattr(Pair, name, full)
    assert forward_passes.true_float64.__name__ == "true_float64"
    grown = grow.widen(pair[0], "2x", out=tmp_path / "out")
    assert (grown.status, grown.verification.exit_code, grown.verified) == ("certified", 0, False)
    assert "not enough memory" in grown.verification.check("true_float64").reason
    card = (grown.path / "README.md").read_text()
    assert "Verdict: **certified**: every weight follows the table of its family; whether the model computes" in card
    assert "function-preserving" not in card
    assert files.read_json(grown.path / "grow.json")["verification"]["verdict"] == "certified"


def test_verdicts_exit_codes_and_claims():
    passed, failed = Check("certificate", "pass"), Check("certificate", "fail", reason="x")
    outputs = Check("true_float64", "pass", {"reached": {}})
    loose = Check("true_float64", "pass", {"reached": {}, "within_storage": True})
    unseen = Check("true_float64", "pass", {"reached": {}, "unseen": ["row 3"]})

    def judged(*checks: Check) -> tuple[str, int, bool]:
        found = Verification("a", "b", checks, growth={"exact": True})
        return found.verdict, found.exit_code, "computes what a computes" in found.claim

    assert judged(passed, outputs) == ("lossless", 0, True)
    assert judged(passed) == ("certified", 0, False)
    assert judged(passed, Check("true_float64", "skip")) == ("certified", 0, False)
    assert judged(Check("certificate", "pass", {"same_numbers": True})) == ("lossless", 0, True)
    assert judged(failed, outputs) == ("unrecorded", 1, True)
    assert judged(failed, loose) == ("different", 1, False)
    assert judged(failed, unseen) == ("different", 1, False)
    assert judged(failed, Check("true_float64", "pass")) == ("different", 1, False)  # nobody looked for the unseen
    assert judged(failed) == ("different", 1, False)
    assert judged(failed, outputs, Check("loss", "fail")) == ("different", 1, False)
    assert judged(outputs) == ("lossless", 0, True)
    assert judged(loose) == ("unproved", 1, False)


# The same function, and another growth than the recorded one


def permute_units(w) -> None:
    order = np.random.default_rng(3).permutation(len(w["model.layers.0.mlp.gate_proj.weight"]))
    for name in ("gate_proj", "up_proj"):
        w[f"model.layers.0.mlp.{name}.weight"] = w[f"model.layers.0.mlp.{name}.weight"][order]
    w["model.layers.0.mlp.down_proj.weight"] = w["model.layers.0.mlp.down_proj.weight"][:, order]


def move_gain(w) -> None:
    gain = w["model.layers.1.post_attention_layernorm.weight"].copy()
    for name in ("gate_proj", "up_proj"):
        w[f"model.layers.1.mlp.{name}.weight"] *= gain[None]
    w["model.layers.1.post_attention_layernorm.weight"][:] = 1


def scale_values(w) -> None:
    w["model.layers.1.self_attn.v_proj.weight"] *= 3
    w["model.layers.1.self_attn.o_proj.weight"] /= 3


def permute_stream(w) -> None:
    order = np.random.default_rng(5).permutation(len(w["model.norm.weight"]))
    for name, value in w.items():
        writes = value.ndim == 1 or "o_proj" in name or "down_proj" in name
        w[name] = value[order] if writes else value[:, order]


SAME = {"units": permute_units, "gain": move_gain, "values": scale_values, "stream": permute_stream}


@pytest.mark.parametrize("name", SAME)
def test_the_same_function_under_another_record_is_called_that(name, pair, tmp_path, monkeypatch, capsys):
    folder = Path(shutil.copytree(pair[1], tmp_path / name))
    edit(folder, SAME[name])
    found = grow.verify(pair[0], folder, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("unrecorded", 1), found.checks
    assert [check.name for check in found.checks if check.status == "fail"] == ["certificate"]
    line = ("verify", pair[0], folder, "--rung", "certificate", "--rung", "true_float64")
    code, text, _ = files.command(monkeypatch, capsys, *line)
    last = text.splitlines()[-1]
    assert (code, "but is not the growth that grow.json records (certificate: model." in last) == (1, True)
    assert "does not compute" not in text
    (folder / "grow.json").unlink()
    assert grow.verify(pair[0], folder, rungs=BOTH).verdict == "lossless"


def test_weights_that_were_stored_wider_since_are_the_same_function(tmp_path):
    source = files.checkpoint(tmp_path / "source", "llama")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    edit(grown, lambda w: w.update({k: v.astype(np.float64) for k, v in w.items()}))
    files.edit_json(grown / "config.json", lambda c: c.update(dtype="float64"))
    assert grow.verify(source, grown, rungs=BOTH).verdict == "unrecorded"


def test_a_rounded_growth_that_was_rewritten_is_not_said_to_compute_something_else(tmp_path):
    source = files.checkpoint(tmp_path / "source", "llama")
    grown = grow.widen(source, "3x", split="even", out=tmp_path / "grown", verify=False).path
    edit(grown, permute_units)
    found = grow.verify(source, grown, rungs=BOTH)
    assert found.verdict == "different"
    assert "does not compute" not in found.claim
    assert "as far as rounding the stored weights explains" in found.claim


@pytest.mark.parametrize("row", [7, 28])
def test_another_function_is_still_different(row, pair, tmp_path):
    folder = Path(shutil.copytree(pair[1], tmp_path / "other"))
    edit(folder, lambda w: w["model.embed_tokens.weight"][row].__imul__(1.5))
    found = grow.verify(pair[0], folder, rungs=BOTH)
    assert found.verdict == "different"
    assert "does not compute" in found.claim
    assert found.first["tensor"] == "model.embed_tokens.weight"


def test_a_field_that_no_probe_reaches_is_no_same_function(pair, tmp_path):
    folder = Path(shutil.copytree(pair[1], tmp_path / "other"))
    files.edit_json(folder / "config.json", lambda c: c.update(max_position_embeddings=96))
    found = grow.verify(pair[0], folder, rungs=BOTH)
    assert (found.verdict, found.check("true_float64").status) == ("different", "pass")
    assert "max_position_embeddings" in found.first["text"]
    assert found.claim.endswith("that grow.json records; the probes saw no difference")


# Dense layers among experts


@pytest.mark.parametrize("dense", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}], ids=str)
def test_inserted_dense_layers_that_are_stored_wider_are_certified(dense, tmp_path):
    source = save("qwen3_moe", tmp_path / "source", "bfloat16", num_hidden_layers=3, **dense)
    target = {"hidden": 54, "layers": 5}
    grown = grow.widen(source, target, out=tmp_path / "grown", verify=False, split="even")
    assert {t.dtype for t in grown.plan.tensors} == {"F32"}
    found = grow.verify(source, grown.path, rungs=BOTH)
    assert (found.verdict, found.check("certificate").status) == ("lossless", "pass"), found.checks


@pytest.mark.parametrize("variant", ["llama", "qwen3", "qwen3_moe"])
def test_the_first_difference_is_no_table_of_angles(variant, tmp_path):
    source = save(variant, tmp_path / "source", "float32")
    grown = grow.widen(source, {"head_dim": 16}, out=tmp_path / "grown", verify=False).path
    name = "model.layers.1.self_attn.o_proj.weight"
    files.edit_tensor(grown, name, lambda raw: raw.__setitem__((0, 0), 3.0))
    found = grow.verify(source, grown, rungs=BOTH)
    assert (found.first["module"], found.first["tensor"]) == (name.removesuffix(".weight"), name)


# Grown more than once

TWICE = {
    "llama": ("2x", {"hidden": 96, "ffn": 90}),
    "qwen3": ({"head_dim": 20, "layers": 3}, "2x"),
    "gpt2": ("2x", "2x"),
    "bert": ("2x", {"ffn": 77}),
    "opt": ({"layers": 4}, "3x"),
}


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Family -> (source, grown twice); what stood in between is gone."""
    made = {}

    def get(family: str) -> tuple[Path, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            source = files.checkpoint(folder / "source", family, dtype="BF16")
            first, second = TWICE[family]
            between = grow.widen(source, first, out=folder / "between", verify=False, seed=1).path
            made[family] = source, grow.widen(between, second, out=folder / "grown", verify=False, seed=2).path
            shutil.rmtree(between)
        return made[family]

    return get


@pytest.mark.parametrize("family", TWICE)
def test_what_grew_twice_is_proved_against_the_first_source(family, twice):
    found = grow.verify(*twice(family), rungs=(*BOTH, "recover"))
    assert (found.verdict, found.exit_code) == ("lossless", 0), found.checks
    assert found.check("certificate").status == found.check("recover").status == "pass"
    assert found.check("certificate").measured["growths"] == 2
    assert found.check("hidden_states").status == "pass"


@pytest.mark.parametrize("family", TWICE)
def test_a_fault_in_what_grew_twice_is_named_by_the_weights_alone(family, twice, tmp_path):
    source, grown = twice(family)
    folder = Path(shutil.copytree(grown, tmp_path / "bad"))
    names = [name for name, t in files.read_tensors(folder).items() if t.raw.ndim == 2]
    name = names[len(names) // 2]
    files.edit_tensor(folder, name, lambda raw: raw.__setitem__((1, 2), 0x4000))
    found = grow.verify(source, folder, rungs=CERTIFICATE)
    assert (found.verdict, found.first["tensor"]) == ("different", name)
    assert "growth 2 of 2" in found.checks[0].reason
    assert grow.verify(source, grown, rungs=CERTIFICATE).verdict == "certified"


def test_another_source_or_another_step_between_is_found(twice, tmp_path):
    source, grown = twice("llama")
    other = files.checkpoint(tmp_path / "other", "llama", dtype="BF16", seed=5)
    found = grow.verify(other, grown, rungs=CERTIFICATE)
    assert (found.verdict, "growth 1 of 2" in found.checks[0].reason) == ("different", True)
    folder = Path(shutil.copytree(grown, tmp_path / "seed"))
    files.edit_json(folder / "grow.json", lambda r: r["earlier"][0]["plan"].update(seed=9))
    assert grow.verify(source, folder, rungs=CERTIFICATE).verdict == "different"


def test_without_what_it_keeps_the_step_between_is_read_where_it_lies(tmp_path):
    source = files.checkpoint(tmp_path / "source", "gpt2")
    between = grow.widen(source, "2x", out=tmp_path / "between", verify=False).path
    grown = grow.widen(between, "2x", out=tmp_path / "grown", verify=False).path
    files.edit_json(grown / "grow.json", lambda r: r.pop("earlier"))
    assert grow.verify(source, grown, rungs=CERTIFICATE).verdict == "certified"
    shutil.rmtree(between)
    with pytest.raises(grow.BadInput, match="is not the checkpoint that grow"):
        grow.verify(source, grown, rungs=CERTIFICATE)


@pytest.mark.parametrize("earlier", [3, [{}], [[]], {"a": 1}, [{"earlier": []}]], ids=str)
def test_a_record_of_earlier_growths_that_is_none_is_refused(earlier, twice, tmp_path):
    source, grown = twice("gpt2")
    folder = Path(shutil.copytree(grown, tmp_path / "bad"))
    files.edit_json(folder / "grow.json", lambda r: r.update(earlier=earlier))
    with pytest.raises(grow.BadInput, match="is not a record of a growth"):
        grow.verify(source, folder, rungs=CERTIFICATE)


def test_three_growths_are_a_chain_too(tmp_path):
    made = [files.checkpoint(tmp_path / "0", "llama")]
    for k, target in enumerate(("2x", {"ffn": 55}, {"layers": 3}), 1):
        made.append(grow.widen(made[-1], target, out=tmp_path / str(k), verify=False, seed=k).path)
    for folder in made[1:3]:
        shutil.rmtree(folder)
    found = grow.verify(made[0], made[3], rungs=BOTH)
    assert (found.verdict, found.check("certificate").measured["growths"]) == ("lossless", 3)
