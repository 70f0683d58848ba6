"""What an inserted layer holds, the fields that go by layer, and the depths that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import models
import pytest
import tiny
import torch
from deeper import EXACT, FILLS, N, deepen, somewhere
from models import LONG, difference, make, outputs
from safetensors.torch import load_file, save_file

import grow
from grow.errors import BadInput, GrowError, Refused
from grow.notation.maps import is_power_of_two
from grow.verification.rungs import LADDER
from grow.verification.verdict import Verification

# What an inserted layer holds


ZEROS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "mistral": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "llama-biases": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "opt-post": ("self_attn.out_proj", "fc2"),
    "bert-mlm": ("attention.output.dense", ".output.dense"),
    "roberta-mlm": ("attention.output.dense", ".output.dense"),
    "distilbert-mlm": ("attention.out_lin", "ffn.lin2"),
}
CHAINED = {
    "bert-mlm": ("LayerNorm", "intermediate.dense.bias"),
    "roberta-mlm": ("LayerNorm", "intermediate.dense.bias"),
    "distilbert-mlm": ("layer_norm", "lin1.bias"),
    "opt-post": ("layer_norm", "fc1.bias"),
}
"""What the chain sets, beside the zeros."""


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("variant", ZEROS)
def test_exactly_one_factor_of_each_branch_is_zero_and_the_rest_is_its_sources_or_drawn(variant, fill, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", fill=fill, place="top")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (deep(variant), tmp_path / "grown"))
    inserted = [t for t in grown.plan.tensors if t.inserted]
    zero = {t.name for t in inserted if not new[t.name].any()}
    matrices = {name for name in zero if new[name].ndim == 2}
    assert all(name.removesuffix(".weight").endswith(ZEROS[variant]) for name in matrices)
    assert len(matrices) == 2 * N  # of each of the two branches in each of the N new layers
    if fill == "copy":
        assert all(name.rpartition(".")[0].endswith(ZEROS[variant]) for name in zero if "orm" not in name)
    for t in inserted:
        if t.name in zero or any(part in t.name for part in CHAINED.get(variant, ())):
            continue
        same = torch.equal(new[t.name], old[t.source])
        assert same == (fill == "copy" or "norm" in t.name.lower() or "ln_" in t.name), t.name
        if not same:
            scale = float(new[t.name].square().mean() / old[t.source].square().mean())
            assert 0.5 < scale < 2, t.name
    for a, b in zip(inserted, inserted[len(inserted) // N :]):
        if new[a.name].ndim == 2 and a.name not in zero:
            assert not torch.equal(new[a.name], new[b.name])  # the next new layer starts elsewhere


@pytest.mark.parametrize("fill", FILLS)
def test_a_seed_gives_the_same_bytes_and_another_one_other_draws_only(fill, deep, tmp_path):
    for folder, seed in (("one", 5), ("two", 5), ("other", 6)):
        grow.deepen(deep("llama"), 5, out=tmp_path / folder, fill=fill, seed=seed, verify=False)
    one, two, other = ((tmp_path / folder / tiny.WEIGHTS).read_bytes() for folder in ("one", "two", "other"))
    assert one == two
    assert (one == other) == (fill == "copy")


LEARNS = [*LONG, "opt-post", "gpt2-inverse", "llama-biases"]


def all_learns(found: Verification, grown: grow.Growth) -> None:
    check = found.check("trainability")
    assert (check.status, check.measured["dead"], check.measured["twins"]) == ("pass", 0, 0), check.reason
    old, new = grown.plan.parameters
    buffers = (t for t in grown.plan.tensors if t.inserted and t.name.endswith("e_score_correction_bias"))
    assert check.measured["new"] == new - old - sum(t.new_shape[0] for t in buffers)  # which no optimizer sees
    assert (found.verdict, found.trainable, found.exit_code) == ("certified", True, 0)


@pytest.mark.parametrize("variant", LEARNS)
def test_all_that_is_drawn_learns(variant, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", fill="fresh", place="0,1,1")
    found = grow.verify(deep(variant), tmp_path / "grown", rungs=["certificate", "trainability"])
    all_learns(found, grown)


def test_a_second_zero_factor_in_a_new_layer_is_dead(deep, tmp_path):
    deepen(deep("llama"), N + 1, tmp_path / "grown", place="top")
    tiny.edit_tensor(tmp_path / "grown", f"model.layers.{N}.mlp.up_proj.weight", lambda raw: raw.fill(0))
    check = grow.verify(deep("llama"), tmp_path / "grown", rungs=["trainability"]).check("trainability")
    sizes = make("llama").config
    assert check.status == "fail"
    assert check.measured["dead"] == 3 * sizes.hidden_size * sizes.intermediate_size + sizes.hidden_size  # and the norm


@pytest.mark.parametrize("variant", [*LEARNS, "qwen2-window", "bert-sequence"])
def test_verify_calls_copies_lossless_on_every_rung_and_all_of_them_learns(variant, deep, tmp_path):
    out = tmp_path / "grown"
    grown = grow.deepen(deep(variant, "float64"), 2 * N, out=out, place=somewhere(variant, "list", 2 * N))
    # the growth ran all other rungs
    found = grow.verify(deep(variant, "float64"), out, rungs=["certificate", "trainability"])
    assert {*grown.verification.rungs, *found.rungs} == set(LADDER)
    assert (grown.verification.verdict, grown.verification.exit_code) == ("lossless", 0)
    all_learns(found, grown)
    states = grown.verification.check("hidden_states")
    assert states.status == "pass"
    assert len(states.measured["layers"]) == (N + 1) * len(grown.plan.change.depths)


# Per-layer fields


def kinds(folder: Path) -> list[str]:
    """What stock transformers makes of a config."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).layer_types


