"""Groups, flags and schedules of an optimizer go on, and sources stay as they were."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import LLAMA, Float64
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR
from trajectories import (
    adamw,
    as_list,
    backward,
    growth_of,
    loss_of,
    parameters,
    sgd,
    source,
    states,
    still,
    train,
    uniform,
    widen,
)

import grow
import grow.optimizer.dual_rule
from grow.notation.axes import READ

# Groups, flags and what must not change


def grouped(model, **more):
    """Two groups, decay and none, with a key that the user added; the embedding is frozen and left out."""
    model.model.embed_tokens.weight.requires_grad_(False)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = {"params": [(n, p) for n, p in named if p.ndim == 2], "weight_decay": 0.1, "role": "matrices"}
    vectors = {"params": [(n, p) for n, p in named if p.ndim == 1], "lr": 1e-4, "betas": (0.8, 0.9)}
    return torch.optim.AdamW([matrices, vectors | {"weight_decay": 0.0, "role": "vectors"}], lr=1e-3, **more)


@pytest.mark.parametrize("state", ["fresh-new", "carry", "drop"])
def test_groups_keep_their_settings_and_inserted_layers_join_them(state):
    model = source("llama")
    optimizer = grouped(model, amsgrad=True)
    train(model, optimizer, range(2))
    growth = widen(model, {"hidden": 24, "layers": 4}, {}, optimizer=optimizer, state=state)
    new = growth.optimizer
    assert type(new) is torch.optim.AdamW
    assert new.defaults == optimizer.defaults
    assert len(new.param_groups) == 2
    for old_group, group in zip(optimizer.param_groups, new.param_groups):
        assert {k: v for k, v in old_group.items() if "param" not in k} == {
            k: v for k, v in group.items() if "param" not in k
        }
    known = parameters(growth.model)
    assert not known["model.embed_tokens.weight"].requires_grad
    assert new.param_groups[0]["param_names"] == [
        n for n, p in known.items() if p.ndim == 2 and "embed" not in n
    ]  # in the model's order, the inserted layers among them
    assert new.param_groups[1]["param_names"] == [n for n, p in known.items() if p.ndim == 1]
    assert all(known[n] is p for g in new.param_groups for n, p in zip(g["param_names"], g["params"]))
    train(growth.model, new, range(2, 4))


def test_deepen_takes_an_optimizer_too():
    model = source("gpt2")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    with Float64():
        growth = grow.deepen(model, 4, optimizer=optimizer, verify=False)
    moments = states(growth.optimizer, growth.model)
    inserted = {t.name for t in growth.plan.tensors if t.inserted}
    assert {name for name, state in moments.items() if not state["exp_avg"].any()} == inserted
    assert len(inserted) == 2 * 12
    assert {state["step"].item() for state in moments.values()} == {2}


def test_a_group_in_another_order_keeps_it():
    model = source("llama")
    order = list(reversed(list(model.parameters())))
    growth = widen(model, {"ffn": 40}, {}, optimizer=torch.optim.SGD(order, lr=0.1))
    assert [id(p) for p in growth.optimizer.param_groups[0]["params"]] == [
        id(p) for p in reversed(list(growth.model.parameters()))
    ]


def test_a_saved_state_loads_into_an_optimizer_of_all_parameters():
    model = source("llama")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    growth = widen(model, {"hidden": 24, "layers": 4}, {}, optimizer=optimizer)
    again = adamw(growth.model.parameters())
    again.load_state_dict(growth.optimizer.state_dict())
    for p, state in growth.optimizer.state.items():
        assert all(torch.equal(again.state[p][k], v) for k, v in state.items())


def test_flags_and_tensor_rates_stay():
    model = source("llama")
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True, decoupled_weight_decay=True, maximize=True)
    group = widen(model, {"ffn": 40}, {}, optimizer=optimizer).optimizer.param_groups[0]
    assert group["fused"] is group["maximize"] is group["decoupled_weight_decay"] is True
    assert group["lr"] == rate
    assert group["lr"] is not rate


@pytest.mark.parametrize("kind", ["adam", "sgd", "adafactor", "muon-adamw"])
def test_source_and_optimizer_stay_as_they_were(kind):
    model = source("llama-tied")
    optimizer = still(kind, model)
    train(model, type("All", (), {"step": lambda self: [o.step() for o in as_list(optimizer)]})(), range(2))
    before = copy.deepcopy([o.state_dict() for o in as_list(optimizer)])
    weights, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    growth = widen(model, {"hidden": 36, "layers": 3}, {}, optimizer=optimizer, state="carry")
    assert torch.equal(random, torch.get_rng_state())
    for state in states(growth.optimizer, growth.model).values():
        for value in state.values():
            value.fill_(7.0)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    for old, one in zip(before, as_list(optimizer)):
        now = one.state_dict()
        assert now["param_groups"] == old["param_groups"]
        assert all(torch.equal(now["state"][i][k], v) for i, s in old["state"].items() for k, v in s.items())


def test_no_step_yet_and_sgd_without_momentum():
    model = source("llama")
    assert not widen(model, {"ffn": 40}, {}, optimizer=adamw(model.parameters())).optimizer.state
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, range(1))
    growth = widen(model, {"ffn": 40}, {}, optimizer=optimizer)
    train(growth.model, growth.optimizer, range(1))


def test_a_moment_in_its_weights_dtype_follows_it_and_another_keeps_its_own():
    """bfloat16 moments: of a bit-exact plan they stay, of a rounded one they become float32 as the weights do."""
    model = models.make("llama").bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    step_in_own_dtype(model, optimizer)
    same = grow.widen(model, {"hidden": 36}, optimizer=optimizer, state="carry", verify=False)
    wide = grow.widen(model, {"hidden": 24}, optimizer=optimizer, state="carry", verify=False)
    assert {s["exp_avg"].dtype for s in same.optimizer.state.values()} == {torch.bfloat16}
    assert {s["exp_avg_sq"].dtype for s in wide.optimizer.state.values()} == {torch.float32}
    for growth in (same, wide):
        step_in_own_dtype(growth.model, growth.optimizer)
    model = models.make("llama").bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    step_in_own_dtype(model, optimizer)
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].float()
    mixed = grow.widen(model, {"hidden": 36}, optimizer=optimizer, verify=False).optimizer
    assert {(s["exp_avg"].dtype, s["exp_avg_sq"].dtype) for s in mixed.state.values()} == {
        (torch.float32, torch.bfloat16)
    }


def step_in_own_dtype(model, optimizer) -> None:
    ids = models.inputs(model.config, 9)["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_example_of_grow_moment_is_right():
    """The example in the docstring of `grow_moment`."""
    model = source("llama")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(1))
    growth = widen(model, {"hidden": 36}, {}, optimizer=optimizer, state="carry")
    name = "model.layers.0.mlp.down_proj.weight"
    old = optimizer.state[parameters(model)[name]]
    new = growth.optimizer.state[parameters(growth.model)[name]]
    assert torch.equal(new["exp_avg"], torch.cat([old["exp_avg"] / 2] * 2))
    assert torch.equal(new["exp_avg_sq"], torch.cat([old["exp_avg_sq"] / 4] * 2))


# In a training loop


SCHEDULES = {
    "lambda": lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / 8) * 0.99**step),
    "step": lambda o: StepLR(o, 4, gamma=0.5),
    "cosine": lambda o: CosineAnnealingLR(o, 30),
    "one-cycle": lambda o: OneCycleLR(o, 0.01, total_steps=40),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("steps", [3, 8])
def test_a_schedule_goes_on(kind, steps):
    """As in the README: a scheduler of the same kind on the new optimizer, and the old one's state."""

    def rates_over(optimizer, scheduler, count) -> list[float]:
        found = []
        for _ in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    model = source("llama")
    optimizer = adamw(model.parameters())
    scheduler = SCHEDULES[kind](optimizer)
    rates_over(optimizer, scheduler, steps)
    new = widen(model, {"ffn": 40}, {}, optimizer=optimizer).optimizer
    again = SCHEDULES[kind](new)
    again.load_state_dict(scheduler.state_dict())
    for group, rate in zip(new.param_groups, again.get_last_lr()):
        group["lr"] = rate
    assert rates_over(new, again, 12) == rates_over(optimizer, scheduler, 12)


