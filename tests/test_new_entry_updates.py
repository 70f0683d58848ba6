"""Parameter groups by what is new, and hooks that scale or freeze: the arithmetic of `grow train`, in any loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from models import inputs, make
from stock_trainer import Ids, same, trainer_of, weights
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

import grow
from grow.integrations import NewEntryUpdates, parameter_groups
from grow.training.after_growth.new_entries import NewEntries
from grow.training.settings.schedule import rewarm

TO = {"hidden": 24, "heads": 8, "ffn": 33, "layers": 3}  # silent coordinates, unread units, a layer; × 3 below
TREATMENTS: dict[str, dict[str, Any]] = {
    "scaled": {"scale": 0.5},
    "re-warmed": {"rewarm": (1.25, 20)},
    "frozen": {"freeze_old": True},
    "all of it": {"scale": 2.0, "rewarm": (1.5, 2), "freeze_old": True},
}


def grown_of(variant: str = "llama-tied", to: Any = None) -> grow.Growth:
    return grow.widen(make(variant).train(), to or TO, verify=False)


def optimizer_of(model) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def loss_of(model, step: int) -> torch.Tensor:
    batch = torch.stack([Ids()[3 * step + i]["input_ids"] for i in range(3)])
    return model(input_ids=batch, labels=batch).loss


@pytest.mark.parametrize("name", TREATMENTS)
@pytest.mark.parametrize(("variant", "to"), [("llama-tied", TO), ("llama", {"hidden": 54}), ("gpt2", {"hidden": 36})])
def test_hooks_do_what_grow_train_does_bit_for_bit(name, variant, to):
    """With two micro-batches and clipping, against the lines of `grow.training.step.loop`."""
    growth, how = grown_of(variant, to), TREATMENTS[name]
    other = grown_of(variant, to).model
    model, optimizer, theirs = growth.model, optimizer_of(growth.model), optimizer_of(other)
    entries = NewEntries(other, growth.plan.tensors, **how)
    NewEntryUpdates(optimizer, model, growth, **how)
    for one in (model, other):
        one.eval()  # no dropout
    for step in range(4):
        for part in range(2):
            loss_of(model, 2 * step + part).backward()
            loss_of(other, 2 * step + part).backward()
        entries.mask_gradients()
        norms = [torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0) for one in (model, other)]
        assert norms[0] == norms[1]
        optimizer.step()
        entries.before(step)
        theirs.step()
        entries.after(step)
        for one in (optimizer, theirs):
            one.zero_grad()
    assert same(weights(model), weights(other))


def test_each_update_is_the_plain_one_times_the_scale():
    """Independent of `NewEntries`: SGD's update is -lr · gradient, at new entries times the scale of the step."""
    growth = grown_of()
    model, new = growth.model, grow.new_entries(growth.plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updates = NewEntryUpdates(optimizer, model, growth, rewarm=(1.5, 3), scale=0.5)
    for step in range(5):
        before = weights(model)
        loss_of(model, step).backward()
        factor = 0.5 * rewarm(step, 1.5, 3)
        assert updates.step == step
        wanted = {n: p.grad * torch.where(new[n], factor, 1.0) for n, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), before[name] - 0.1 * wanted[name], rtol=1e-5, atol=1e-6)
    updates.remove()
    before = weights(model)
    loss_of(model, 9).backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    optimizer.step()
    assert updates.step == 5
    assert all(torch.equal(p, before[n].add(wanted[n], alpha=-0.1)) for n, p in model.named_parameters())


def test_the_trainer_keeps_the_bits_of_what_is_frozen(tmp_path):
    """With decay, clipping, a schedule and accumulation; the logged norm is that of what learns."""
    growth = grown_of()
    model, new = growth.model, grow.new_entries(growth.plan)
    optimizer = torch.optim.AdamW(parameter_groups(model, growth, lr=1e-2, weight_decay=0.1))
    NewEntryUpdates(optimizer, model, growth, freeze_old=True)
    before = weights(model)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = trainer_of(model, tmp_path, optimizers=(optimizer, schedule), gradient_accumulation_steps=2)
    trainer.train()
    after = weights(model)
    moments = {n: optimizer.state[p] for n, p in model.named_parameters() if p in optimizer.state}
    for name, mask in new.items():
        assert torch.equal(before[name][~mask], after[name][~mask])
        assert not moments[name]["exp_avg"][~mask].any()
    moved = sum(int((before[n] != after[n])[mask].sum()) for n, mask in new.items())
    assert moved > 0.9 * sum(int(mask.sum()) for mask in new.values())


