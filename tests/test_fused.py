"""Experts that stock classes fuse in memory: runs, states and new entries of models that have, get or gain experts.

What a fused parameter is in the files is taken from `save_pretrained`, tensor by tensor, and never from `grow.fused`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_state import COPIES, EVEN, EXACT, STILL, going, refused, short, values, widen
from test_train import QUICK, apart, curve, same, tokens, torchrun, weights
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.core_model_loading import revert_weight_conversion

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused
from grow.fused import layout
from grow.integrations import NewEntryUpdates, parameter_groups
from grow.integrations.checkpoint import load_trainer_state
from grow.moments.names import bare_model
from grow.moments.state import POWERS
from grow.optimizer import new_entries_of, rates_of
from grow.optimizers import COL, ROW
from grow.provenance import read_record
from grow.train import grown as grown_module
from grow.train.grown import tensors_of

SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe")
LARGER = {v: {"hidden": 72 if v == "qwen2_moe" else 54, "layers": 4} for v in SPARSE}
KEYS = ("exp_avg", "exp_avg_sq")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens", 1500)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """`still("mixtral")`: a checkpoint in float64."""
    made: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in made:
            made[variant] = models.save(variant, tmp_path_factory.mktemp(variant) / "source", "float64")
        return made[variant]

    return get


@pytest.fixture(scope="module")
def stepped(still, text, tmp_path_factory):
    """`stepped("mixtral")`: the checkpoint behind one step that moved no weight."""
    made: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in made:
            out = tmp_path_factory.mktemp(variant) / "run"
            made[variant] = grow.train(still(variant), text, out=out, **STILL).checkpoint
        return made[variant]

    return get


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> Path:
    """Four steps of a tiny Mixtral."""
    return grow.train(tiny("mixtral"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK).path


@pytest.fixture(scope="module")
def grown(run, tmp_path_factory) -> grow.Growth:
    return widen(run / "step-00000004", tmp_path_factory.mktemp("grown") / "grown", to=LARGER["mixtral"])


def by_file(model: Any, found: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    """Entry `key` of a state's parameters as `save_pretrained` would name and cut them."""
    own = {n: found[f"optim.{n}.{key}"] for n, _ in model.named_parameters() if f"optim.{n}.{key}" in found}
    return dict(revert_weight_conversion(model, own))


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
    import grow.fused

    stock = grow.fused.in_files

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

    monkeypatch.setattr(grow.fused, "in_files", other)
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


@pytest.mark.parametrize("policy", ["fresh-new", "carry"])
@pytest.mark.parametrize("variant", SPARSE)
def test_moments_of_every_expert_grow_by_the_rule(stepped, tmp_path, variant, policy):
    """Tensor by tensor of the files, entry by entry from `grow.rates` and the plan's maps."""
    source = stepped(variant)
    growth = widen(source, tmp_path / "grown", to=LARGER[variant], state=policy, **COPIES)
    assert growth.notes[-1] == f"the training state came along ({policy}): AdamW behind step 1"
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


@pytest.mark.parametrize("variant", SPARSE)
def test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, variant):
    """The gradient of the grown model is the rule's, expert by expert."""
    first = widen(stepped(variant), tmp_path / "then", to=LARGER[variant], state="carry", **COPIES)
    before = widen(still(variant), tmp_path / "before", to=LARGER[variant], **COPIES)
    after = grow.train(before.path, text, out=tmp_path / "run", **STILL).checkpoint
    alike(values(first.path), values(after), first)


def alike(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], growth: grow.Growth, only: Any = None) -> None:
    model, rates, experts = bare_model(growth.path), grow.rates(growth.plan), 0
    for key in KEYS:
        a, b = by_file(model, one, key), by_file(model, two, key)
        for name in a if only is None else only:
            where = rates[name].value != 0
            if where.any() and b[name][where].abs().max() > 1e-24:
                distance = (a[name] - b[name])[where].abs().max() / b[name][where].abs().max()
                assert distance < EXACT, f"{name}.{key}"
                experts += "expert" in name or "linear" in name
    assert experts > 12 or only is not None or "granite" in str(model.config.model_type)


