"""Shrinking back: the source's numbers come out of the grown checkpoint, and a number that was lost is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from drawn_targets import grows
from models import ONE_EACH, VARIANTS, save, seeded

import grow
from grow.architectures.architecture import Architecture

WIDE = {"2x": 2, "3x": 3}


def everything(variant: str, factor: int) -> dict[str, int]:
    """Every axis at once, by a whole factor where the family wants one."""
    kind, _, fields, _ = VARIANTS[variant]
    source, r = Architecture(grow.families[kind], fields), seeded(variant)
    old, named = source.sizes, grow.families[kind].axes.keys() - source.followed.keys()
    target = {a: factor * old[a] for a in ("hidden", "heads", "kv_heads") if a in named}
    own = (axis for axis in ("ffn", "inner", "dt_rank", "ssm_state") if grows(variant, axis))
    target |= {axis: old[axis] + r.randint(1, 9) for axis in own}
    target["layers"] = old["layers"] + r.randint(1, 3)
    return target | {axis: old[axis] + more for axis, more in (("vocab", 3), ("positions", 5)) if axis in old}


def check(source: Path, grown: Path) -> dict:
    found = grow.verify(source, grown, rungs=["recover"])
    (only,) = found.checks
    return {"status": only.status, "reason": only.reason, **only.measured}


@pytest.mark.parametrize("factor", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ONE_EACH)
def test_the_source_comes_back(tmp_path, variant, dtype, factor):
    source = save(variant, tmp_path / "source", dtype)
    grown = grow.widen(source, everything(variant, factor), out=tmp_path / "grown", verify=False)
    found = check(source, grown.path)
    assert found["status"] == "pass", found
    assert found["tensors"] == len(tiny.read_tensors(source))
    assert found["entries"] == sum(t.raw.size for t in tiny.read_tensors(source).values())
    # a rounded plan of bfloat16 weights is stored as float32: the sums are nearer than half a unit of bfloat16
    if grown.plan.storage == "bit-exact" or dtype == "bfloat16":
        assert (found["changed"], found["worst"]) == (0, 0.0)
    else:
        assert found["worst"] <= 1


@pytest.mark.parametrize("hidden", [19, 24, 30])
def test_widths_that_do_not_divide(tmp_path, hidden):
    """Silent coordinates scale the stream by √(m/n): bfloat16 comes back whole, float32 to half a unit."""
    for dtype in ("bfloat16", "float32"):
        source = save("qwen3", tmp_path / f"source-{dtype}", dtype)
        grown = grow.widen(source, {"hidden": hidden, "head_dim": 10}, out=tmp_path / f"out-{dtype}", verify=False)
        found = check(source, grown.path)
        assert grown.plan.storage == "rounded"
        assert found["status"] == "pass"
        assert (found["changed"] == 0) == (dtype == "bfloat16")


def test_nothing_but_the_grown_numbers_and_the_maps_is_used(tmp_path):
    """A share of a weight, a copy that is read, a norm's gain: each changed number changes what comes back."""
    source = save("llama-tied", tmp_path / "source", "bfloat16")
    grown = grow.widen(source, everything("llama-tied", 2), out=tmp_path / "grown", verify=False).path
    kept = (grown / tiny.WEIGHTS).read_bytes()
    names = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
    ]
    for name in names:
        tiny.edit_tensor(grown, name, lambda raw: np.put(raw, 0, raw.flat[0] ^ 1))
        found = check(source, grown)
        assert (found["status"], found["changed"]) == ("fail", 1), name
        assert found["reason"].startswith(name)
        (grown / tiny.WEIGHTS).write_bytes(kept)
    assert check(source, grown)["status"] == "pass"


def test_a_weight_that_no_output_reads_is_no_part_of_the_source(tmp_path):
    source = save("llama", tmp_path / "source")
    grown = grow.widen(source, {"layers": 3, "ffn": 40}, out=tmp_path / "grown", verify=False).path
    tiny.edit_tensor(grown, "model.layers.1.mlp.up_proj.weight", lambda raw: raw.fill(0))  # an inserted layer
    assert check(source, grown)["status"] == "pass"


def test_without_a_record_nothing_says_where_the_numbers_are(tmp_path):
    source = save("llama", tmp_path / "source")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    assert check(source, grown)["status"] == "skip"


def test_the_flag_adds_it_to_the_ladder(tmp_path, monkeypatch, capsys):
    source = save("gpt2", tmp_path / "source")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    code, out, _ = tiny.command(monkeypatch, capsys, "verify", source, grown, "--rung", "certificate", "--recover")
    assert code == 0
    assert "recover" in out
    assert "bit for bit" in out
    code, _, err = tiny.command(monkeypatch, capsys, "verify", source, "--record", tmp_path / "g", "--recover")
    assert code == 2
    assert "--recover has no meaning with --record" in err