@pytest.mark.parametrize("state", ["fresh-new", "carry", "drop"])
def test_training_goes_on_where_it_was(state):
    """20 steps, all axes grown at once, the same loss to 1e-9 (1e-12 measured) at first, then a lower one."""
    model = source("llama-tied").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        backward(model, 0)
        optimizer.step()
    before = loss_of(model, 0).item()
    to = {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 61, "layers": 3, "positions": 80}
    growth = widen(model, to, {}, optimizer=optimizer, state=state)
    model, optimizer = growth.model, growth.optimizer
    assert model.training
    assert loss_of(model, 0).item() == pytest.approx(before, abs=1e-9)
    for _ in range(20):
        backward(model, 0)
        optimizer.step()
    assert loss_of(model, 0).item() < 0.8 * before


def test_new_entries_can_be_trained_alone():
    model = source("llama")
    growth = widen(model, {"ffn": LLAMA["intermediate_size"] + 9}, {}, optimizer=sgd(model.parameters()))
    masks, known = grow.new_entries(growth.plan), parameters(growth.model)
    before = {name: p.detach().clone() for name, p in known.items()}
    for name, p in known.items():
        p.register_hook(masks[name].double().mul)
    for group in growth.optimizer.param_groups:
        group["weight_decay"] = 0.0
    train(growth.model, growth.optimizer, range(3))
    moved = {name: p.detach() != before[name] for name, p in known.items()}
    assert not any((moved[name] & ~masks[name]).any() for name in known)
    down = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(moved[down], masks[down])


def test_reads_and_writes_are_exchanged_in_the_table():
    """Hidden × 2 by even copies, spelled out: producers keep v = 1 and halve γ, consumers the other way round."""
    _, growth = growth_of("llama-hidden-2x")
    found = grow.rates(growth.plan)
    for t in growth.plan.tensors:
        v, g = uniform(growth, t.name)
        reads, writes = READ in t.roles, t.name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight"))
        norm = "norm" in t.name
        assert (v, g) == ((1.0, 0.5) if norm or writes else (0.5, 1.0)), t.name
        assert norm or reads or writes
    assert len(found) == len(growth.plan.tensors)