def test_the_comparison_notices_halves_that_change_places(still, text, stepped, tmp_path, monkeypatch):
    import grow.moments.entries as entries

    stock = entries.places

    def swapped(model: Any) -> dict[str, tuple[str, int]]:
        found = stock(model)
        return {name: found[name.replace("w1", "w?").replace("w3", "w1").replace("w?", "w3")] for name in found}

    monkeypatch.setattr(entries, "places", swapped)
    with pytest.raises(AssertionError, match=r"w[13].weight.exp_avg"):
        test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, "mixtral")


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe"])
def test_training_commutes_with_growing_at_the_implied_rates(still, text, tmp_path, variant):
    """Losses, norms and weights over four clipped steps in float64: the order of sums."""
    to = {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn" if variant == "mixtral" else "expert_ffn": 61}
    even = {**COPIES, "operators": {**COPIES["operators"], "expert_ffn": "copies"}, "verify": False}
    even = even if variant != "mixtral" else {**COPIES, "verify": False}
    options = {**QUICK, "dtype": "float64", "eval_every": 1, "lr": 3e-3}
    growth = grow.widen(still(variant), to, out=tmp_path / "grown", **even)
    first = grow.train(still(variant), text, out=tmp_path / "first", **options)
    second = grow.train(growth.path, text, out=tmp_path / "second", rates="implied", **options)
    lines = [[x[k] for x in curve(r.path) for k in ("loss", "val_loss", "grad_norm") if k in x] for r in (first, second)]
    assert lines[1] == pytest.approx(lines[0], rel=1e-11)
    later = grow.widen(first.checkpoint, to, out=tmp_path / "later", state="drop", **even)
    wanted, found = load_file(later.path / "model.safetensors"), weights(second.path)
    for name in wanted:
        assert (wanted[name] - found[name]).abs().max() <= 1e-9 * max(1.0, wanted[name].abs().max()), name
    plain = grow.train(growth.path, text, out=tmp_path / "plain", rewarm=None, **options)
    assert curve(plain.path)[-1]["loss"] != pytest.approx(curve(first.path)[-1]["loss"], rel=1e-4)


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


@pytest.mark.parametrize("variant", ["mixtral", "granitemoe"])
@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
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
    assert checked > 3 or optimizer == "muon"
    assert grow.train(growth.path, text, out=tmp_path / "then", **options).step == 4


def product(found: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Adafactor's estimate, matrix by matrix."""
    row, col = (found[f"optim.{name}.{key}"] for key in (ROW, COL))
    return row @ col / row.mean(dim=-2, keepdim=True)


def trainer(out: Path, model: Any, resume: Path | None = None, optimizers=(None, None)) -> Trainer:
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 41, (24, 12), generator=draw)]
    loaded = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, Path) else model
    loaded.set_experts_implementation("eager")
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=4, save_steps=2, per_device_train_batch_size=3, learning_rate=1e-3,
        weight_decay=0.1, report_to=[], use_cpu=True, disable_tqdm=True, seed=1,
    )  # fmt: skip
    made = Trainer(loaded, arguments, train_dataset=rows, optimizers=optimizers)
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made


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
    done = torchrun(
        2, "--from", grown.path, "--data", text, "--out", tmp_path / "two", "--freeze-old", "--rewarm", "2:9", *line
    )
    assert done.returncode == 0, done.stderr
    grow.train(grown.path, text, out=tmp_path / "one", freeze_old=True, rewarm=(2.0, 9), **options)
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-6
    before, two = load_file(grown.path / "model.safetensors"), weights(tmp_path / "two", 2)
    assert before.keys() == two.keys()
    for name, new in grow.new_entries(grown.plan).items():
        assert torch.equal(before[name][~new], two[name][~new])


# Experts that are made or added


MADE: dict[str, tuple[str, Any]] = {
    "copies": ("llama", dict(experts=4)),
    "halves": ("mistral", dict(experts=8, granularity=2, to={"layers": 3})),
    "shared": ("qwen2", dict(experts=4, route="shared", to={"hidden": 48})),
    "some": ("qwen3", dict(experts=4, every=2)),
    "stacked": ("granite", dict(experts=4, granularity=2, to={"hidden": 36, "layers": 3})),
    "beside": ("qwen2", dict(experts=4)),
    "more": ("mixtral", {"experts": 12}),
    "more, stacked": ("granitemoe", {"experts": 8, "hidden": 36}),
    "more, deeper": ("qwen2_moe", {"experts": 8, "layers": 5}),
}


