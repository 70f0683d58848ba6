"""Experts that stock classes fuse in memory: runs of models that have some, and how their states grow.

What a fused parameter is in the files is taken from `save_pretrained`, tensor by tensor, and never from
`grow.applying.fused`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from fused_states import KEYS, by_file, trainer
from grown_states import COPIES, EVEN, EXACT, STILL, going, short, values, widen
from safetensors.torch import load_file
from training import QUICK, apart, curve, same, tokens, trained, weights
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

import grow
from grow.applying.fused import layout
from grow.errors import Refused
from grow.integrations.trainer_state import load_trainer_state
from grow.notation.origins import Stack
from grow.optimizer.dual_rule import rates_of
from grow.optimizer.state.parameter_names import bare_model
from grow.optimizer.state.stored_state import POWERS
from grow.optimizer.torch_classes import COL, ROW
from grow.training.after_growth import rates as rates_module
from grow.training.after_growth.new_entries import parts_of
from grow.training.after_growth.rates import mup_scales, rated

SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe")
LARGER = {v: {"hidden": 72 if v == "qwen2_moe" else 54, "layers": 4} for v in SPARSE}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens", 1500)


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> Path:
    """Four steps of a tiny Mixtral."""
    return grow.train(tiny("mixtral"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK).path


@pytest.fixture(scope="module")
def grown(run, tmp_path_factory) -> grow.Growth:
    return widen(run / "step-00000004", tmp_path_factory.mktemp("grown") / "grown", to=LARGER["mixtral"])


# What a fused parameter is


@pytest.mark.parametrize("variant", [*SPARSE, "granitemoe-tied", "mixtral-base", "qwen2_moe-base", "llama-tied"])
def test_rows_are_those_that_stock_saving_writes(variant, tmp_path):
    model = models.make(variant)
    model.save_pretrained(tmp_path)
    stored, named = load_file(tmp_path / "model.safetensors"), dict(model.named_parameters())
    seen = []
    for name, slabs in layout(model).items():
        flat = named[name].reshape(-1, named[name].shape[-1]) if named[name].ndim > 2 else named[name]
        for slab in slabs:
            rows = int(np.prod(slab.shape[:-1])) if named[name].ndim > 2 else slab.shape[0]
            assert torch.equal(flat[slab.first : slab.first + rows].reshape(slab.shape), stored[slab.name]), slab.name
            seen.append(slab.name)
    assert sorted(seen) == sorted(stored)


@pytest.mark.parametrize("change", ["turned", "interleaved", "lost"])
def test_another_way_of_fusing_is_refused(monkeypatch, change):
    import grow.applying.fused

    stock = grow.applying.fused.in_files

    def other(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = stock(model, tensors)
        some = [name for name, value in found.items() if value.ndim == 2 and "w1" in name]
        for name in some:
            if change == "turned":
                found[name] = found[name].T
            elif change == "interleaved":
                found[name] = found[name][torch.arange(len(found[name]) - 1, -1, -1)]
            else:
                del found[name]
        return found

    monkeypatch.setattr(grow.applying.fused, "in_files", other)
    with pytest.raises(Refused, match="fused of tensors of the files in a way that is not known"):
        layout(models.make("mixtral"))


# Runs


@pytest.mark.parametrize("variant", ["mixtral", "granitemoe"])
def test_checkpoints_of_a_run_are_stock_and_it_resumes(variant, text, tmp_path):
    source = models.save(variant, tmp_path / "source", "bfloat16")
    done = grow.train(source, text, out=tmp_path / "run", **QUICK)
    before, after = load_file(source / "model.safetensors"), weights(done.path)
    assert {n: (v.shape, v.dtype) for n, v in after.items()} == {n: (v.shape, v.dtype) for n, v in before.items()}
    exact, model = values(done.checkpoint), bare_model(source)
    own = {n: exact[f"model.{n}"] for n, _ in model.named_parameters()}
    trained = revert_weight_conversion(model, own)
    assert all(torch.equal(trained[name].bfloat16(), value) for name, value in after.items())
    cut = shutil.copytree(done.path, tmp_path / "cut")
    shutil.rmtree(cut / "step-00000004")
    grow.train(out=cut, resume=True)
    assert curve(cut) == curve(done.path)
    assert same(weights(cut), after)


def test_a_run_that_begins_from_a_step_goes_on_as_the_run_did(run, text, tmp_path):
    grow.train(run / "step-00000002", text, out=tmp_path / "on", continue_schedule=True, **short())
    assert going(tmp_path / "on") == [line for line in going(run) if line["step"] > 2]
    assert same(weights(tmp_path / "on"), weights(run))


# States


@pytest.mark.parametrize(
    ("variant", "policy"),
    [*((variant, "fresh-new") for variant in SPARSE), ("mixtral", "carry"), ("granitemoe", "carry")],
)
def test_moments_of_every_expert_grow_by_the_rule(stepped, tmp_path, variant, policy):
    """Tensor by tensor of the files, entry by entry from `grow.rates` and the plan's maps."""
    source = stepped(variant)
    growth = widen(source, tmp_path / "grown", to=LARGER[variant], state=policy, **COPIES)
    assert growth.notes[-1] == f"the training state came along ({policy}): AdamW after step 1"
    old, new = values(source), values(growth.path)
    before, after = bare_model(source), bare_model(growth.path)
    plans, fresh = grow.rates(growth.plan), grow.new_entries(growth.plan)
    stored = load_file(growth.path / "model.safetensors")
    for key in KEYS:
        one, two = by_file(before, old, key), by_file(after, new, key)
        assert set(two) == {t.name for t in growth.plan.tensors} == set(stored)
        for t in growth.plan.tensors:
            places = [np.arange(n) if m is None else np.maximum(m.source, 0) for m, n in zip(t.maps, t.new_shape)]
            wanted = one[t.source][np.ix_(*places)] * plans[t.name].gradient ** POWERS[key]
            wanted = torch.where(fresh[t.name], 0, wanted) if policy == "fresh-new" else wanted
            torch.testing.assert_close(two[t.name], wanted, rtol=1e-15, atol=0, msg=t.name)
    exact = revert_weight_conversion(after, {n: new[f"model.{n}"] for n, _ in after.named_parameters()})
    assert all(torch.equal(exact[name], value) for name, value in stored.items())
    steps = {name: value for name, value in new.items() if name.endswith(".step")}
    assert len(steps) == len(list(after.parameters()))
    assert {float(step) for step in steps.values()} == {1.0}


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe", "granitemoe"])
def test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, variant):
    """The gradient of the grown model is the rule's, expert by expert."""
    first = widen(stepped(variant), tmp_path / "then", to=LARGER[variant], state="carry", **COPIES)
    before = widen(still(variant), tmp_path / "before", to=LARGER[variant], **COPIES)
    after = grow.train(before.path, text, out=tmp_path / "run", **STILL).checkpoint
    alike(values(first.path), values(after), first)


