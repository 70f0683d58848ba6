"""Models learn: `small` on the bundled text, a tiny one on a single page."""

from __future__ import annotations

import shutil
from typing import Any

import models
import torch
from training import curve

import grow
import grow.data
from grow.training import sharding
from grow.training.text import objectives
from grow.zoo import heldout_text

# What it is for


def test_a_grown_model_learns_on_the_bundled_text_and_is_a_stock_checkpoint(tmp_path):
    """`small` has converged on such speeches, so ten more steps help only a little (3.6145 -> 3.611)."""
    grow.widen("small", "2x", out=tmp_path / "base", verify=False)
    options: dict[str, Any] = dict(steps=10, batch=8, length=128, eval_every=10, warmup=3, rewarm=(1.25, 5))
    done = grow.train(tmp_path / "base", out=tmp_path / "run", **options)
    lines = curve(tmp_path / "run")
    assert done.val_loss is not None
    assert done.val_loss < lines[0]["val_loss"] - 0.001
    assert lines[-1]["flops"] == 10 * lines[1]["flops"]
    assert grow.inspect(done.checkpoint).family.model_type == "llama"
    model = models.transformers.AutoModelForCausalLM.from_pretrained(done.checkpoint)
    assert model.dtype == torch.bfloat16
    assert models.transformers.AutoTokenizer.from_pretrained(done.checkpoint)("the").input_ids


def test_bundled_texts_can_be_named_as_data(tmp_path, monkeypatch):
    options: dict[str, Any] = dict(steps=1, batch=2, length=16, warmup=0)
    one = grow.train("small", out=tmp_path / "a", **options)
    same = grow.train("small", "sotu-heldout", out=tmp_path / "b", **options)
    assert one.loss == same.loss
    monkeypatch.setattr("grow.data.readers.bundled_text", lambda name: heldout_text()[-9000:])  # the other one is long
    mixed = grow.train("small", ["sotu:0.5", "sotu-heldout:0.5"], out=tmp_path / "c", **options)
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.startswith("data")) == [
        "data", "data-sotu"
    ]  # fmt: skip
    assert mixed.loss != one.loss
    again = grow.train(out=tmp_path / "c", resume=True, steps=2)
    assert again.step == 2


def test_a_model_memorises_one_page(tmp_path):
    page = tmp_path / "page.txt"
    page.write_text(heldout_text()[:3000])
    grow.data.prepare([page], tokenizer="small", out=tmp_path / "tokens", validation=0)
    options: dict[str, Any] = dict(steps=20, batch=4, length=64, lr=3e-3, warmup=2)
    done = grow.train("small", tmp_path / "tokens", out=tmp_path / "run", **options)
    assert done.loss is not None
    assert done.loss < 0.5 * curve(tmp_path / "run")[0]["loss"]
    assert done.val_loss is None
    assert " is not evaluated: " in done.notes[0]
    assert done.notes[0].endswith("tokens do not fill a block of 64")


def test_a_run_leaves_the_random_state_of_its_caller(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    grow.train(out=path, resume=True, steps=5)
    assert torch.equal(torch.rand(3), wanted)


def test_blocks_are_the_repeated_layers():
    for variant, count in (("llama", 2), ("gpt2", 2), ("bert-mlm", 2), ("opt", 2)):
        assert len(sharding.blocks(models.make(variant))) == count
    assert objectives.objective_of(models.make("gpt2").config, None, "GPT2LMHeadModel").kind == "causal"