@pytest.mark.parametrize("listed", [True, False], ids=["layer_types", "max_window_layers"])
@pytest.mark.parametrize("where", ["spread", "top", "after:0", "0,0,1,2"])
def test_every_old_layer_keeps_its_window(where, listed, deep, expected, tmp_path):
    source = Path(shutil.copytree(deep("qwen2-window"), tmp_path / "source"))
    if not listed:
        tiny.edit_json(source / "config.json", lambda config: config.pop("layer_types"))
    assert kinds(source) == ["full_attention", "sliding_attention", "sliding_attention"]
    depth = deepen(source, N + 4, tmp_path / "grown", place=where).plan.change.depth
    assert kinds(tmp_path / "grown") == [kinds(source)[i] for i in depth.source]
    assert difference(expected("qwen2-window"), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("where", ["after:0", "0,0,1,2"])
def test_without_the_rewritten_list_the_windows_would_move(where, tmp_path):
    """The control: `max_window_layers` counts from the bottom, so an inserted layer shifts who has a window."""
    source = models.save("qwen2-window", tmp_path / "source", num_hidden_layers=N, max_window_layers=2)
    grown = deepen(source, N + 4, tmp_path / "grown", place=where).path
    assert difference(outputs(source), outputs(grown)) <= EXACT

    def forget(config: dict[str, Any]) -> None:
        config.pop("layer_types")
        config["max_window_layers"] = 2

    tiny.edit_json(grown / "config.json", forget)
    assert difference(outputs(source), outputs(grown)) > 1e-3


def test_max_window_layers_says_what_the_list_says_where_it_can(deep, tmp_path):
    source = Path(shutil.copytree(deep("qwen2-window"), tmp_path / "source"))
    tiny.edit_json(source / "config.json", lambda config: config.pop("layer_types"))
    # the last two are no longer sorted, and no number says what the list does: as many as came from below the boundary
    for where, full, first in (("after:0", 2, 2), ("spread", 2, 2), ("top", 2, 2)):
        config = grow.plan(source, {"layers": 2 * N}, place=where).new_config
        assert (config["layer_types"].count("full_attention"), config["max_window_layers"]) == (full, first), where


@pytest.mark.parametrize("variant", ["qwen3", "qwen2"])
def test_the_list_of_layer_types_has_the_new_length(variant, deep, tmp_path):
    grown = deepen(deep(variant), 5, tmp_path / "grown").path
    assert kinds(grown) == ["full_attention"] * 5


def test_scores_that_are_divided_by_the_layers_number_are_multiplied_back(deep, expected, tmp_path):
    grown = deepen(deep("gpt2-inverse"), N + 1, tmp_path / "grown", place="after:0", dtype="float64")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (deep("gpt2-inverse"), grown.path))
    width = old["transformer.h.1.ln_1.weight"].shape[0]
    for kind in ("weight", "bias"):
        before, after = old[f"transformer.h.1.attn.c_attn.{kind}"], new[f"transformer.h.2.attn.c_attn.{kind}"]
        torch.testing.assert_close(after[..., :width], before[..., :width].double() * 3 / 2, rtol=1e-15, atol=0)
        assert torch.equal(after[..., width:], before[..., width:].double())
        new[f"transformer.h.2.attn.c_attn.{kind}"] = before.double()
    save_file(new, grown.path / tiny.WEIGHTS, metadata={"format": "pt"})
    assert difference(expected("gpt2-inverse"), outputs(grown.path)) > 1e-3  # the control