def alike(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], growth: grow.Growth) -> None:
    model, rates, experts = bare_model(growth.path), grow.rates(growth.plan), 0
    for key in KEYS:
        a, b = by_file(model, one, key), by_file(model, two, key)
        for name in a:
            where = rates[name].value != 0
            if where.any() and b[name][where].abs().max() > 1e-24:
                distance = (a[name] - b[name])[where].abs().max() / b[name][where].abs().max()
                assert distance < EXACT, f"{name}.{key}"
                experts += "expert" in name or "linear" in name
    assert experts > (7 if model.config.model_type == "granitemoe" else 12)


def test_the_comparison_notices_halves_that_change_places(still, text, stepped, tmp_path, monkeypatch):
    import grow.optimizer.state.grown_entries as entries

    stock = entries.places

    def swapped(model: Any) -> dict[str, tuple[str, int]]:
        found = stock(model)
        return {name: found[name.replace("w1", "w?").replace("w3", "w1").replace("w?", "w3")] for name in found}

    monkeypatch.setattr(entries, "places", swapped)
    with pytest.raises(AssertionError, match=r"w[13].weight.exp_avg"):
        test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, "mixtral")


def test_training_commutes_with_growing_at_the_implied_rates(still, text, tmp_path):
    """Losses, norms and weights over four clipped steps in float64: the order of sums."""
    variant, to, even = "mixtral", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 61}, {**COPIES, "verify": False}
    options = {**QUICK, "dtype": "float64", "eval_every": 1, "lr": 3e-3}
    growth = grow.widen(still(variant), to, out=tmp_path / "grown", **even)
    first = grow.train(still(variant), text, out=tmp_path / "first", **options)
    second = grow.train(growth.path, text, out=tmp_path / "second", rates="implied", **options)
    lines = [
        [x[k] for x in curve(r.path) for k in ("loss", "val_loss", "grad_norm") if k in x] for r in (first, second)
    ]
    assert lines[1] == pytest.approx(lines[0], rel=1e-11)
    later = grow.widen(first.checkpoint, to, out=tmp_path / "later", state="drop", **even)
    wanted, found = load_file(later.path / "model.safetensors"), weights(second.path)
    for name in wanted:
        assert (wanted[name] - found[name]).abs().max() <= 1e-9 * max(1.0, wanted[name].abs().max()), name
    plain = grow.train(growth.path, text, out=tmp_path / "plain", rewarm=None, **options)
    assert curve(plain.path)[-1]["loss"] != pytest.approx(curve(first.path)[-1]["loss"], rel=1e-4)


