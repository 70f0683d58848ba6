"""The trainability rung: a default growth learns everywhere; dead parameters and locked twins are counted."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path

import models
import numpy as np
import pytest
import tiny
import torch

import grow
from grow.verification.outputs import pair as pair_module
from grow.verification.verdict import Check

MODULE = importlib.import_module("grow.verification.checks.trainability")

CASES = [
    ("llama", "2x"),
    ("llama", "hidden_size=36,intermediate_size=31"),
    ("qwen3", "head_dim=14,hidden_size=40"),
    ("gpt2", "n_embd=36"),
    ("gpt_neox", "3x"),
    ("opt", "hidden_size=36"),
    ("bert", "2x"),
]


def audit(source: Path, grown: Path) -> Check:
    return grow.verify(source, grown, rungs=["trainability"]).check("trainability")


def grown_from(source: Path, to: str, **options) -> Path:
    return grow.widen(source, to, out=source.parent / "grown", verify=False, **options).path


@pytest.mark.parametrize("record", [True, False], ids=["grow.json", "no record"])
@pytest.mark.parametrize(("family", "to"), CASES)
def test_a_default_growth_learns_everywhere(family, to, record, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", family)
    grown = grown_from(source, to)
    parameters = grow.plan(source, to).parameters
    if not record:
        (grown / "grow.json").unlink()
    check = audit(source, grown)
    assert (check.status, check.measured["dead"], check.measured["twins"]) == ("pass", 0, 0), check.reason
    assert check.measured["parameters"] == parameters[1]
    if record:
        assert check.measured["new"] == parameters[1] - parameters[0]
        assert check.measured["share"] == 1.0
    assert sum(row["new"] for row in check.measured["tensors"]) == check.measured["new"]


def test_the_same_checkpoint_has_nothing_new(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    check = audit(source, source)
    assert (check.status, check.measured["new"], check.measured["share"]) == ("pass", 0, None)


@pytest.mark.parametrize("record", [True, False], ids=["grow.json", "no record"])
def test_even_shares_lock_the_twins(record, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    # hidden alone: fresh heads or units read the copies with random weights of their own and part them
    grown = grown_from(source, "hidden_size=48", split="even")
    if not record:
        (grown / "grow.json").unlink()
    check = audit(source, grown)
    assert check.status == "fail"
    assert check.measured["twins"] >= 24
    assert "stay equal to their twin" in check.reason
    found = grow.verify(source, grown, rungs=["true_float64", "trainability"])
    assert (found.verdict, found.trainable, found.exit_code) == ("lossless", False, 1)


def test_two_zero_factors_are_dead_and_counted(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    grown = grown_from(source, "intermediate_size=31")
    for name in ("gate_proj", "up_proj"):
        tiny.edit_tensor(grown, f"model.layers.1.mlp.{name}.weight", lambda raw: raw.__setitem__(slice(20, 31), 0))
    check = audit(source, grown)
    assert check.status == "fail"
    # both rows of 11 units and the column that reads them
    assert check.measured["dead"] == 3 * 11 * 24
    assert check.measured["learning"] == check.measured["new"] - check.measured["dead"]
    dead = {row["rows"]: row["dead"] for row in check.measured["tensors"] if row["dead"]}
    assert dead == {f"model.layers.{{layers}}.mlp.{name}_proj.weight": 11 * 24 for name in ("gate", "up", "down")}


def test_what_is_dead_in_the_source_is_not_the_growths_fault(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    for name, index in (("up_proj", 3), ("gate_proj", 3), ("down_proj", (slice(None), 3))):
        tiny.edit_tensor(source, f"model.layers.0.mlp.{name}.weight", lambda raw, i=index: raw.__setitem__(i, 0))
    check = audit(source, grown_from(source, "2x", operators={"ffn": "copies"}))
    assert check.status == "pass", check.reason


def test_equal_rows_of_the_source_are_no_locked_twins(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    for name, index in (("up_proj", 3), ("gate_proj", 3)):
        tiny.edit_tensor(source, f"model.layers.0.mlp.{name}.weight", lambda raw, i=index: raw.__setitem__(i, raw[4]))
    other = shutil.copytree(source, tmp_path / "other")
    assert audit(source, other).status == "pass"


def test_a_bias_that_no_softmax_sees_has_no_gradient_but_for_rounding(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    grown = grown_from(source, "2x")
    with pair_module.Pair(source, grown) as pair:
        before, after = MODULE.train_briefly(pair, "source"), MODULE.train_briefly(pair, "grown")
    keys = {name for name in after.moved if name.endswith("key.bias")}
    assert after.still == before.still == keys
    name = min(keys)
    after.moved[name][5] = False  # by chance the sum came out as zero
    part = MODULE.Part(name, None, after.moved[name], after.weights[name], None)
    assert MODULE._audit(part, before, after)["dead"] == 0
    told = dataclasses.replace(after, still=set())
    assert MODULE._audit(part, before, told)["dead"] == 1


@pytest.mark.parametrize("record", [True, False], ids=["grow.json", "no record"])
def test_an_expert_that_had_a_token_in_one_step_is_not_dead(record, tmp_path):
    # 40 experts of which each token takes two: some get their first token in the last step, where zeros stand before
    # what they read
    source = models.save("granitemoe", tmp_path / "source", num_local_experts=40, num_experts_per_tok=2)
    grown = grown_from(source, "2x")
    if not record:
        (grown / "grow.json").unlink()
    check = audit(source, grown)
    assert (check.status, check.measured["dead"]) == ("pass", 0), check.reason
    assert check.measured["learning"] < check.measured["new"]

    dead = {  # one unit of every expert: its gate, its value and its reader; no token can make them learn
        "input_linear": lambda raw: raw.__setitem__((slice(None), [-1, raw.shape[1] // 2 - 1]), 0),
        "output_linear": lambda raw: raw.__setitem__((slice(None), slice(None), -1), 0),
    }
    for name, zero in dead.items():
        tiny.edit_tensor(grown, f"model.layers.1.block_sparse_moe.{name}.weight", zero)
    check = audit(source, grown)
    assert check.status == "fail"
    assert "layers.1.block_sparse_moe" in check.reason


@pytest.mark.parametrize("record", [True, False], ids=["grow.json", "no record"])
def test_a_layer_of_zeros_that_learns_nothing_in_the_source_need_not_after_a_growth(record, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    for name in tiny.read_tensors(source):
        if ".layers.1." in name:
            tiny.edit_tensor(source, name, lambda raw: raw.__setitem__(..., 0))
    grown = grown_from(source, "2x")
    if not record:
        (grown / "grow.json").unlink()
    check = audit(source, grown)
    assert check.status == "pass", check.reason


@pytest.mark.parametrize("record", [True, False], ids=["grow.json", "no record"])
def test_units_that_no_probe_activates_are_not_dead_unless_they_are_zero(record, tmp_path):
    # the last token alone is classified, so few tokens reach the second layer's units, and ReLU lets few of these pass
    source = models.save("opt-sequence", tmp_path / "source", seed=4)
    grown = grown_from(source, "2x")
    if not record:
        (grown / "grow.json").unlink()
    rested = "model.decoder.layers.1.fc1.bias"
    for folder, units in ((source, slice(3, 5)), (grown, [3, 4, -1, -2])):  # never active, whatever they read
        tiny.edit_tensor(folder, rested, lambda raw, units=units: raw.__setitem__(units, -1e3))
    check = audit(source, grown)
    assert check.status == "pass", check.reason
    for name, where in (("fc1.weight", -1), ("fc1.bias", -1), ("fc2.weight", (slice(None), -1))):
        tiny.edit_tensor(grown, f"model.decoder.layers.1.{name}", lambda raw, i=where: raw.__setitem__(i, 0))
    check = audit(source, grown)
    assert check.status == "fail"
    assert "layers.1.fc1" in check.reason


def test_a_loss_that_is_no_number_fails(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    grown = grown_from(source, "2x")
    tiny.edit_tensor(grown, "model.norm.weight", lambda raw: raw.__setitem__(0, np.nan))
    check = audit(source, grown)
    assert check.status == "fail"
    assert "not finite" in check.reason


def test_threads_and_weights_are_left_as_they_were(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    grown = grown_from(source, "2x")
    before = tiny.snapshot(source), tiny.snapshot(grown), torch.get_num_threads(), torch.get_default_dtype()
    audit(source, grown)
    assert before == (tiny.snapshot(source), tiny.snapshot(grown), torch.get_num_threads(), torch.get_default_dtype())


def test_too_little_memory_is_a_skip(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    monkeypatch.setattr(pair_module, "available_memory", lambda: 100_000)
    check = audit(source, source)
    assert check.status == "skip"
    assert "GB are free" in check.reason
