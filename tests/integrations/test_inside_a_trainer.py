"""Growing inside the stock `Trainer`: the same objects go on, and they go on as by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import inputs, make
from stock_trainer import AT, STEPS, THRICE, same, trainer_of, weights
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, TrainerCallback

import grow
from grow.integrations import GrowCallback, grow_in_place, parameter_groups
from grow.models import gradient_checkpointing

UNEVEN = {"hidden": 24, "heads": 8, "ffn": 33, "layers": 3}  # from 18, 6, 28 and 2


class Batches:
    """A collator that keeps what it gave, in order."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        self.seen.append({k: torch.stack([row[k] for row in rows]) for k in rows[0]})
        return self.seen[-1]


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_) -> None:
        control.should_training_stop = state.global_step >= self.step


def bare(optimizer):
    return getattr(optimizer, "optimizer", optimizer)


# Trainer


class Losses(TrainerCallback):
    """Losses of a fixed batch behind every step, as the model is when this callback is called."""

    def __init__(self, given: dict[str, torch.Tensor]) -> None:
        self.given, self.found = given, []

    @torch.no_grad()
    def on_step_end(self, args, state, control, model, **_) -> None:
        model.eval()
        self.found.append(model(**self.given).loss.item())
        model.train()


@pytest.mark.parametrize(
    ("variant", "to", "options"),
    [
        ("llama-tied", THRICE, {}),
        ("llama", UNEVEN, {}),
        ("llama", {"layers": 5}, {"place": "top", "fill": "fresh"}),
        ("gpt2", {"hidden": 20, "heads": 5, "layers": 4}, {"split": "even"}),
        ("bert-mlm", {"hidden": 24, "ffn": 30, "layers": 3}, {}),
    ],
)
def test_the_loss_behind_a_growth_is_the_loss_before_it(variant, to, options, tmp_path):
    """To 1e-5: summation order in float32. And the loop goes on to step."""
    model = make(variant).train()
    given = inputs(model.config, 12)
    given["labels"] = given["input_ids"]
    before, after = Losses(given), Losses(given)
    trainer = trainer_of(model, tmp_path, before, GrowCallback(at_step=AT, to=to, **options), after)
    trainer.train()
    assert after.found[AT - 1] == pytest.approx(before.found[AT - 1], rel=1e-5)
    assert all(a == b for i, (a, b) in enumerate(zip(before.found, after.found)) if i != AT - 1)
    assert after.found[-1] != after.found[AT - 1]
    assert trainer.model is trainer.model_wrapped is model
    assert {id(p) for p in model.parameters()} == {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}


def by_hand(model, to, state: str, options, batches, accumulate: int, tmp_path: Path):
    """Stock Trainer up to the growth, `grow.widen`, and a loop of one's own from there."""
    trainer = trainer_of(model, tmp_path, StopAt(AT), gradient_accumulation_steps=accumulate)
    trainer.train()
    rate = trainer.lr_scheduler.lr_lambdas[0]
    growth = grow.widen(model, to, optimizer=bare(trainer.optimizer), state=state, verify=False, **options)
    model, optimizer = growth.model, growth.optimizer
    for step in range(AT, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate(step)
        parts = batches[step * accumulate : (step + 1) * accumulate]
        count = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)
        for part in parts:
            model(**part, num_items_in_batch=torch.tensor(count)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize(
    ("state", "variant", "to", "accumulate"),
    [
        ("fresh-new", "llama-tied", UNEVEN, 1),
        ("fresh-new", "llama", {**THRICE, "layers": 3}, 2),
        ("carry", "llama-tied", THRICE, 2),
        ("drop", "llama", UNEVEN, 1),
    ],
)
def test_the_callback_is_growing_by_hand_bit_for_bit(state, variant, to, accumulate, tmp_path):
    kept = Batches()
    model = make(variant).train()
    callback = GrowCallback(at_step=AT, to=to, state=state, seed=5)
    trainer = trainer_of(model, tmp_path, callback, collator=kept, gradient_accumulation_steps=accumulate)
    trainer.train()
    other, optimizer = by_hand(make(variant).train(), to, state, {"seed": 5}, kept.seen, accumulate, tmp_path)
    assert same(weights(model), weights(other))
    theirs = bare(trainer.optimizer).state_dict()["state"]
    for i, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, theirs[i][key]) for key, value in moments.items())


def test_a_checkpoint_from_behind_the_growth_is_stock_and_resumes_bit_for_bit(tmp_path):
    """The callback is there again and does not grow twice; the re-warming goes on where it was."""
    words: dict[str, Any] = dict(at_step=AT, to=UNEVEN, rewarm=(1.5, 20))
    model, callback = make("llama-tied").train(), GrowCallback(**words)
    trainer_of(model, tmp_path, callback, save_strategy="steps", save_steps=1).train()
    assert not (tmp_path / "checkpoint-1" / "grow.json").exists()
    folder = tmp_path / f"checkpoint-{AT + 1}"
    for restore in (False, True):
        again, other = AutoModelForCausalLM.from_pretrained(folder), GrowCallback(**words)
        trainer = trainer_of(again, tmp_path / "x", other, restore_callback_states_from_checkpoint=restore)
        trainer.train(resume_from_checkpoint=str(folder))
        assert same(weights(again), weights(model))
        other = next(c for c in trainer.callback_handler.callbacks if isinstance(c, GrowCallback))
        assert other.updates.step == STEPS - AT
        assert other.done == json.loads(json.dumps(callback.done))
    record = json.loads((folder / "grow.json").read_text())
    assert record["training"] == {"step": AT + 1}
    assert record["plan"]["new_sizes"]["hidden"] == 24
    assert {group["entries"] for group in parameter_groups(again, folder, lr=1e-3)} == {"new", "partly new"}
    # the checkpoint of the growth's own step is grown too, and so is one that was made before resumed and grown
    assert AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{AT}").config.hidden_size == 24
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1")
    trainer_of(small, tmp_path / "y", GrowCallback(**words)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-1")
    )
    assert same(weights(small), weights(model))


