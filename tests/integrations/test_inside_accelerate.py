"""Growing inside Accelerate, and what cannot grow: wrapped, compiled or watched models."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from models import inputs, make
from stock_trainer import AT, THRICE, Ids, arguments, same, trainer_of, weights
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

import grow
from grow.integrations import GrowCallback, NewEntryUpdates, grow_in_place
from grow.integrations.callback import check_arguments
from grow.integrations.in_place import rms_apart

# Accelerate


@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_a_loop_of_accelerate_goes_on_and_is_saved_and_loaded(mixed, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=mixed)
    model = make("llama-tied").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    loader = torch.utils.data.DataLoader(Ids(), batch_size=4)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    def train(count: int) -> list[float]:
        losses = []
        for batch, _ in zip(loader, range(count)):
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    train(4)
    batch = Ids()[0]["input_ids"][None]
    with torch.no_grad():
        before = model(batch, labels=batch).loss.item()
    plain = accelerator.unwrap_model(model)
    growth = grow_in_place(plain, THRICE, optimizer=optimizer, batch={"input_ids": batch}, verify=False)
    assert growth.optimizer is optimizer
    with torch.no_grad():  # bfloat16 rounds each of the sums to 2^-9
        assert model(batch, labels=batch).loss.item() == pytest.approx(before, rel=1e-5 if mixed == "no" else 2e-2)
    rate = optimizer.param_groups[0]["lr"]
    train(2)
    assert optimizer.param_groups[0]["lr"] < rate
    accelerator.save_state(str(tmp_path / "state"))
    kept = weights(plain)
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    train(2)
    assert not same(weights(plain), kept)
    accelerator.load_state(str(tmp_path / "state"))
    assert same(weights(plain), kept)
    assert all(torch.equal(s[k], moments[i][k]) for i, s in optimizer.state_dict()["state"].items() for k in s)


def test_between_micro_batches_nothing_grows():
    model = make("llama").train()
    optimizer = torch.optim.AdamW(model.parameters())
    given = inputs(model.config, 9)
    model(**given, labels=given["input_ids"]).loss.backward()
    with pytest.raises(grow.BadInput, match="not between micro-batches"):
        grow_in_place(model, "2x", optimizer=optimizer, verify=False)
    optimizer.zero_grad(set_to_none=False)
    grow_in_place(model, "2x", optimizer=optimizer, verify=False)


# What cannot be


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda *_: None)


def watched(model):
    model.lm_head.weight.register_hook(lambda g: g)


def adapted(model):
    model.peft_config = {}


def compiled(model):
    model.model.layers[1].compile(backend="eager")


def dispatched(model):
    model.model._hf_hook = object()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hooked, "model.layers.0: forward_hooks: would be lost"),
        (watched, "lm_head.weight: a hook on its gradient: would be lost"),
        (adapted, "has PEFT adapters"),
        (compiled, "model.layers.1: is compiled"),
        (dispatched, "is dispatched"),
    ],
)
def test_what_holds_on_to_the_old_parts_is_refused(change, words):
    model = make("llama")
    change(model)
    before, parts = weights(model), list(model.modules())
    with pytest.raises(grow.Refused, match=words):
        grow_in_place(model, "2x", verify=False)
    assert same(weights(model), before)
    assert all(a is b for a, b in zip(parts, model.modules()))


def test_wrapped_models_foreign_optimizers_and_several_processes_are_refused(tmp_path, monkeypatch):
    class Copying(torch.optim.SGD):
        def __init__(self, params, **more) -> None:
            super().__init__(params, **more)
            self.averages = [p for group in self.param_groups for p in group["params"]]

    model = make("llama")
    with pytest.raises(grow.BadInput, match="pass what it wraps"):
        grow_in_place(torch.nn.DataParallel(model), "2x")
    with pytest.raises(grow.BadInput, match="is not one of the model's parameters"):
        grow_in_place(model, "2x", optimizer=torch.optim.SGD(make("llama").parameters()), verify=False)
    with pytest.raises(grow.BadInput, match=r"must be a torch\.optim\.Optimizer, got list"):
        grow_in_place(model, "2x", optimizer=[[]], verify=False)
    optimizer = torch.optim.SGD(model.parameters())
    first = grow_in_place(model, {"ffn": 30}, optimizer=optimizer, verify=False)
    updates = NewEntryUpdates(optimizer, model, first, rewarm=(1.25, 9))
    with pytest.raises(grow.Refused, match="NewEntryUpdates: would be lost"):
        grow_in_place(model, {"ffn": 40}, optimizer=optimizer, verify=False)
    updates.remove()
    with pytest.raises(grow.Refused, match="averages: holds parameters"):
        grow_in_place(model, "2x", optimizer=Copying(model.parameters()), state="drop", verify=False)
    with pytest.raises(grow.Refused, match="would become a MixtralForCausalLM"):
        grow_in_place(
            model, None, upcycling=dict(experts=4, top_k=2, granularity=1, every=1, route="routed"), verify=False
        )
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(grow.Refused, match="got 2"):
        grow_in_place(model, "2x")


@pytest.mark.parametrize("ladder", [True, False])
def test_a_growth_that_changes_the_function_stops_and_leaves_everything(ladder, monkeypatch, tmp_path):
    """Both checks can fail: one norm of the grown model is off by 1 %."""
    module = sys.modules["grow.integrations.in_place"]
    widen = module.widen

    def wrong(*args, **more):
        growth = widen(*args, **more)
        if ladder:
            failed = SimpleNamespace(name="loss", status="fail", reason="0.1 nats")
            return replace(growth, verification=SimpleNamespace(sound=False, verdict="different", checks=[failed]))
        with torch.no_grad():
            growth.model.model.norm.weight *= 1.01
        return growth

    monkeypatch.setattr(module, "widen", wrong)
    model = make("llama").train()
    kept: dict[str, Any] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model, optimizer, **_) -> None:
            kept.update(
                weights=weights(model), state=copy.deepcopy(optimizer.state_dict()), parts=list(model.modules())
            )

    trainer = trainer_of(model, tmp_path, Keep(), GrowCallback(at_step=AT, to="2x"))
    said = (
        "different after the growth\n  why        loss: 0.1 nats" if ladder else r"0.01 of their std on a batch \(RMS\)"
    )
    with pytest.raises(grow.Different, match=said):
        trainer.train()
    assert same(weights(model), kept["weights"])
    assert all(a is b for a, b in zip(kept["parts"], model.modules()))
    now = trainer.optimizer.state_dict()
    assert now["param_groups"] == kept["state"]["param_groups"]
    assert all(torch.equal(s[k], now["state"][i][k]) for i, s in kept["state"]["state"].items() for k in s)


def test_the_ladder_runs_on_request():
    growth = grow_in_place(make("llama-tied"), {"ffn": 30})
    assert growth.verified


def test_the_distance_on_a_batch_sees_what_differs():
    model = make("llama")
    given = inputs(model.config, 9)
    assert rms_apart(model, copy.deepcopy(model), given) == 0
    larger = grow.widen(model, {"vocab": 50}, verify=False).model
    assert rms_apart(model, larger, given) < 1e-6
    other = make("llama", seed=2)
    assert rms_apart(model, other, given) > 0.5
    with torch.no_grad():
        other.model.norm.weight.fill_(float("nan"))
    assert rms_apart(model, other, given) == float("inf")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no target": ({"at_step": 1}, "to: is missing"),
    "neither": ({"to": "2x"}, "at_step, when: neither is given"),
    "both": ({"to": "2x", "at_step": 1, "when": bool}, "at_step, when: both are given"),
    "a step that is none": ({"to": "2x", "at_step": -1}, "at_step=-1: must be"),
    "a condition that is none": ({"to": "2x", "when": 3}, "when=3: must be a function"),
    "an option that is none": (
        {"to": "2x", "at_step": 1, "plase": "top"},
        "plase: no such option; did you mean 'place'",
    ),
    "an option of files": ({"to": "2x", "at_step": 1, "out": "x"}, "out: no such option"),
    "a re-warming that is none": ({"to": "2x", "at_step": 1, "rewarm": (0, 5)}, r"rewarm=\(0, 5\): must be"),
    "descending steps": ({"growths": [{"to": "2x", "at_step": 3}, {"to": "2x", "at_step": 3}]}, "one after the other"),
    "nothing": ({"growths": []}, "one after the other"),
    "a list and more": ({"growths": [{"to": "2x", "at_step": 3}], "to": "2x"}, "is given beside a list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_are_one_error_when_the_callback_is_made(case):
    words, said = WRONG[case]
    with pytest.raises(grow.BadInput, match=said):
        GrowCallback(**words)


LATE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a target that cannot be": ({"to": {"hidden": 9}}, {}, "hidden"),
    "a step that never comes": ({"to": "2x", "at_step": 99}, {}, "training ends with step 5"),
    "a policy that is none": ({"to": "2x", "state": "fresh"}, {}, "no such policy"),
    "an optimizer without a rule": ({"to": "2x"}, {"optim": "adafactor"}, "has a state that grow does not know"),
    "noise on the embeddings": ({"to": "2x"}, {"neftune_noise_alpha": 5.0}, "embed_tokens: forward_hooks: would"),
    "the best of before": (
        {"to": "2x"},
        dict(load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", eval_steps=1, save_steps=1),
        "may be from before the growth",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LATE)
def test_what_is_wrong_is_said_before_the_first_step(case, tmp_path):
    words, more, said = LATE[case]
    trainer = Trainer(
        make("llama"),
        arguments(tmp_path, **more),
        train_dataset=Ids(),
        eval_dataset=Ids(),
        callbacks=[GrowCallback(**{"at_step": AT, **words})],
    )
    with pytest.raises(grow.GrowError, match=said):
        trainer.train()
    assert trainer.state.global_step == 0


def test_two_callbacks_a_small_model_and_a_lost_condition_are_refused(tmp_path):
    two = [GrowCallback(at_step=step, to="2x") for step in (1, 2)]
    with pytest.raises(grow.BadInput, match="one GrowCallback with a list"):
        trainer_of(make("llama"), tmp_path, *two).train()
    conditional = GrowCallback(when=lambda state: False, to="2x")
    with pytest.raises(grow.BadInput, match="leave it False"):
        trainer_of(make("llama"), tmp_path, conditional, restore_callback_states_from_checkpoint=True)
    deeper = GrowCallback(at_step=1, to={"layers": 3}, place="top")
    more: dict[str, Any] = dict(save_strategy="steps", save_steps=AT, save_only_model=True)
    trainer_of(make("llama"), tmp_path, deeper, **more).train()
    folder = str(tmp_path / f"checkpoint-{AT}")
    small = trainer_of(make("llama"), tmp_path, GrowCallback(at_step=1, to={"layers": 3}))
    with pytest.raises(grow.BadInput, match="build the Trainer from that checkpoint"):
        small.train(resume_from_checkpoint=folder)


@pytest.mark.parametrize("name", ["world_size", "n_gpu", "fsdp", "deepspeed", "torch_compile"])
def test_wrappers_are_refused(name):
    plain = dict(world_size=1, n_gpu=0, fsdp=[], deepspeed=None, torch_compile=False)
    check_arguments(SimpleNamespace(**plain))
    with pytest.raises(grow.Refused, match="wraps the model"):
        check_arguments(SimpleNamespace(**{**plain, name: 2}))


# The names of the package


@pytest.mark.parametrize("name", grow.integrations.__all__)
def test_every_name_of_the_package_is_there(name):
    assert getattr(grow.integrations, name).__name__ == name