def test_rates_of_a_stack_are_those_of_its_matrices(tiny, tmp_path, monkeypatch):
    """Of the experts that a process holds, too; and what a row of an expert is summed over says μP's share."""
    growth = widen(tiny("mixtral"), tmp_path / "grown", to={"hidden": 36, "ffn": 42}, **COPIES)
    model = AutoModelForCausalLM.from_pretrained(growth.path).double()
    stacks = [(p, t) for _, p, t in parts_of(model, growth.plan.tensors) if isinstance(t.origin, Stack)]
    assert len(stacks) == 4
    for p, t in stacks:
        wanted = rates_of(t)
        assert ((wanted.value != 0) & (wanted.gradient != 0)).all()
        for found, want in zip(rated(t, p)(p.data), wanted):
            torch.testing.assert_close(found, want, rtol=1e-15, atol=0)
        with monkeypatch.context() as patch:
            patch.setattr(rates_module, "rows_of", lambda p: (1, 3))
            patch.setattr(rates_module, "local", lambda p: p.data[1:3])
            for found, want in zip(rated(t, p)(p.data[1:3]), wanted):
                torch.testing.assert_close(found, want[1:3], rtol=1e-15, atol=0)
    scales = mup_scales(model, growth.plan.tensors)
    assert scales["model.layers.1.mlp.experts.gate_up_proj"] == 18 / 36
    assert scales["model.layers.1.mlp.experts.down_proj"] == 28 / 42


def test_the_first_update_of_experts_is_the_one_computed_by_hand(stepped, text, tmp_path):
    growth = widen(stepped("mixtral"), tmp_path / "grown", to={"hidden": 36}, state="carry")
    rate, decay, eps, (b1, b2) = 1e-3, 0.1, 1e-8, (0.9, 0.95)
    options = {**STILL, "lr": rate, "weight_decay": decay, "rewarm": None}
    done = grow.train(growth.path, text, out=tmp_path / "run", **options)
    old, new = values(growth.path), values(done.checkpoint)
    names = [n.removeprefix("model.") for n in old if n.startswith("model.") and "experts" in n]
    assert len(names) == 4
    for name in names:
        m0, v0, m1, v1 = (some[f"optim.{name}.{key}"] for some in (old, new) for key in KEYS)
        assert m0.any()
        gradient = (m1 - b1 * m0) / (1 - b1)
        torch.testing.assert_close(v1, b2 * v0 + (1 - b2) * gradient**2, rtol=1e-9, atol=1e-18)
        kept = old[f"model.{name}"] * (1 - rate * decay)
        by_hand = kept - rate * (m1 / (1 - b1**2)) / ((v1 / (1 - b2**2)).sqrt() + eps)
        torch.testing.assert_close(new[f"model.{name}"], by_hand, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("variant", "optimizer"), [("mixtral", "adafactor"), ("granitemoe", "adafactor"), ("mixtral", "muon")]
)
def test_other_optimizers_of_experts_grow_along_and_go_on(tiny, text, tmp_path, optimizer, variant):
    options = {**QUICK, "optimizer": optimizer}
    source = grow.train(tiny(variant), text, out=tmp_path / "run", **options).checkpoint
    growth = widen(source, tmp_path / "grown", to=LARGER[variant], state="carry", **COPIES)
    old, new = values(source), values(growth.path)
    after = bare_model(growth.path)
    stacks = [name for name, p in after.named_parameters() if p.ndim == 3 and ".3." not in name]
    gamma = {n: r.gradient for n, r in grow.rates(growth.plan).items()}
    checked = 0
    for name in stacks:
        if optimizer == "muon":
            assert {key for key in ("exp_avg", "momentum_buffer") if f"optim.{name}.{key}" in new} == {"exp_avg"}
            continue
        estimate = product(new, name)
        layer = name.split(".")[2]
        origin = name.replace(f".{layer}.", f".{growth.plan.change.depth.source[int(layer)]}.", 1)
        if growth.plan.change.depth.inserted[int(layer)]:
            assert not new[f"optim.{name}.{ROW}"].any()
            continue
        files, before = (
            revert_weight_conversion(after, {name: estimate}),
            revert_weight_conversion(bare_model(source), {origin: product(old, origin)}),
        )
        for t in growth.plan.tensors:
            if t.name in files:
                parts = [np.arange(n) if m is None else np.maximum(m.source, 0) for m, n in zip(t.maps, t.new_shape)]
                wanted = before[t.source][np.ix_(*parts)].double() * gamma[t.name] ** 2
                torch.testing.assert_close(files[t.name].double(), wanted, rtol=1e-5, atol=0, msg=t.name)
                checked += 1
    assert checked > (1 if variant == "granitemoe" else 11) or optimizer == "muon"
    assert grow.train(growth.path, text, out=tmp_path / "then", **options).step == 4