def made(name: str, source: Path, out: Path, **options: Any) -> grow.Growth:
    how = dict(MADE[name][1])
    if "more" in name:
        return grow.widen(source, how, out=out, verify=False, **options)
    return grow.upcycle(source, how.pop("experts"), out=out, verify=False, **how, **options)


def moe(name: str) -> bool:
    words = ("experts.", "gate.weight", "router", "input_linear", "output_linear", "shared_expert_gate")
    return any(word in name for word in words) and "shared_expert." not in name


@pytest.mark.parametrize("name", MADE)
def test_every_old_entry_is_carried_once_and_the_record_says_which(name, tiny, tmp_path):
    source = tiny(MADE[name][0])
    growth = made(name, source, tmp_path / "grown")
    new, rates = grow.new_entries(growth.plan), grow.rates(growth.plan)
    old = sum(int((~mask).sum()) for mask in new.values())
    filled = sum(v.numel() for v in load_file(source / "model.safetensors").values())
    assert old == filled
    assert all((rates[t][~mask] != 0).all() if False else (rates[t].value[~mask] != 0).all() for t, mask in new.items())
    with open_checkpoint(growth.path) as checkpoint:
        again = tensors_of(read_record(growth.path), checkpoint)
    assert {t.name for t in again} == set(new)
    assert all(torch.equal(new_entries_of(t), new[t.name]) for t in again)
    for t in again:
        for a, b in zip(rates_of(t), rates[t.name]):
            assert torch.equal(a, b), t.name


def test_copies_of_an_expert_are_new_and_the_first_is_not(tiny, tmp_path):
    growth = made("copies", tiny("llama"), tmp_path / "grown")
    new, moe = grow.new_entries(growth.plan), "model.layers.1.block_sparse_moe."
    assert not any(new[f"{moe}experts.0.{w}.weight"].any() for w in ("w1", "w2", "w3"))
    assert all(new[f"{moe}experts.{e}.{w}.weight"].all() for e in (1, 2, 3) for w in ("w1", "w2", "w3"))
    assert new[f"{moe}gate.weight"].all()
    assert not new["model.layers.1.self_attn.q_proj.weight"].any()
    shared = made("shared", tiny("qwen2"), tmp_path / "shared")
    assert grow.new_entries(shared.plan)["model.layers.0.mlp.experts.0.up_proj.weight"].all()
    assert not grow.new_entries(shared.plan)["model.layers.0.mlp.shared_expert.up_proj.weight"].all()


@pytest.mark.parametrize("name", ["copies", "shared", "stacked", "more"])
def test_what_is_new_is_rewarmed_and_the_rest_can_be_frozen(name, tiny, text, tmp_path):
    growth = made(name, tiny(MADE[name][0]), tmp_path / "grown")
    done = grow.train(growth.path, text, out=tmp_path / "run", **{**QUICK, "steps": 1})
    new = grow.new_entries(growth.plan)
    count, total = sum(int(m.sum()) for m in new.values()), sum(m.numel() for m in new.values())
    assert any(note.startswith("new entries are re-warmed") for note in done.notes)
    assert f"{count:,} of {total:,} entries are new" in done.notes
    frozen = grow.train(growth.path, text, out=tmp_path / "frozen", freeze_old=True, **QUICK)
    before, after = load_file(growth.path / "model.safetensors"), weights(frozen.path)
    assert all(torch.equal(before[n][~mask], after[n][~mask]) for n, mask in new.items())
    assert sum(int((before[n] != after[n])[mask].sum()) for n, mask in new.items()) > 0.4 * count
    model = AutoModelForCausalLM.from_pretrained(growth.path)
    groups = parameter_groups(model, growth.path, lr=1e-3)
    assert {group["entries"] for group in groups} >= {"partly new", "old"}
    optimizer = torch.optim.AdamW(groups)
    assert NewEntryUpdates(optimizer, model, growth, freeze_old=True).entries.count == count