def test_the_count_is_in_the_optimizers_state_and_accelerate_carries_it(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)

    def begun():
        growth = grown_of()
        optimizer = optimizer_of(growth.model)
        updates = NewEntryUpdates(optimizer, growth.model, growth, rewarm=(1.5, 4))
        model, wrapped = accelerator.prepare(growth.model, optimizer)
        return model, wrapped, updates

    def train(model, optimizer, steps) -> None:
        for step in steps:
            accelerator.backward(loss_of(model, step))
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer, updates = begun()
    train(model, optimizer, range(2))
    accelerator.save_state(str(tmp_path / "state"))
    train(model, optimizer, range(2, 6))
    accelerator.free_memory()
    again, other, resumed = begun()
    accelerator.load_state(str(tmp_path / "state"))
    assert resumed.step == 2
    train(again, other, range(2, 6))
    assert (resumed.step, updates.step) == (6, 6)
    assert same(weights(again), weights(model))


@pytest.mark.parametrize("variant", ["llama-tied", "llama", "gpt2", "opt"])
def test_groups_part_all_parameters_by_what_is_new_and_by_trainers_decay(variant):
    growth = grown_of(variant, {"layers": 4, "ffn": 50})
    model, new = growth.model, grow.new_entries(growth.plan)
    frozen = next(name for name, _ in model.named_parameters())
    dict(model.named_parameters())[frozen].requires_grad_(False)
    groups = parameter_groups(model, growth, lr=1e-3, new_lr=3e-3, partly_new_lr=2e-3, weight_decay=0.1)
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    named = dict(model.named_parameters())
    found = {}
    for group in groups:
        assert [named[n] for n in group["param_names"]] == group["params"] != []
        assert group["lr"] == {"new": 3e-3, "partly new": 2e-3, "old": 1e-3}[group["entries"]]
        found |= dict.fromkeys(group["param_names"], (group["entries"], group["weight_decay"]))
    kinds = {n: "new" if new[n].all() else "partly new" if new[n].any() else "old" for n in named if n != frozen}
    assert found == {n: (kind, 0.1 if n in decayed else 0.0) for n, kind in kinds.items()}
    assert set(kinds.values()) == {"new", "partly new", "old"}
    assert len({id(p) for group in groups for p in group["params"]}) == len(found)
    for make_optimizer in (torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor):
        make_optimizer(groups)


@pytest.mark.parametrize("variant", ["llama-tied", "llama-sequence", "llama-token"])
def test_a_folder_a_plan_and_a_growth_say_the_same(variant, tmp_path):
    """Also of a classifier, the number of whose labels no axis says."""
    source, made = tmp_path / "source", make(variant)
    made.save_pretrained(source)
    growth = grow.widen(source, TO, out=tmp_path / "grown", verify=False)
    model = type(made).from_pretrained(tmp_path / "grown")
    names = [
        [(g["entries"], g["param_names"]) for g in parameter_groups(model, made, lr=1e-3)]
        for made in (growth, growth.plan, tmp_path / "grown", str(tmp_path / "grown"))
    ]
    assert names[0] == names[1] == names[2] == names[3]
    with pytest.raises(grow.BadInput, match="is not known to have grown"):
        parameter_groups(model, source, lr=1e-3)


def test_wrong_uses_are_one_error():
    growth, small = grown_of(), make("llama-tied")
    optimizer = optimizer_of(growth.model)
    for call, said in (
        (lambda: parameter_groups(small, growth, lr=1e-3), "is not a tensor of the growth"),
        (lambda: parameter_groups(growth.model, {}, lr=1e-3), "must be a Growth, a Plan or a folder, got dict"),
        (lambda: NewEntryUpdates(optimizer_of(small), growth.model, growth), "has none of the model's parameters"),
        (lambda: NewEntryUpdates([optimizer], growth.model, growth), "must be a torch.optim.Optimizer, got list"),
        (lambda: NewEntryUpdates(optimizer, growth.model, growth, scale=-1), "scale=-1: must be"),
        (lambda: NewEntryUpdates(optimizer, growth.model, growth, rewarm=1.25), "rewarm=1.25: must be"),
        (lambda: NewEntryUpdates(optimizer, growth.model, growth, rewarm=(1.25, 0.5)), "must be"),
    ):
        with pytest.raises(grow.BadInput, match=said):
            call()
    assert not optimizer._optimizer_step_pre_hooks


def test_of_two_optimizers_each_moves_its_own():
    growth = grown_of()
    model, new = growth.model, grow.new_entries(growth.plan)
    parts = [[p for p in model.parameters() if (p.ndim == 1) is flat] for flat in (True, False)]
    optimizers = [torch.optim.SGD(part, lr=0.1) for part in parts]
    for optimizer in optimizers:
        NewEntryUpdates(optimizer, model, growth, freeze_old=True)
    before = weights(model)
    model(**inputs(model.config, 9), labels=inputs(model.config, 9)["input_ids"]).loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    after = weights(model)
    assert all(torch.equal(before[n][~mask], after[n][~mask]) for n, mask in new.items())
    assert any((before[n] != after[n])[mask].any() for n, mask in new.items())
