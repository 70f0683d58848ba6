"""A plan never promises what stock code refuses: the class is asked for its shapes, and a tiny model is grown alike."""

from __future__ import annotations

import re
from dataclasses import replace

import models
import pytest

import grow
from grow.architectures import FAMILIES
from grow.errors import Refused
from grow.growth.stock_check import check_stock
from grow.growth.trial import try_plan
from grow.growth.written_and_verified import Different

TRIED = {
    "llama": {"hidden": 30, "heads": 10}, "gpt2": {"hidden": 24, "vocab": 50}, "bert-mlm": {"layers": 4},
    "qwen3_moe": {"experts": 8, "expert_ffn": 21}, "gemma2": {"hidden": 36, "head_dim": 12, "positions": 80},
    "opt": {"ffn": 44, "layers": 3}, "olmo2": {"hidden": 25},
}  # fmt: skip


@pytest.mark.parametrize("variant", TRIED)
def test_a_tiny_model_of_the_same_pattern_grows_alike(variant, tmp_path):
    source = models.save(variant, tmp_path / "source")
    notes = grow.plan(source, TRIED[variant], trial=True).notes
    (note,) = [note for note in notes if note.startswith("tried:")]
    tensors, differs = re.search(r"all (\d+) tensors .* differs by (\S+) in", note).groups()
    assert int(tensors) > 10
    assert float(differs) < 1e-11
    for axis in TRIED[variant].keys() - {"positions"}:  # no weight of a rotating family has them
        assert f"{axis} " in note


def test_a_config_that_the_stock_class_refuses_is_refused_before_a_weight_is_written(tmp_path, monkeypatch):
    source = models.save("llama", tmp_path / "source")
    assert check_stock(grow.plan(source, {"hidden": 36})) > 10
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], divides=False))
    with pytest.raises(Refused, match=r"LlamaForCausalLM builds no model of the grown config: .*not a multiple"):
        grow.plan(source, {"hidden": 19}, trial=True)
    with pytest.raises(Refused, match="builds no model"):
        grow.widen(source, {"hidden": 19}, out=tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_a_table_whose_sizes_do_not_follow_stock_code_is_refused(tmp_path):
    plan = grow.plan(models.save("gpt2", tmp_path / "source"), {"hidden": 24})
    wrong = replace(plan, new_config={**plan.new_config, "n_embd": 36})
    with pytest.raises(Refused, match=r"GPT2LMHeadModel has other shapes .*bias is \[108\], planned \[72\]"):
        check_stock(wrong)


def test_a_growth_that_computes_something_else_is_different(tmp_path, monkeypatch):
    source = models.save("granite", tmp_path / "source")
    assert "differs by" in try_plan(grow.plan(source, {"head_dim": 16})).note
    family = FAMILIES["granite"]
    scaled = replace(family, attention=replace(family.attention, scaled="always"))  # its scale is a field
    monkeypatch.setitem(FAMILIES, "granite", scaled)
    with pytest.raises(Different, match="tiny model of the same pattern"):
        grow.plan(source, {"head_dim": 16}, trial=True)
