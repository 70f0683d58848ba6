"""Growing inside the stock `Trainer` and Accelerate: the same objects go on, and they go on as by hand."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from models import inputs, make
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import grow
from grow.integrations import GrowCallback, NewEntryUpdates, grow_in_place, parameter_groups
from grow.integrations.callback import check_arguments
from grow.integrations.in_place import rms_apart
from grow.models import gradient_checkpointing

STEPS, AT = 5, 2
THRICE = {"hidden": 54, "ffn": 84}  # from 18 and 28: × 3
UNEVEN = {"hidden": 24, "heads": 8, "ffn": 33, "layers": 3}  # from 18, 6, 28 and 2


class Ids(torch.utils.data.Dataset):
    """Sequences of 12 of the old tokens, drawn by their number."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(4, 41, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


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


def arguments(out: Path, **more: Any) -> TrainingArguments:
    """AdamW with decay and clipping, a warm-up and a cosine, no file written."""
    usual: dict[str, Any] = dict(max_steps=STEPS, per_device_train_batch_size=3, learning_rate=1e-2, weight_decay=0.1)
    usual |= dict(lr_scheduler_type="cosine", warmup_steps=1, max_grad_norm=1.0, seed=3, logging_steps=1)
    usual |= dict(report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no")
    return TrainingArguments(output_dir=str(out), **{**usual, **more})


def trainer_of(model, out: Path, *callbacks, collator=None, optimizers=(None, None), **more) -> Trainer:
    own = {"data_collator": collator} if collator else {}
    made = Trainer(
        model, arguments(out, **more), train_dataset=Ids(), callbacks=list(callbacks), optimizers=optimizers, **own
    )
    made.remove_callback(PrinterCallback)
    return made


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


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
    with pytest.raises(grow.BadInput, match="is none of the model's parameters"):
        grow_in_place(model, "2x", optimizer=torch.optim.SGD(make("llama").parameters()), verify=False)
    with pytest.raises(grow.BadInput, match="is a list"):
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
    with pytest.raises(grow.Refused, match="here are 2"):
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
    "a condition that is none": ({"to": "2x", "when": 3}, "when=3: cannot be called"),
    "an option that is none": (
        {"to": "2x", "at_step": 1, "plase": "top"},
        "plase: no such option; did you mean 'place'",
    ),
    "an option of files": ({"to": "2x", "at_step": 1, "out": "x"}, "out: no such option"),
    "a re-warming that is none": ({"to": "2x", "at_step": 1, "rewarm": (0, 5)}, r"rewarm=\(0, 5\): must be"),
    "descending steps": ({"growths": [{"to": "2x", "at_step": 3}, {"to": "2x", "at_step": 3}]}, "one after the other"),
    "nothing": ({"growths": []}, "one after the other"),
    "a list and more": ({"growths": [{"to": "2x", "at_step": 3}], "to": "2x"}, "given beside a list"),
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
    "an optimizer without a rule": ({"to": "2x"}, {"optim": "adafactor"}, "has a state that grow has not been told"),
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
    with pytest.raises(grow.BadInput, match="build the Trainer from it"):
        small.train(resume_from_checkpoint=folder)


@pytest.mark.parametrize("name", ["world_size", "n_gpu", "fsdp", "deepspeed", "torch_compile"])
def test_wrappers_are_refused(name):
    plain = dict(world_size=1, n_gpu=0, fsdp=[], deepspeed=None, torch_compile=False)
    check_arguments(SimpleNamespace(**plain))
    with pytest.raises(grow.Refused, match="wraps the model"):
        check_arguments(SimpleNamespace(**{**plain, name: 2}))
