"""Experts that are made of a dense FFN, or added: which of their entries are new, and which moments come along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fused_states import KEYS, by_file, trainer
from grown_states import STILL, refused, values
from safetensors.torch import load_file
from training import QUICK, tokens, weights
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

import grow
from grow.applying.fused import layout
from grow.checkpoint.reader import open_checkpoint
from grow.errors import Refused
from grow.integrations import NewEntryUpdates, parameter_groups
from grow.optimizer.dual_rule import new_entries_of, rates_of
from grow.optimizer.state.parameter_names import bare_model
from grow.planning.record import read_record
from grow.training.after_growth.new_entries import tensors_of

EXACT = 1e-12  # a gradient summed in another order in float64, relative to the tensor's largest

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


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens", 1500)


def made(name: str, source: Path, out: Path, **options: Any) -> grow.Growth:
    how = dict(MADE[name][1])
    if "more" in name:
        return grow.widen(source, how, out=out, verify=False, **options)
    return grow.upcycle(source, how.pop("experts"), out=out, verify=False, **how, **options)


def without_rule(name: str, how: str) -> bool:
    """Experts and routers; of a made model the shared expert's gate, and the shared expert that carries nothing."""
    words = ["experts.", "mlp.gate.weight", "moe.gate.weight", "router", "input_linear", "output_linear"]
    words += [] if "more" in how else ["shared_expert_gate"]
    return any(word in name for word in [*words, *(["shared_expert."] if how == "beside" else [])])


@pytest.mark.parametrize("name", MADE)
def test_every_old_entry_is_carried_once_and_the_record_says_which(name, tiny, tmp_path):
    source = tiny(MADE[name][0])
    growth = made(name, source, tmp_path / "grown")
    new, rates = grow.new_entries(growth.plan), grow.rates(growth.plan)
    old = sum(int((~mask).sum()) for mask in new.values())
    filled = sum(v.numel() for v in load_file(source / "model.safetensors").values())
    assert old == filled
    assert all((rates[name].value[~mask] != 0).all() for name, mask in new.items())
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
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["entries"] for group in groups} >= {"partly new"}
    optimizer = torch.optim.AdamW(groups)
    assert NewEntryUpdates(optimizer, model, growth, freeze_old=True).entries.count == count


@pytest.mark.parametrize("name", MADE)
def test_the_state_of_all_but_experts_and_routers_comes_along(name, text, still, stepped, tmp_path):
    """And is that of the grown model, in float64; experts and routers take their first step."""
    variant = MADE[name][0]
    even = {"split": "even"}
    growth = made(name, stepped(variant), tmp_path / "then", **even)
    note = "the training state came along (fresh-new): AdamW after step 1"
    assert growth.notes[-1] == f"{note}; the moments of experts and routers begin anew"
    found, model = values(growth.path), bare_model(growth.path)
    exact = revert_weight_conversion(model, {n: found[f"model.{n}"] for n, _ in model.named_parameters()})
    stored = load_file(growth.path / "model.safetensors")
    assert all(torch.equal(exact[n], value) for n, value in stored.items())
    before = made(name, still(variant), tmp_path / "before", **even)
    after = values(grow.train(before.path, text, out=tmp_path / "run", **STILL).checkpoint)
    masks, checked = grow.new_entries(growth.plan), 0
    for key in KEYS:
        one, two = by_file(model, found, key), by_file(model, after, key)
        assert set(one) == {n for n in two if not without_rule(n, name)}
        for n, value in one.items():
            old = ~masks[n]
            if old.any() and two[n].abs().max() > 1e-20:
                checked += 1
                assert (value - two[n])[old].abs().max() / two[n].abs().max() < EXACT, f"{n}.{key}"
            assert not value[masks[n]].any()
    assert checked > 12
    first = grow.train(growth.path, text, out=tmp_path / "on", **STILL).checkpoint
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


def test_what_has_no_rule_is_refused(stepped, tiny, text, tmp_path):
    for source, name in ((stepped("llama"), "copies"), (stepped("mixtral"), "more")):
        said = refused(Refused, made, name, source, tmp_path / "no", state="carry")
        assert 'state="carry": cannot follow experts that are made or added' in said
        assert 'state="fresh-new" lets experts and routers begin anew' in said
    growth = made("copies", tiny("llama"), tmp_path / "grown")
    for rates in ("mup", "implied"):
        said = refused(Refused, grow.train, growth.path, text, out=tmp_path / "no", rates=rates, **QUICK)
        assert f'rates="{rates}": has no rule for experts that were made or added' in said
    drop = grow.upcycle(
        tiny("llama"), 4, out=tmp_path / "drop", method="drop-upcycling", allow_lossy=True, verify=False
    )
    said = refused(Refused, grow.train, drop.path, text, out=tmp_path / "no", freeze_old=True, **QUICK)
    assert "records experts whose units were drawn anew" in said
    done = grow.train(drop.path, text, out=tmp_path / "run", **{**QUICK, "steps": 1})
    assert not any("re-warmed" in note for note in done.notes)
    assert not (tmp_path / "no").exists()