def test_a_run_that_had_no_callback_may_grow_when_it_is_resumed(tmp_path):
    trainer_of(make("llama").train(), tmp_path, StopAt(AT), save_strategy="steps", save_steps=AT).train()
    folder = tmp_path / f"checkpoint-{AT}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    trainer = trainer_of(
        model, tmp_path / "x", GrowCallback(at_step=AT, to=THRICE), save_strategy="steps", save_steps=1
    )
    trainer.train(resume_from_checkpoint=str(folder))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "x" / f"checkpoint-{STEPS}").config.hidden_size == 54
    late = trainer_of(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "x", GrowCallback(at_step=1, to="2x"))
    with pytest.raises(grow.BadInput, match="does not know of this growth"):
        late.train(resume_from_checkpoint=str(folder))


def test_several_growths_one_of_them_on_a_condition_and_one_before_the_first_step(tmp_path):
    model = make("llama").train()
    logged = lambda state: any("loss" in entry for entry in state.log_history)  # noqa: E731
    callback = GrowCallback([
        {"at_step": 0, "to": {"ffn": 30}},
        {"when": logged, "to": {"hidden": 36}, "freeze_old": True},
        {"at_step": 3, "to": {"layers": 3}, "rewarm": (1.25, 9)},
    ])  # fmt: skip
    trainer = trainer_of(model, tmp_path, callback, save_strategy="steps", save_steps=4)
    trainer.train()
    assert [one["step"] for one in callback.done] == [0, 2, 3]  # the first loss is logged behind step 1
    sizes = model.config
    assert (sizes.intermediate_size, sizes.hidden_size, sizes.num_hidden_layers) == (30, 36, 3)
    assert callback.updates.entries.rewarm == (1.25, 9)
    assert callback.updates.step == STEPS - 3
    again = trainer_of(model, tmp_path, callback)
    again.train()  # begins anew with the grown model, which has all growths behind it
    assert len(callback.done) == 3
    fresh = trainer_of(make("llama").train(), tmp_path, callback)  # and a new model grows again
    fresh.train()
    assert fresh.model.config.hidden_size == 36


def test_what_a_trainer_has_set_stays(tmp_path):
    """bfloat16 autocast, gradient checkpointing, frozen parameters, a group of one's own, attributes and the mode."""
    model = make("llama-tied").train()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.note = "mine"
    groups = [{"params": [p], "lr": 1e-3 * (i + 1)} for i, p in enumerate(model.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(groups)
    trainer = trainer_of(
        model, tmp_path, GrowCallback(at_step=AT, to=UNEVEN), optimizers=(optimizer, None), bf16=True,
        gradient_checkpointing=True,
    )  # fmt: skip
    held = optimizer.param_groups
    trainer.train()
    assert model.note == "mine"
    assert gradient_checkpointing.enabled(model)
    assert model.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]
    assert trainer.optimizer.optimizer is optimizer
    assert len(optimizer.param_groups) == len(groups) == len(held)
    with torch.no_grad():
        assert model(**inputs(model.config, 9)).logits.dtype == torch.float32  # Accelerate's forward
    model.disable_input_require_grads()  # the handle of its hook is that of the grown embedding
    assert not model.model.embed_tokens._forward_hooks


def test_nothing_random_is_drawn_and_schedulers_go_on():
    model = make("gpt2").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    given = inputs(model.config, 9)
    groups, mode = optimizer.param_groups[0], torch.get_rng_state()
    growth = grow_in_place(model, {"hidden": 24}, optimizer=optimizer, batch=given, verify=False)
    assert torch.equal(mode, torch.get_rng_state())
    assert (growth.model, growth.optimizer) == (model, optimizer)
    model(**given, labels=given["input_ids"]).loss.backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0] is groups
    assert groups["lr"] == pytest.approx(9e-3)


def test_of_several_growths_a_resumed_run_knows_how_far_it_is(tmp_path):
    """Resumed between two of them, with old entries frozen: the next one comes, and the end is the same bits."""
    growths = [
        dict(at_step=1, to={"ffn": 40}, freeze_old=True),
        dict(at_step=3, to=UNEVEN | {"ffn": 41}, rewarm=(2, 9)),
    ]
    model = make("llama").train()
    trainer_of(model, tmp_path, GrowCallback(growths), save_strategy="steps", save_steps=2).train()
    middle = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert middle.config.intermediate_size == 40
    callback = GrowCallback(growths)
    trainer_of(middle, tmp_path / "x", callback).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [one["step"] for one in callback.done] == [1, 3]
    assert same(weights(middle), weights(model))


def test_two_optimizers_grow_in_place():
    model = make("llama").train()
    flat, rest = ([p for p in model.parameters() if (p.ndim == 1) is one] for one in (True, False))
    optimizers = [torch.optim.SGD(flat, lr=0.1, momentum=0.9), torch.optim.AdamW(rest, lr=1e-2)]
    given = inputs(model.config, 9)

    def step() -> float:
        loss = model(**given, labels=given["input_ids"]).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    step()
    before = model(**given).logits.detach()
    growth = grow_in_place(model, THRICE, optimizer=optimizers, batch=given, verify=False)
    assert growth.optimizer is optimizers
    torch.testing.assert_close(model(**given).logits, before, rtol=0, atol=1e-4)
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    old = weights(model)
    step()
    assert all(not torch.equal(value, old[name]) for name, value in model.named_parameters())