def product(found: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Adafactor's estimate, matrix by matrix."""
    row, col = (found[f"optim.{name}.{key}"] for key in (ROW, COL))
    return row @ col / row.mean(dim=-2, keepdim=True)


def test_a_trainers_experts_grow_and_it_goes_on(tiny, tmp_path):
    trainer(tmp_path / "out", tiny("qwen3_moe"))
    source = tmp_path / "out" / "checkpoint-2"
    growth = widen(source, tmp_path / "grown", to=LARGER["qwen3_moe"], state="carry")
    old, new, rates = values(source), values(growth.path), grow.rates(growth.plan)
    for key in KEYS:
        one, two = by_file(bare_model(source), old, key), by_file(bare_model(growth.path), new, key)
        for t in growth.plan.tensors:
            places = [np.arange(n) if m is None else np.maximum(m.source, 0) for m, n in zip(t.maps, t.new_shape)]
            wanted = one[t.source][np.ix_(*places)].double() * rates[t.name].gradient ** POWERS[key]
            torch.testing.assert_close(two[t.name].double(), wanted, rtol=1e-6, atol=0)
    memory = grow.widen(AutoModelForCausalLM.from_pretrained(source), LARGER["qwen3_moe"], verify=False, **EVEN)
    optimizer = load_trainer_state(source, memory.model, memory.plan, state="carry")
    stored = torch.load(growth.path / "optimizer.pt", weights_only=True)["state"]
    loaded = optimizer.state_dict()["state"]
    assert all(torch.equal(loaded[n][key], stored[n][key]) for n in stored for key in KEYS)
    trainer(tmp_path / "on", growth.path, growth.path)
    after = torch.load(tmp_path / "on" / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    assert {int(entries["step"]) for entries in after.values()} == {4}


def test_two_processes_go_on_as_one(grown, text, tmp_path):
    """Each has some of the experts: of their moments, and of what is frozen and re-warmed."""
    options: dict[str, Any] = {**QUICK, "steps": 2, "lr": 1e-3}
    line = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    line += ["--from", grown.path, "--data", text, "--out", tmp_path / "two", "--freeze-old", "--rewarm", "2:9"]
    trained(2, tmp_path, *line)
    grow.train(grown.path, text, out=tmp_path / "one", freeze_old=True, rewarm=(2.0, 9), **options)
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-6
    before, two = load_file(grown.path / "model.safetensors"), weights(tmp_path / "two", 2)
    assert before.keys() == two.keys()
    for name, new in grow.new_entries(grown.plan).items():
        assert torch.equal(before[name][~new], two[name][~new])
