"""What growth adds to a run: frozen entries, re-warming, and a check that the start is lossless."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import QUICK, apart, refused, trained, weights

import grow
import grow.data
from grow.planning.record import read_record
from grow.training.after_growth.new_entries import NewEntries, tensors_of

# What growth adds


GROWTHS: dict[str, tuple[str, dict[str, Any]]] = {
    "copies": ("llama-tied", {"hidden_size": 36, "heads": 12, "kv_heads": 4, "ffn": 61}),
    "silent": ("llama", {"hidden_size": 24, "heads": 8}),
    "depth": ("llama", {"layers": 4, "ffn": 40}),
    "gpt2": ("gpt2", {"hidden": 24, "heads": 6, "layers": 3}),
    "mean": ("gpt2", {"hidden": 20, "heads": 5}),
    "neox": ("gpt_neox", {"hidden_size": 39}),
    "words": ("qwen3", {"vocab_size": 50, "head_dim": 16}),
    "bert": ("bert-mlm", {"hidden_size": 24, "heads": 4, "layers": 3}),
    "parted": ("opt", {"hidden_size": 21, "ffn": 30}),
    "no norm": ("opt-no-final-norm", {"hidden_size": 24, "heads": 6}),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_the_record_and_the_grown_checkpoint_say_what_is_new(tiny, tmp_path, name):
    variant, to = GROWTHS[name]
    grown = grow.widen(tiny(variant), to, out=tmp_path / "grown", verify=False)
    wanted = grow.new_entries(grown.plan)
    with checkpoints_open(grown.path) as checkpoint:
        made = tensors_of(read_record(grown.path), checkpoint)
    from grow.optimizer.dual_rule import new_entries_of

    assert {t.name for t in made} == set(wanted)
    assert all(torch.equal(new_entries_of(t), wanted[t.name]) for t in made)


def checkpoints_open(path: Path) -> Any:
    from grow.checkpoint.reader import open_checkpoint

    return open_checkpoint(path)


@pytest.fixture(scope="module")
def grown(tiny, tmp_path_factory) -> grow.Growth:
    return grow.widen(
        tiny("llama-tied"), GROWTHS["copies"][1], out=tmp_path_factory.mktemp("grown") / "g", verify=False
    )


def test_frozen_entries_keep_their_bits_and_the_others_learn(grown, text, tmp_path):
    grow.train(grown.path, text, out=tmp_path / "run", freeze_old=True, **QUICK)
    before, after = load_file(grown.path / "model.safetensors"), weights(tmp_path / "run")
    new = grow.new_entries(grown.plan)
    assert all(torch.equal(before[name][~new[name]], after[name][~new[name]]) for name in before)
    changed = sum(int((before[name] != after[name])[new[name]].sum()) for name in before)
    assert changed > 0.9 * sum(int(new[name].sum()) for name in before)


def test_masks_are_sharded_with_the_weights(grown, text, tmp_path):
    """Two processes freeze and re-warm the entries that one does."""
    options: dict[str, Any] = {**QUICK, "steps": 2, "lr": 1e-3}
    line = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    line += ["--from", grown.path, "--data", text, "--out", tmp_path / "two", "--freeze-old", "--rewarm", "2:9"]
    trained(2, tmp_path, *line)
    grow.train(grown.path, text, out=tmp_path / "one", freeze_old=True, rewarm=(2.0, 9), **options)
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-6
    before, one, two = (
        load_file(grown.path / "model.safetensors"),
        weights(tmp_path / "one", 2),
        weights(tmp_path / "two", 2),
    )
    for name, new in grow.new_entries(grown.plan).items():
        assert torch.equal(before[name][~new], two[name][~new])
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-4)  # a gradient of rounding alone steps too


def test_re_warming_scales_new_updates_and_no_other_number(grown, text, tmp_path):
    """After one step: old entries as without it, bit for bit; new ones moved 2 times as far."""
    one = {**QUICK, "steps": 1, "dtype": "float32"}
    grow.train(grown.path, text, out=tmp_path / "plain", rewarm=None, **one)
    grow.train(grown.path, text, out=tmp_path / "warm", rewarm=(2.0, 5), **one)
    start = load_file(grown.path / "model.safetensors")
    plain, warm = weights(tmp_path / "plain", 1), weights(tmp_path / "warm", 1)
    for name, new in grow.new_entries(grown.plan).items():
        assert torch.equal(plain[name][~new], warm[name][~new])
        moved = 2 * (plain[name] - start[name])[new]
        torch.testing.assert_close((warm[name] - start[name])[new], moved, rtol=1e-3, atol=2e-6)


def test_masks_are_sharded_like_the_parameters(grown, monkeypatch):
    """A process holds the part of a mask that belongs to its part of the weight."""
    model = models.transformers.AutoModelForCausalLM.from_pretrained(grown.path)
    with checkpoints_open(grown.path) as checkpoint:
        made = tensors_of(read_record(grown.path), checkpoint)
    halves = {t.name: t for t in made}
    module = sys.modules["grow.training.after_growth.new_entries"]
    monkeypatch.setattr(module, "part_of", lambda full, like: full.chunk(2)[0])
    monkeypatch.setattr(module, "local", lambda p: p.data.chunk(2)[0])
    masks = NewEntries(model, tuple(halves.values()), freeze_old=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks.before(0)
    for p in model.parameters():
        p.data += 1
    masks.after(0)
    for name, p in model.named_parameters():
        new = grow.new_entries(grown.plan)[name].clone()
        rows = len(new.chunk(2)[0])
        new[rows:] = True
        assert torch.equal(p.data, torch.where(new, before[name] + 1, before[name]))


def test_a_lossless_start_is_checked_against_the_source(grown, tiny, text, tmp_path):
    options = {**QUICK, "steps": 1}
    done = grow.train(grown.path, text, out=tmp_path / "a", source=tiny("llama-tied"), **options)
    assert any(note.startswith("the validation loss before the first step is the source's") for note in done.notes)
    broken = shutil.copytree(grown.path, tmp_path / "broken")
    stored = load_file(broken / "model.safetensors")
    stored["model.norm.weight"] *= 1.1
    save_file(stored, broken / "model.safetensors", metadata={"format": "pt"})
    said = refused(src=broken, data=text, out=tmp_path / "b", source=tiny("llama-tied"), **options)
    assert "has a validation loss of " in said
    assert "grow.verify(…)" in said
    record = json.loads((tmp_path / "a" / "step-00000001" / "grow.json").read_text())
    assert (record["training"]["step"], record["verification"]) == (1, None)
