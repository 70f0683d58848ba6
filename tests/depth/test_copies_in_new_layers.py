"""Copies of units and heads in inserted layers part from each other: what they write is 0, so shares do not do it."""

from __future__ import annotations

import models
import pytest

import grow
from grow.planning.change import Change

COPIED = {
    ("llama", "ffn"): {"ffn": 56, "layers": 3},
    ("llama", "heads"): {"hidden": 36, "heads": 12, "kv_heads": 4, "layers": 3},
    ("bert-mlm", "ffn"): {"ffn": 66, "layers": 3},
    ("qwen3_moe", "expert_ffn"): {"expert_ffn": 28, "layers": 4},
}
RUNGS = ("certificate", "true_float64", "trainability")


@pytest.mark.parametrize("case", COPIED, ids="-".join)
def test_they_are_drawn_apart_and_learn(case, tmp_path):
    variant, axis = case
    source = models.save(variant, tmp_path / "source")
    grow.widen(source, COPIED[case], operators={axis: "copies"}, out=tmp_path / "grown", verify=False)
    found = grow.verify(source, tmp_path / "grown", rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c.reason for c in found.checks]
    assert found.check("trainability").measured["twins"] == 0


def test_copies_that_were_kept_are_exact_and_locked(tmp_path, monkeypatch):
    """As growths of before did it: their certificates hold, and the check of training sees what is wrong with them."""
    source = models.save("llama", tmp_path / "source")
    with monkeypatch.context() as before:
        before.setattr(Change, "draws_copies", lambda *_: False)
        grow.widen(source, COPIED["llama", "ffn"], operators={"ffn": "copies"}, out=tmp_path / "grown", verify=False)
    found = grow.verify(source, tmp_path / "grown", rungs=RUNGS)
    assert found.check("certificate").status == "pass"
    assert "stay equal to their twin" in found.check("trainability").reason
