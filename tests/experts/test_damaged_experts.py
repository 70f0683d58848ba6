"""Experts: damage is found and named, twins and dead experts are seen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from expert_models import EXACT, apart
from models import make
from safetensors.torch import load_file, save_file
from tiny import edit_json

import grow
from grow.growth.opened import opened
from grow.planning.expert_slices import uncovered
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.planning.plan import plan_for
from grow.planning.record import read_record

# Verification


def damaged(folder, name: str, at: tuple[int, ...]) -> None:
    file = folder / "model.safetensors"
    stored = load_file(file)
    stored[name][at] += 1
    save_file(stored, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("variant", "how", "name", "at"),
    [
        ("llama", {}, "model.layers.1.block_sparse_moe.experts.2.w2.weight", (3, 5)),
        ("llama", {"granularity": 2}, "model.layers.0.block_sparse_moe.experts.1.w3.weight", (13, 0)),
        ("qwen2", {"route": "shared"}, "model.layers.1.mlp.shared_expert.down_proj.weight", (0, 27)),
        ("qwen2", {}, "model.layers.1.mlp.shared_expert.down_proj.weight", (0, 27)),
        ("granite", {"granularity": 2}, "model.layers.1.block_sparse_moe.input_linear.weight", (3, 20, 1)),
        ("mixtral", None, "model.layers.1.block_sparse_moe.experts.6.w2.weight", (3, 5)),
        ("mixtral", None, "model.layers.0.block_sparse_moe.gate.weight", (5, 2)),
        ("granitemoe", None, "model.layers.0.block_sparse_moe.output_linear.weight", (7, 2, 3)),
    ],
)
def test_a_damaged_expert_is_found_and_named(variant, how, name, at, tiny, tmp_path):
    out = tmp_path / "grown"
    if how is None:
        grow.widen(tiny(variant), {"experts": 8}, out=out, verify=False)
    else:
        grow.upcycle(tiny(variant), 4, out=out, verify=False, **how)
    assert grow.verify(tiny(variant), out, rungs=["certificate"]).verdict == "certified"
    damaged(out, name, at)
    certificate = grow.verify(tiny(variant), out, rungs=["certificate"])
    assert certificate.verdict == "different"
    assert certificate.first["tensor"] == name
    if "granite" not in variant:
        assert tuple(certificate.first["index"]) == at
    running = grow.verify(tiny(variant), out, rungs=["true_float64"])
    assert running.verdict == "different"
    assert running.first["tensor"] == name


def test_router_rows_of_one_group_that_differ_are_a_fault(tiny, tmp_path):
    grow.upcycle(tiny("llama"), 4, granularity=2, out=tmp_path / "grown", verify=False)
    damaged(tmp_path / "grown", "model.layers.0.block_sparse_moe.gate.weight", (1, 2))
    found = grow.verify(tiny("llama"), tmp_path / "grown", rungs=["certificate"])
    assert found.verdict == "different"
    assert "one row in the router" in found.checks[0].reason


def test_slices_that_leave_units_out_or_take_them_twice_are_a_fault(tiny):
    with opened(tiny("llama")) as (checkpoint, matched):
        plan = plan_for(matched, None, GrowthOptions(upcycling=UpcyclingOptions(4, granularity=2)))
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    assert not list(uncovered(plan.tensors, shapes))
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    other = {t.name: dataclasses.replace(t, old=dataclasses.replace(t.old, corner=(0, 0))) for t in plan.tensors}
    shifted = [other[name] if t.name == name else t for t in plan.tensors]
    assert len(list(uncovered(shifted, shapes))) == 1
    assert len(list(uncovered([t for t in plan.tensors if t.name != name], shapes))) == 1


@pytest.mark.parametrize("how", [{}, {"granularity": 2, "to": "layers=3"}, {"to": "hidden=36"}])
@pytest.mark.parametrize("variant", ["llama", "granite", "qwen3"])
def test_every_new_expert_learns_and_every_rung_passes(variant, how, tiny, tmp_path):
    grown = grow.upcycle(tiny(variant), 4, out=tmp_path / "grown", **how)
    assert grown.verification.verdict == "lossless"
    found = grow.verify(tiny(variant), tmp_path / "grown", rungs=["trainability"]).checks[0]
    assert found.status == "pass", found.reason
    assert found.measured["new"] > 0


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe-plain", "granitemoe"])
def test_more_experts_learn_and_every_rung_passes(variant, tiny, tmp_path):
    grown = grow.widen(tiny(variant), {"experts": 8, "layers": 4, "ffn": 33}, out=tmp_path / "grown")
    assert grown.verification.verdict == "lossless"
    found = grow.verify(tiny(variant), tmp_path / "grown", rungs=["trainability", "recover"])
    assert [c.status for c in found.checks] == ["pass", "pass"], [c.reason for c in found.checks]


def test_twins_among_experts_are_seen(tiny, tmp_path):
    """Copies that are equal down to the last bit compute the same, always are chosen together and never part."""
    for variant, stacked in (("mixtral", False), ("granitemoe", True)):
        out = tmp_path / variant
        grow.widen(tiny(variant), {"experts": 8}, out=out, verify=False)
        old, new = (load_file(folder / "model.safetensors") for folder in (tiny(variant), out))
        down = [name for name in new if "w2" in name or "output_linear" in name]
        for name in down:
            if stacked:
                new[name] = old[name].repeat(2, 1, 1)
            else:
                e = int(name.split(".")[5])
                new[name] = old[name.replace(f"experts.{e}.", f"experts.{e % 4}.")].clone()
        save_file(new, out / "model.safetensors", metadata={"format": "pt"})
        assert apart(tiny(variant), out) <= EXACT
        found = grow.verify(tiny(variant), out, rungs=["trainability"]).checks[0]
        assert found.status == "fail"
        assert found.measured["twins"] > 0
        assert found.measured["dead"] == 0


def test_a_dead_expert_is_seen(tiny, tmp_path):
    """Two zero factors in a fresh unit of an expert: it never learns."""
    grow.upcycle(tiny("llama"), 3, top_k=3, out=tmp_path / "grown", to={"ffn": 32}, verify=False)
    new = load_file(tmp_path / "grown" / "model.safetensors")
    for part in ("w1", "w3"):
        new[f"model.layers.0.block_sparse_moe.experts.1.{part}.weight"][28:] = 0
    save_file(new, tmp_path / "grown" / "model.safetensors", metadata={"format": "pt"})
    found = grow.verify(tiny("llama"), tmp_path / "grown", rungs=["trainability"]).checks[0]
    assert found.status == "fail"
    assert "experts.1.w" in found.reason


def test_a_record_that_says_something_else_is_no_record(tiny, tmp_path):
    grow.upcycle(tiny("llama"), 4, out=tmp_path / "grown", verify=False)
    assert read_record(tmp_path / "grown").change.upcycling.target == "mixtral"
    path = tmp_path / "grown" / "grow.json"
    edit_json(path, lambda d: d["plan"]["upcycling"].update(granularity=0))
    with pytest.raises(grow.BadInput, match="upcycling"):
        read_record(tmp_path / "grown")
    edit_json(path, lambda d: d["plan"]["upcycling"].update(granularity=1, target="qwen2_moe"))
    with pytest.raises(grow.BadInput, match="not a known pair"):
        grow.verify(tiny("llama"), tmp_path / "grown", rungs=["certificate"])


# In memory


@pytest.mark.parametrize("variant", ["llama", "mixtral", "granitemoe"])
def test_a_model_in_memory(variant, tmp_path):
    model = make(variant).double()
    if variant == "llama":
        grown = grow.upcycle(model, 4, verify=False).model
        assert type(grown).__name__ == "MixtralForCausalLM"
    else:
        assert grow.plan(model, {"experts": 8}).new_sizes["experts"] == 8
        grown = grow.widen(model, {"experts": 8}, verify=False).model
        assert type(grown) is type(model)
    assert grown.dtype == torch.float64
    model.save_pretrained(tmp_path / "source")
    grown.save_pretrained(tmp_path / "grown")
    assert apart(tmp_path / "source", tmp_path / "grown") <= EXACT
