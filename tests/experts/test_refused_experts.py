"""Experts: what is refused, the command, and the methods of the literature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import transformers
from models import LLAMA, save
from safetensors.torch import load_file
from tiny import command

import grow
from grow.architectures import FAMILIES
from grow.growth.opened import opened
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.planning.plan import plan_for

# What is refused


REFUSED = {
    "experts-already": (
        "mixtral",
        dict(experts=4),
        "has experts already",
        'grow.widen(…, to={"num_local_experts": 8})',
    ),
    "no-pair": ("gpt2", dict(experts=4), "no family with experts", "a source of llama"),
    "biases": ("llama-biases", dict(experts=4), "attention_bias", "a source without it"),
    "granite-biases": ("granite-biases", dict(experts=4), "mlp_bias", "a source without it"),
    "slices": (
        "llama",
        dict(experts=6, granularity=3),
        "28 units cannot be cut into 3 slices",
        "granularity=2 or granularity=4",
    ),
    "groups": ("llama", dict(experts=5, granularity=2), "5 experts", "experts=4 or experts=6"),
    "one": ("llama", dict(experts=1), "one expert", "experts=2"),
    "half-a-group": ("llama", dict(experts=8, granularity=2, top_k=3), "top_k=3", "top_k=2 or top_k=4"),
    "too-many": ("llama", dict(experts=4, top_k=5), "top_k=5", "top_k=4"),
    "idle-router": ("llama", dict(experts=4, top_k=1), "never learns", "top_k=2"),
    "shared": ("llama", dict(experts=4, route="shared"), "no shared expert", 'route="routed"'),
    "route": ("llama", dict(experts=4, route="middle"), "no such route", 'route="routed"'),
    "every": ("llama", dict(experts=4, every=2), "experts in every layer", "every=1"),
    "never": ("qwen2", dict(experts=4, every=3), "no layer of 2", "every=2"),
    "number": ("llama", dict(experts=4, granularity=-1), "out of range", "granularity=2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_or_would_not_train_is_refused(case, tiny, tmp_path):
    variant, how, what, fix = REFUSED[case]
    with pytest.raises(grow.GrowError) as caught:
        grow.upcycle(tiny(variant), out=tmp_path / "grown", **how)
    assert what in str(caught.value)
    assert fix in str(caught.value)
    assert not (tmp_path / "grown").exists()


def test_a_head_that_the_target_lacks_is_refused(tmp_path):
    config = transformers.Olmo2Config(**LLAMA, pad_token_id=0)
    transformers.Olmo2ForSequenceClassification(config).save_pretrained(tmp_path / "source")
    with pytest.raises(grow.Refused, match="there is no FlexOlmoForSequenceClassification"):
        grow.upcycle(tmp_path / "source", 4)


def test_a_number_of_experts_that_is_no_multiple_is_refused_with_the_nearest(tiny):
    with pytest.raises(grow.Refused) as caught:
        grow.plan(tiny("mixtral"), {"num_local_experts": 6})
    assert "num_local_experts=4 or 8" in str(caught.value)
    assert "Σ p/c" in str(caught.value)


@pytest.mark.parametrize("variant", ["olmo2", "flex_olmo"])
def test_a_norm_over_all_heads_wants_whole_copies(variant, tiny):
    for to in ({"heads": 8}, {"heads": 8, "kv_heads": 4}):
        with pytest.raises(grow.Refused) as caught:
            grow.plan(tiny(variant), to)
        assert "nearest exact targets: num_" in str(caught.value)
    with pytest.raises(grow.Refused, match="heads grow by copies"):
        grow.plan(tiny(variant), {"heads": 12}, operators={"heads": "unread"})
    # what reads the residual stream makes up for its scale, whatever size hidden has
    assert grow.plan(tiny(variant), {"hidden": 20}).operators["hidden"].startswith("2 silent")


def test_widen_to_a_folder_with_experts_names_upcycle(tiny):
    with pytest.raises(grow.Refused) as caught:
        grow.plan(tiny("llama"), str(tiny("mixtral")))
    assert 'grow.upcycle(…, experts=4, to="' in str(caught.value)
    plan = grow.plan(tiny("mixtral"), str(tiny("mixtral") / "config.json"))
    assert plan.new_sizes == plan.sizes


# The command line


def test_the_command_upcycles_and_verifies(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "grown"
    arguments = ["upcycle", "--from", tiny("qwen2"), "--experts", 4, "--every", 2, "--to", "layers=3", "--out", out]
    code, _, err = command(monkeypatch, capsys, *arguments, "--dry-run")
    assert code == 0, err
    assert not out.exists()
    code, text, err = command(monkeypatch, capsys, *arguments, "--json")
    assert code == 0, err
    document = json.loads(text)
    assert document["plan"]["axes"]["experts"] == {"old": 1, "new": 4, "how": "copies × 4"}
    assert document["verification"]["verdict"] == "lossless"
    code, _, _ = command(monkeypatch, capsys, "verify", tiny("qwen2"), out, "--rung", "certificate")
    assert code == 0
    code, _, err = command(monkeypatch, capsys, "upcycle", "--from", tiny("gpt2"), "--experts", 4, "--out", out)
    assert code == 2
    assert "a source of llama" in err


def test_the_cost_counts_the_experts_that_a_token_uses(tiny):
    from grow.costs.of_a_model import cost_of

    with opened(tiny("llama")) as (_, matched):
        plan = plan_for(matched, None, GrowthOptions(upcycling=UpcyclingOptions(8, top_k=2)))
    old, new = cost_of(plan)
    assert old.parameters == sum(t.numel() for t in load_file(tiny("llama") / "model.safetensors").values())
    router = 2 * 2.0 * 8 * LLAMA["hidden_size"]
    assert new.flops["ffn"] == 2 * old.flops["ffn"] + router


def test_the_families_with_experts_name_their_rows():
    for family in FAMILIES.values():
        if (facts := family.experts) is not None:
            rows = {row.name for row in family.rows}
            assert {facts.router, *facts.parts, *facts.shared} <= rows
            assert facts.width in family.axes


# Methods of the literature that make experts


def redrawn_units(source: Path, grown: Path, expert: int, slices: int) -> dict[str, np.ndarray]:
    """Per matrix of one expert of layer 1: which of its units are not those of its slice of the old FFN."""
    old, new = tiny.read_tensors(source), tiny.read_tensors(grown)
    dense, moe = "model.layers.1.mlp.{}_proj.weight", "model.layers.1.block_sparse_moe.experts.{}.{}.weight"
    found = {}
    for name, stored in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        mine, w = new[moe.format(expert, stored)].raw, old[dense.format(name)].raw
        mine, w = (mine.T, w.T * slices) if name == "down" else (mine, w)
        part = w[expert % slices * len(mine) :][: len(mine)]
        assert part.std() / 1.3 < mine.std() < part.std() * 1.3
        changed = mine != part
        assert np.array_equal(changed.any(1), changed.all(1))
        found[name] = changed.any(1)
    return found


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("method", ["drop-upcycling", "random-expert"])
def test_lossy_methods_draw_what_their_papers_draw(tmp_path, method, slices):
    source = save("llama-mha", tmp_path / "source")
    with pytest.raises(grow.Refused, match="allow_lossy=True"):
        grow.upcycle(source, 4, granularity=slices, method=method, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    grown = grow.upcycle(source, 4, granularity=slices, method=method, allow_lossy=True, out=tmp_path / "grown")
    assert grown.status == "lossy"
    assert grown.damage["max_abs_std"] > 0.1
    masks = [redrawn_units(source, grown.path, e, slices) for e in range(4)]
    for mask in masks:  # gate, up and down lose the same units
        assert np.array_equal(mask["gate"], mask["up"])
        assert np.array_equal(mask["gate"], mask["down"])
    shares = [float(mask["gate"].mean()) for mask in masks]
    if method == "drop-upcycling":
        assert shares == [0.5] * 4
        assert len({mask["gate"].tobytes() for mask in masks}) == 4
    else:
        assert shares == [0.0] * slices + [1.0] * (4 - slices)
    found = grow.verify(source, grown.path)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert any(method in note for note in found.notes)


def test_granite_experts_are_redrawn_in_their_stacks(tmp_path):
    source = save("granite", tmp_path / "source")
    grown = grow.upcycle(source, 4, method="drop-upcycling", allow_lossy=True, out=tmp_path / "grown")
    old, new = tiny.read_tensors(source), tiny.read_tensors(grown.path)
    stack = new["model.layers.0.block_sparse_moe.input_linear.weight"].raw
    down = new["model.layers.0.block_sparse_moe.output_linear.weight"].raw
    units = stack.shape[1] // 2
    gate, up, out = (old[f"model.layers.0.mlp.{n}_proj.weight"].raw for n in ("gate", "up", "down"))
    for e in range(4):
        changed = (stack[e, :units] != gate).any(1)
        assert changed.sum() == units // 2
        assert np.array_equal(changed, (stack[e, units:] != up).any(1))
        assert np.array_equal(changed, (down[e] != out).any(0))


def test_upcycle_by_name_is_ours_and_wants_a_dense_source(tmp_path):
    source = save("llama-mha", tmp_path / "source")
    named, ours = (
        grow.upcycle(source, 4, method=method, out=tmp_path / method, verify=False).path
        for method in ("upcycle", "default")
    )
    assert (named / tiny.WEIGHTS).read_bytes() == (ours / tiny.WEIGHTS).read_bytes()
    for method in ("upcycle", "drop-upcycling"):
        with pytest.raises(grow.Refused, match="makes experts of a dense model"):
            grow.widen(source, "2x", method=method, allow_lossy=True, out=tmp_path / "x")


def test_a_record_with_a_senseless_redraw_is_refused(tmp_path):
    source = save("llama-mha", tmp_path / "source")
    grown = grow.upcycle(
        source, 4, method="drop-upcycling", allow_lossy=True, out=tmp_path / "grown", verify=False
    ).path
    for damage in ({"share": 2.0, "first": True}, {"share": 0.5}, {"share": 0.5, "first": 1}, "half"):
        tiny.edit_json(grown / "grow.json", lambda r, damage=damage: r["plan"].update(redraw=damage))
        with pytest.raises(grow.BadInput, match="not a record of a growth"):
            grow.verify(source, grown)