def test_layers_that_move_by_powers_of_two_round_nothing(deep):
    plan = grow.plan(deep("gpt2-inverse"), {"layers": N + 1}, place="top")
    assert plan.storage == "rounded"  # the new layer N holds layer N - 1: times (N + 1) / N
    assert not is_power_of_two((N + 1) / N)
    moved = [t for t in plan.tensors if not t.inserted and t.name != t.source]
    assert moved == []


# Refusals, and what is written


@pytest.mark.parametrize("layers", [0, -1, 1, N - 1, 999_999_999, 10_001])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_depths_that_cannot_be(family, layers, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", family, num_hidden_layers=N)
    before = tiny.snapshot(tmp_path)
    with pytest.raises(GrowError) as caught:
        grow.deepen(source, layers, out=tmp_path / "grown")
    assert type(caught.value) is (Refused if 0 < layers < N else BadInput)
    assert all((caught.value.where, caught.value.what, caught.value.why, caught.value.fix))
    assert tiny.snapshot(tmp_path) == before


def test_a_post_norm_without_gains_is_refused_and_one_in_front_is_not(tmp_path):
    bare = {"layer_norm_elementwise_affine": False}
    post = tiny.checkpoint(tmp_path / "post", "opt", do_layer_norm_before=False, **bare)
    with pytest.raises(Refused, match="LN\\(x\\) is x for no x"):
        deepen(post, 3, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
    assert grow.plan(post, {"layers": 2, "ffn": 30}).new_sizes["ffn"] == 30
    assert grow.plan(tiny.checkpoint(tmp_path / "pre", "opt", **bare), {"layers": 3}).storage == "bit-exact"


def test_the_depth_it_has_changes_nothing(deep):
    plan = grow.plan(deep("bert-mlm"), {"layers": N})
    assert plan.storage == "bit-exact"
    assert all(t.unchanged for t in plan.tensors)
    assert plan.config_changes == {}


def test_the_command_writes_verifies_and_says_so(deep, tmp_path, monkeypatch, capsys):
    line = ["deepen", "--from", deep("llama"), "--layers", 5, "--place", "0,2", "--fill", "fresh"]
    code, out, err = tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "grown", "--max-shard-size", "20KB")
    assert (code, err) == (0, "")
    assert "2 inserted (drawn, output 0) at 1, 4" in out
    assert "lossless: " in out
    assert len(list((tmp_path / "grown").glob("*.safetensors"))) > 2
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5
    record = tiny.read_json(tmp_path / "grown" / "grow.json")["plan"]
    assert record["depth"] == {"source": [0, 0, 1, 2, 2], "inserted": [1, 4], "fill": "fresh"}
    monkeypatch.chdir(tmp_path)
    assert tiny.command(monkeypatch, capsys, *line, "--no-verify")[0] == 0
    assert (tmp_path / "llama-layers=5").is_dir()


@pytest.mark.parametrize("variant", ["llama", "bert-mlm"])
def test_a_golden_file_of_the_source_accepts_it_and_no_damaged_one(variant, deep, tmp_path):
    grown = deepen(deep(variant, "float64"), 5, tmp_path / "grown").path
    grow.record(deep(variant, "float64"), tmp_path / "golden.safetensors")
    found = grow.verify_against(tmp_path / "golden.safetensors", grown)
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c for c in found.checks if c.status == "fail"]
    name = next(t for t in tiny.read_tensors(grown) if "layers.2.mlp.down" in t or "layer.2.output.dense.weight" in t)
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__((3, 3), 0.5))
    assert grow.verify_against(tmp_path / "golden.safetensors", grown).verdict == "different"