@pytest.mark.parametrize("name", MADE)
def test_the_state_of_all_but_experts_and_routers_comes_along(name, text, still, stepped, tmp_path):
    """And is that of the grown model, in float64; experts and routers take their first step."""
    variant = MADE[name][0]
    even = {"split": "even"}
    growth = made(name, stepped(variant), tmp_path / "then", **even)
    note = "the training state came along (fresh-new): AdamW behind step 1; the moments of experts and routers begin anew"
    assert growth.notes[-1] == note
    found, model = values(growth.path), bare_model(growth.path)
    exact = revert_weight_conversion(model, {n: found[f"model.{n}"] for n, _ in model.named_parameters()})
    stored = load_file(growth.path / "model.safetensors")
    assert all(torch.equal(exact[n], value) for n, value in stored.items())
    before = made(name, still(variant), tmp_path / "before", **even)
    after = values(grow.train(before.path, text, out=tmp_path / "run", **STILL).checkpoint)
    masks, checked = grow.new_entries(growth.plan), 0
    for key in KEYS:
        one, two = by_file(model, found, key), by_file(model, after, key)
        beside = "beside" in name and "shared_expert"
        assert set(one) == {n for n in two if not moe(n) and not (beside and beside in n)}
        for n, value in one.items():
            old = ~masks[n]
            if old.any() and two[n].abs().max() > 1e-20:
                checked += 1
                assert (value - two[n])[old].abs().max() / two[n].abs().max() < EXACT, f"{n}.{key}"
            assert not value[masks[n]].any()
    assert checked > 12
    first = grow.train(growth.path, text, out=tmp_path / "on", **STILL).checkpoint
    steps = revert_weight_conversion  # names of parameters, not of files, have a step
    del steps
    counts = {n: int(v) for n, v in values(first).items() if n.endswith(".step")}
    assert set(counts.values()) == {1, 2}
    assert {n for n, k in counts.items() if k == 1} == {f"optim.{n}.step" for n in anew(model, one)}


def anew(model: Any, carried: dict[str, torch.Tensor]) -> set[str]:
    """Parameters that no carried tensor of the files belongs to."""
    return {name for name, slabs in layout(model).items() if not any(slab.name in carried for slab in slabs)}


def test_a_trainers_dense_model_gets_experts_and_it_goes_on(tiny, tmp_path):
    dense = AutoModelForCausalLM.from_pretrained(tiny("llama"))
    dense.set_experts_implementation = lambda how: None
    trainer(tmp_path / "out", dense)
    growth = made("copies", tmp_path / "out" / "checkpoint-2", tmp_path / "grown")
    trainer(tmp_path / "on", growth.path, growth.path)
    after = torch.load(tmp_path / "on" / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    assert {int(entries["step"]) for entries in after.values()} == {2, 4}


def test_what_has_no_rule_is_refused(stepped, run, tiny, text, tmp_path):
    for source, name in ((stepped("llama"), "copies"), (run / "step-00000004", "more")):
        said = refused(Refused, made, name, source, tmp_path / "no", state="carry")
        assert "--state carry: cannot follow experts that are made or added" in said
        assert "--state fresh-new lets experts and routers begin anew" in said
    growth = made("copies", tiny("llama"), tmp_path / "grown")
    for rates in ("mup", "implied"):
        said = refused(Refused, grow.train, growth.path, text, out=tmp_path / "no", rates=rates, **QUICK)
        assert f"--rates {rates}: does not know experts that were made or added" in said
    drop = grow.upcycle(
        tiny("llama"), 4, out=tmp_path / "drop", method="drop-upcycling", allow_lossy=True, verify=False
    )
    said = refused(Refused, grow.train, drop.path, text, out=tmp_path / "no", freeze_old=True, **QUICK)
    assert "tells of experts whose units were drawn anew" in said
    done = grow.train(drop.path, text, out=tmp_path / "run", **{**QUICK, "steps": 1})
    assert not any("re-warmed" in note for note in done.notes)
    assert not (tmp_path / "no").exists()
    assert grown_module.knows_new(read_record(growth.path))
    assert BadInput is not Refused
    assert json.loads((growth.path / "grow.json").read_text())["plan"]["upcycling"]
