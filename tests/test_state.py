"""Training states from file to file: what grows obeys the rule, what begins from it goes on as if nothing had happened.

Tiny models on random tokens. The rule itself is held against autograd here too: in a run whose first step is of rate
1e-30 the weights stay, the moments are (1 - β) times the gradient, and growing that is the gradient of the grown model.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as files
import torch
from safetensors.torch import load_file, save_file
from test_train import QUICK, apart, curve, same, tokens, torchrun, weights
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import grow
from grow.data import Corpus, Loader
from grow.errors import BadInput, GrowError, Refused
from grow.integrations.trainer_state import load_trainer_state
from grow.optimizer.dual_rule import new_entries_of, rates_of
from grow.optimizer.state.find import open_state
from grow.optimizer.state.in_files import POWERS
from grow.optimizer.state.of_trainer import trainer_order
from grow.optimizer.state.parameter_names import bare_model, pairs
from grow.optimizer.torch_classes import STEP
from grow.training.settings.run_settings import Settings

# A gradient summed in another order in float64, relative to the tensor's largest: measured up to 3e-14.
EXACT = 1e-12
EVEN = {"split": "even"}
COPIES = {"operators": {"ffn": "copies", "heads": "copies"}, "split": "even"}
STILL: dict[str, Any] = {**QUICK, "lr": 1e-30, "clip": 0.0, "weight_decay": 0.0, "dtype": "float64", "steps": 1}

GROWTHS = {
    "2x": ("llama-tied", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 56}, COPIES),
    "3x": ("gpt2", {"hidden": 36, "heads": 9, "ffn": 100}, COPIES),
    "no-multiple": ("llama", {"hidden": 30, "ffn": 40}, {"operators": {"hidden": "copies"}, "split": "even"}),
    "silent": ("llama-tied", {"hidden": 24, "head_dim": 12, "heads": 8, "kv_heads": 2}, EVEN),
    "deeper": ("gpt2", {"layers": 5}, EVEN),
    "both": ("llama-tied", {"hidden": 54, "ffn": 31, "layers": 4}, EVEN),
    "parted": ("opt-no-final-norm", {"hidden": 24, "layers": 3}, EVEN),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens", 1500)


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> Path:
    """Eight steps of a tiny Llama; step-00000004 is in the stable phase of its schedule."""
    out = tmp_path_factory.mktemp("run") / "run"
    grow.train(tiny("llama-tied"), text, out=out, **{**QUICK, "steps": 8, "warmup": 2, "decay": 3})
    return out


@pytest.fixture(scope="module")
def grown(run, tmp_path_factory) -> Path:
    """Of step 4, wider and deeper."""
    return widen(run / "step-00000004", tmp_path_factory.mktemp("grown") / "grown").path


def widen(source: Path, out: Path, **options: Any) -> grow.Growth:
    given = {"to": {"hidden": 36, "layers": 3}, **EVEN, "verify": False, **options}
    return grow.widen(source, given.pop("to"), out=out, **given)


def values(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Everything that a state holds."""
    with open_state(path, **options) as state:
        return {name: state.whole(name) for name in state.tensors}


def refused(kind: type[GrowError], call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as error:
        call(*arguments, **options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    return str(error.value)


def wanted(source: Path, growth: grow.Growth, policy: str) -> dict[str, torch.Tensor]:
    """The moments of a growth, entry by entry from `grow.rates` and its maps: not how it computes them."""
    old, found = values(source), {}
    models = bare_model(source), bare_model(source, growth.plan.new_config)
    for name, t, new in pairs(growth.plan, *models):
        places = [np.arange(n) if m is None else np.maximum(m.source, 0) for m, n in zip(t.maps, t.new_shape)]
        gamma, fresh = rates_of(t).gradient, new_entries_of(t)
        for key, power in {**POWERS, STEP: 0}.items():
            if (before := old.get(f"optim.{name}.{key}")) is None:
                continue
            if key == STEP:
                found[f"optim.{new}.{key}"] = before
                continue
            if before.shape != t.shape:  # of a factored second moment its product is told: see below
                continue
            value = before[np.ix_(*places)] * gamma**power
            found[f"optim.{new}.{key}"] = torch.where(fresh, 0, value) if policy == "fresh-new" else value
    return found


# What grows


@pytest.mark.parametrize(
    ("name", "policy"), [*((name, "fresh-new") for name in GROWTHS), ("3x", "carry"), ("both", "carry")]
)
def test_moments_grow_by_the_rule_under_their_names(stepped, tmp_path, name, policy):
    variant, to, options = GROWTHS[name]
    source = stepped(variant)
    growth = widen(source, tmp_path / "grown", to=to, state=policy, **options)
    found = values(growth.path)
    model = bare_model(growth.path)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert {n for n in found if n.startswith("model.")} == {f"model.{n}" for n in shapes}
    assert {n for n in found if n.startswith("optim.")} == {
        f"optim.{n}.{key}" for n in shapes for key in ("exp_avg", "exp_avg_sq", "step")
    }
    for tensor, value in wanted(source, growth, policy).items():
        torch.testing.assert_close(found[tensor], value, rtol=1e-15, atol=0, msg=tensor)
    record = json.loads((growth.path / "grow.json").read_text())
    assert record["state"] == {"policy": policy, "optimizers": ["AdamW"], "step": 1, "tensors": len(found)}
    stored = load_file(growth.path / "model.safetensors")
    for n, value in stored.items():
        prefixed = next(p for p in (f"model.{n}", f"model.{model.base_model_prefix}.{n}") if p in found)
        assert torch.equal(found[prefixed], value)  # stored in float64: the same numbers


@pytest.mark.parametrize("name", ["2x", "3x", "no-multiple", "deeper", "both"])
def test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, name):
    """Both through files: moments of the grown run's first step against those of the source's, grown."""
    variant, to, options = GROWTHS[name]
    first = widen(stepped(variant), tmp_path / "then", to=to, state="carry", **options)
    before = widen(still(variant), tmp_path / "before", to=to, **options)
    after = grow.train(before.path, text, out=tmp_path / "run", **STILL).checkpoint
    one, two, checked = values(first.path), values(after), 0
    for _, t, new in pairs(first.plan, bare_model(stepped(variant)), bare_model(first.path)):
        where = rates_of(t).value != 0
        for key in ("exp_avg", "exp_avg_sq"):
            a, b = (some[f"optim.{new}.{key}"][where] for some in (one, two))
            if where.any() and b.abs().max() > 1e-24:  # a key's bias without RoPE has rounding for a gradient
                checked += 1
                assert ((a - b).abs().max() / b.abs().max()).item() < EXACT, f"{new}.{key}"
    assert checked > 12


def test_the_comparison_notices_a_state_that_grew_like_the_weights(still, text, stepped, tmp_path, monkeypatch):
    monkeypatch.setattr(grow.optimizer.dual_rule, "_scale", lambda f, power, copies: f.value**power)
    with pytest.raises(AssertionError, match="exp_avg"):
        test_a_step_and_then_growth_is_growth_and_then_the_step(still, text, stepped, tmp_path, "2x")


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_other_optimizers_grow_along_and_go_on(run, tiny, text, tmp_path, optimizer):
    options = {**QUICK, "optimizer": optimizer}
    source = grow.train(tiny("llama-tied"), text, out=tmp_path / "run", **options).checkpoint
    growth = widen(source, tmp_path / "grown", state="carry")
    found = values(growth.path)
    for tensor, value in wanted(source, growth, "carry").items():
        assert torch.equal(found[tensor], value), tensor
    assert grow.train(growth.path, text, out=tmp_path / "then", **options).step == 4
    said = refused(BadInput, grow.train, growth.path, text, out=tmp_path / "adamw", **QUICK)
    assert said.startswith("--optimizer adamw: the training state of ")
    assert f"--optimizer {optimizer}, or --state drop" in said
    assert not (tmp_path / "adamw").exists()
    assert grow.train(growth.path, text, out=tmp_path / "adamw", state="drop", **{**QUICK, "steps": 1}).step == 1


def test_files_grow_as_memory_does(run, tmp_path):
    """The same states, bit for bit, and the same weights."""
    source = run / "step-00000004"
    model = AutoModelForCausalLM.from_pretrained(source)
    state = values(source)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(state[f"model.{name}"])
    optimizer = torch.optim.AdamW(model.parameters())
    for name, p in named.items():
        optimizer.state[p] = {key: state[f"optim.{name}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
    for policy in ("fresh-new", "carry"):
        # drawn shares: files and memory draw the same
        options: dict[str, Any] = {"to": {"hidden": 36, "layers": 3}, "seed": 5, "verify": False, "state": policy}
        growth = grow.widen(source, options.pop("to"), out=tmp_path / policy, **options)
        memory = grow.widen(model, {"hidden": 36, "layers": 3}, optimizer=optimizer, **options)
        found = values(growth.path)
        for name, p in memory.model.named_parameters():
            assert torch.equal(found[f"model.{name}"], p)
            for key, value in memory.optimizer.state[p].items():
                assert torch.equal(found[f"optim.{name}.{key}"], value), f"{name}.{key}"


def test_weights_in_full_precision_beside_rounded_ones(tiny, text, tmp_path):
    """A bfloat16 checkpoint: the state's float32 weights grow apart from the stored ones and compute the same."""
    source = grow.train(tiny("llama", "bfloat16"), text, out=tmp_path / "run", **QUICK).checkpoint
    growth = widen(source, tmp_path / "grown")
    found, stored = values(growth.path), load_file(growth.path / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    for name, value in stored.items():
        assert found[f"model.{name}"].dtype == torch.float32
        assert ((found[f"model.{name}"] - value).abs() <= value.float().abs() * 2**-7 + 1e-30).all(), name
    done = grow.train(growth.path, text, out=tmp_path / "then", source=source, **{**QUICK, "steps": 1})
    assert "moments of AdamW, weights in full precision" in " ".join(done.notes)
    assert done.notes[-1].startswith("the validation loss before the first step is the source's")
    first = curve(tmp_path / "then")[0]["val_loss"]
    last = curve(tmp_path / "run")[-1]["val_loss"]
    assert abs(first - last) < 1e-6  # float32 sums; the stored weights alone differ by 1e-3
    shutil.rmtree(source / "state")
    plain = grow.train(source, text, out=tmp_path / "plain", **{**QUICK, "steps": 1})
    assert abs(curve(plain.path)[0].get("val_loss", last + 1) - last) > 1e-5


def test_a_grown_state_grows_again_and_a_dropped_one_is_gone(grown, tmp_path):
    again = widen(grown, tmp_path / "again", to={"hidden": 72, "layers": 3}, state="carry")
    found = values(again.path)
    for tensor, value in wanted(grown, again, "carry").items():
        assert torch.equal(found[tensor], value), tensor
    dropped = widen(grown, tmp_path / "dropped", state="drop", to={"hidden": 72})
    assert not (dropped.path / "state").exists()
    assert "state" not in json.loads((dropped.path / "grow.json").read_text())
    plain = widen(dropped.path, tmp_path / "plain", to={"hidden": 144})
    assert open_state(plain.path) is None


# What begins from it


def test_a_run_that_begins_from_a_step_goes_on_as_the_run_did(run, tiny, text, tmp_path):
    """Moments, weights, place in the text, schedule: bit for bit the uninterrupted run."""
    done = grow.train(run / "step-00000004", text, out=tmp_path / "on", continue_schedule=True, **short())
    assert (done.step, done.settings.begin, done.settings.skip, done.settings.warmup) == (8, 4, 24, 2)
    assert going(tmp_path / "on") == [line for line in going(run) if line["step"] > 4]
    assert same(weights(tmp_path / "on", 8), weights(run, 8))
    assert curve(tmp_path / "on")[0]["step"] == 4
    assert done.tokens == 4 * 6 * 16  # its own


@pytest.mark.parametrize("kind", ["dropout", "adafactor", "muon"])
def test_masks_and_other_optimizers_go_on_too(tiny, text, tmp_path, kind):
    source = tiny("gpt2" if kind == "dropout" else "llama")
    options = {**QUICK, "optimizer": "adamw" if kind == "dropout" else kind}
    whole = grow.train(source, text, out=tmp_path / "run", **options).path
    more = {**short(), "optimizer": options["optimizer"]}
    grow.train(whole / "step-00000002", text, out=tmp_path / "on", continue_schedule=True, **more)
    assert going(tmp_path / "on") == [line for line in going(whole) if line["step"] > 2]
    assert same(weights(tmp_path / "on"), weights(whole))


def short() -> dict[str, Any]:
    """Without what belongs to the schedule."""
    return {k: v for k, v in QUICK.items() if k not in ("steps", "warmup", "decay", "lr")}


def going(path: Path) -> list[dict[str, float]]:
    """Of every step, without what is counted from the beginning of a run."""
    return [
        {k: v for k, v in line.items() if k in ("step", "loss", "lr", "grad_norm")}
        for line in curve(path)
        if "lr" in line
    ]


def test_a_grown_run_goes_on_in_its_text_and_schedule(run, grown, text, tmp_path):
    done = grow.train(grown, text, out=tmp_path / "on", continue_schedule=True, source=run / "step-00000004", **short())
    assert done.step == 8
    assert "reading goes on behind 24 sequences" in done.notes
    assert "continues from the training state behind step 4: moments of AdamW, weights in full precision" in done.notes
    assert [line["lr"] for line in going(tmp_path / "on")] == [line["lr"] for line in going(run)][4:]
    again = grow.train(grown, text, out=tmp_path / "anew", **{**QUICK, "steps": 2})
    assert (again.settings.begin, again.settings.skip) == (0, 24)
    assert curve(tmp_path / "anew")[1]["loss"] == curve(tmp_path / "on")[1]["loss"]  # the same text
    assert curve(tmp_path / "anew")[1]["lr"] == QUICK["lr"]
    further = grow.train(done.checkpoint, text, out=tmp_path / "further", **{**QUICK, "steps": 1})
    assert further.settings.skip == 48
    assert json.loads((further.path / "run.json").read_text())["carried"]["tokens"] == 8 * 6 * 16


def test_the_first_update_is_the_one_computed_by_hand(stepped, text, tmp_path):
    source = stepped("llama-tied")
    growth = widen(source, tmp_path / "grown", to={"hidden": 36}, state="carry")
    rate, decay, eps, (b1, b2) = 1e-3, 0.1, 1e-8, (0.9, 0.95)
    options = {**STILL, "lr": rate, "weight_decay": decay, "rewarm": None}
    done = grow.train(growth.path, text, out=tmp_path / "run", **options)
    old, new = values(growth.path), values(done.checkpoint)
    for name in [n.removeprefix("model.") for n in old if n.startswith("model.")]:
        m0, v0, m1, v1 = (some[f"optim.{name}.{key}"] for some in (old, new) for key in ("exp_avg", "exp_avg_sq"))
        assert new[f"optim.{name}.step"] == 2
        gradient = (m1 - b1 * m0) / (1 - b1)
        torch.testing.assert_close(v1, b2 * v0 + (1 - b2) * gradient**2, rtol=1e-9, atol=1e-18)
        matrix = old[f"model.{name}"].ndim > 1 and "embed" not in name
        kept = old[f"model.{name}"] * (1 - rate * decay * matrix)
        by_hand = kept - rate * (m1 / (1 - b1**2)) / ((v1 / (1 - b2**2)).sqrt() + eps)
        torch.testing.assert_close(new[f"model.{name}"], by_hand, rtol=1e-12, atol=1e-14)
        assert m0.any()


def test_a_text_or_seed_of_its_own_begins_at_the_beginning(grown, text, tmp_path):
    one = {**QUICK, "steps": 1}
    other = tokens(tmp_path / "other", 900, seed=7)
    for k, (data, more, what) in enumerate(
        [(other, {}, "another text"), (text, {"seed": 3}, "another seed"), (text, {"length": 12}, "another length")]
    ):
        done = grow.train(grown, data, out=tmp_path / f"{k}", **{**one, **more})
        assert done.settings.skip == 0
        assert f"the text is read from its beginning: {what} than before" in done.notes
    given = grow.train(grown, other, out=tmp_path / "given", skip=5, **one)
    assert given.settings.skip == 5
    corpus = Corpus.open(text).split("train")
    plain, later = (Loader([corpus], length=16, batch=6, skip=skip) for skip in (0, 9))
    ids = [np.concatenate([loader.batch(step).ids for step in range(4)]) for loader in (plain, later)]
    assert np.array_equal(ids[0][9:], ids[1][:-9])


def test_resume_keeps_what_the_run_began_from(grown, text, tmp_path):
    options = {**short(), "save_every": 2}
    whole = grow.train(grown, text, out=tmp_path / "whole", continue_schedule=True, **options)
    cut = shutil.copytree(whole.path, tmp_path / "cut")
    shutil.rmtree(cut / "step-00000008")
    assert grow.train(out=cut, resume=True).step == 8
    assert curve(cut) == curve(whole.path)
    assert same(weights(cut, 8), weights(whole.path, 8))
    for step in (6, 8):  # interrupted before its first checkpoint
        shutil.rmtree(cut / f"step-0000000{step}")
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:2]))
    assert grow.train(out=cut, resume=True, state="carry", continue_schedule=True).step == 8
    assert curve(cut) == curve(whole.path)
    assert "--resume: state: is drop" in refused(BadInput, grow.train, out=cut, resume=True, state="drop")
    assert "--resume: skip: is 3" in refused(BadInput, grow.train, out=cut, resume=True, skip=3)
    plain = grow.train(grown, text, out=tmp_path / "plain", state="drop", **{**QUICK, "steps": 1})
    said = refused(BadInput, grow.train, out=plain.path, resume=True, continue_schedule=True)
    assert "--resume: continue-schedule" in said


def test_two_processes_begin_and_end_as_one(grown, text, tmp_path):
    """Each reads its rows of the state; what they save grows as one state."""
    options = {**QUICK, "steps": 2}
    one = grow.train(grown, text, out=tmp_path / "one", **options)
    line = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    done = torchrun(2, "--from", grown, "--data", text, "--out", tmp_path / "two", *line)
    assert done.returncode == 0, done.stderr
    assert apart(one.path, tmp_path / "two") < 1e-6  # sums of float32 in another order
    assert len(list((tmp_path / "two" / "step-00000002" / "state").glob("*.distcp"))) == 2
    a, b = (
        values(widen(p / "step-00000002", tmp_path / f"{p.name}-grown", to={"hidden": 72}).path)
        for p in (one.path, tmp_path / "two")
    )
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-6) for name in a)


# A stock Trainer's folder


@pytest.fixture(scope="module")
def trainer(tiny, tmp_path_factory):
    """`trainer("adafactor", out, model, resume)`: checkpoint-4 and -2 of a stock Trainer, and what it began with."""
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 41, (24, 12), generator=draw)]

    class Keep(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **_):
            self.step = state.global_step
            self.found = copy.deepcopy(getattr(optimizer, "optimizer", optimizer).state_dict())

    def train(optim: str, out: Path, model: Any, resume: Path | None = None, optimizers=(None, None)):
        loaded = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, Path) else model
        arguments = TrainingArguments(
            output_dir=str(out), max_steps=4, save_steps=2, per_device_train_batch_size=3, learning_rate=1e-3,
            weight_decay=0.1, optim=optim, report_to=[], use_cpu=True, disable_tqdm=True, seed=1,
        )  # fmt: skip
        keep = Keep()
        made = Trainer(loaded, arguments, train_dataset=rows, callbacks=[keep], optimizers=optimizers)
        made.train(resume_from_checkpoint=None if resume is None else str(resume))
        return out / "checkpoint-4", keep

    return train


@pytest.fixture(scope="module", params=["adamw_torch", "adafactor"])
def trained(request, trainer, tiny, tmp_path_factory) -> tuple[str, Path]:
    """(optim, checkpoint-2 of a Trainer)."""
    out = tmp_path_factory.mktemp("trainer") / request.param
    return request.param, trainer(request.param, out, tiny("llama-tied"))[0].with_name("checkpoint-2")


@pytest.fixture(scope="module")
def adamw(trainer, tiny, tmp_path_factory) -> Path:
    return trainer("adamw_torch", tmp_path_factory.mktemp("adamw") / "out", tiny("llama-tied"))[0].with_name(
        "checkpoint-2"
    )


def test_a_trainer_goes_on_with_what_grew(trained, trainer, tmp_path):
    optim, source = trained
    growth = widen(source, tmp_path / "grown", state="carry")
    assert {"optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"} <= {
        p.name for p in growth.path.iterdir()
    }
    last, keep = trainer(optim, tmp_path / "out", growth.path, growth.path)
    assert keep.step == 2
    numbered = [name for names in trainer_order(bare_model(growth.path)) for name in names]
    state, moments = keep.found["state"], values(growth.path)
    assert len(state) == len(numbered)
    groups = torch.load(source / "optimizer.pt", weights_only=True)["param_groups"]
    assert [g["weight_decay"] for g in keep.found["param_groups"]] == [g["weight_decay"] for g in groups] == [0.1, 0.0]
    for number, name in enumerate(numbered):
        for key, value in wanted(source, growth, "carry").items():
            if key.startswith(f"optim.{name}."):
                own = {"variance": "exp_avg_sq"}.get(key.rpartition(".")[2], key.rpartition(".")[2])
                assert torch.equal(torch.as_tensor(state[number][own]).float(), value), key
        if "exp_avg_sq_row" in state[number]:
            for own, key in (("exp_avg_sq_row", "row_var"), ("exp_avg_sq_col", "col_var")):
                assert torch.equal(state[number][own].flatten(), moments[f"optim.{name}.{key}"].flatten())
    after = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    assert all(int(entries["step"]) == 4 for entries in after.values())
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == 4


def test_memory_takes_a_trainers_state_too(trained, trainer, tmp_path):
    optim, source = trained
    growth = widen(source, tmp_path / "grown", state="fresh-new")
    grown = grow.widen(AutoModelForCausalLM.from_pretrained(source), {"hidden": 36, "layers": 3}, verify=False, **EVEN)
    optimizer = load_trainer_state(source, grown.model, grown.plan)
    stored = torch.load(growth.path / "optimizer.pt", weights_only=True)
    assert same_state(optimizer.state_dict()["state"], stored["state"])
    assert trainer(optim, tmp_path / "out", grown.model, optimizers=(optimizer, None))[1].step == 0
    model = AutoModelForCausalLM.from_pretrained(source)
    assert same_state(
        load_trainer_state(source, model).state_dict()["state"],
        torch.load(source / "optimizer.pt", weights_only=True)["state"],
    )
    assert not load_trainer_state(source, grown.model, grown.plan, state="drop").state
    said = refused(BadInput, load_trainer_state, source, grown.model)
    assert "load_trainer_state(checkpoint, grown.model, grown.plan)" in said


def same_state(a: dict, b: dict) -> bool:
    def equal(x: dict, y: dict) -> bool:
        return all(torch.equal(torch.as_tensor(x[k]).float(), torch.as_tensor(y[k]).float()) for k in y if k != "RMS")

    return a.keys() == b.keys() and all(equal(a[n], b[n]) for n in b)


def test_our_loop_goes_on_where_a_trainer_was(trained, text, tmp_path):
    optim, source = trained
    optimizer = {"adamw_torch": "adamw", "adafactor": "adafactor"}[optim]
    other = {"adamw": "adafactor", "adafactor": "adamw"}[optimizer]
    options = {**QUICK, "steps": 1}
    for k, path in enumerate((source, widen(source, tmp_path / "grown").path)):
        done = grow.train(path, text, out=tmp_path / f"{k}", optimizer=optimizer, **options)
        assert "a Trainer keeps no place" in " ".join(done.notes)
        steps = [value for name, value in values(done.checkpoint).items() if name.endswith(".step")]
        assert {int(step) for step in steps} == {3}
        assert f"--optimizer {optimizer}" in refused(
            BadInput, grow.train, path, text, out=tmp_path / "other", optimizer=other, **options
        )
        said = refused(
            BadInput,
            grow.train,
            path,
            text,
            out=tmp_path / "other",
            continue_schedule=True,
            optimizer=optimizer,
            **short(),
        )
        assert "needs the schedule" in said
    on = grow.train(
        source, text, out=tmp_path / "on", optimizer=optimizer, continue_schedule=True, **{**short(), "steps": 3}
    )
    assert (on.step, on.settings.begin, on.tokens) == (3, 2, 96)


# What is wrong


def test_a_state_that_is_not_there_is_an_error_where_it_is_named(tiny, text, tmp_path):
    source = tiny("llama")
    for policy in ("carry", "fresh-new"):
        said = refused(BadInput, widen, source, tmp_path / "grown", state=policy)
        assert f'state="{policy}": {source} has no training state' in said
    said = refused(BadInput, widen, source, tmp_path / "grown", state="cary")
    assert "did you mean 'carry'?" in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", state="carry", **QUICK)
    assert "has no training state" in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", state="fresh", **QUICK)
    assert "--state fresh: no such choice" in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", continue_schedule=True, **QUICK)
    assert "--continue-schedule: there is no training state" in said
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_cannot_go_on(run, text, tmp_path):
    call: dict[str, Any] = {"out": tmp_path / "run", "continue_schedule": True, **short()}
    said = refused(BadInput, grow.train, run / "step-00000008", text, **call)
    assert "the state is behind step 8, and the run ends with step 8" in said
    said = refused(BadInput, grow.train, run / "step-00000008", text, steps=12, **call)
    assert "with another steps the 8 steps so far would have had other rates" in said
    said = refused(BadInput, grow.train, run / "step-00000004", text, begin=2, **call)
    assert "--begin 2: cannot be" in said
    said = refused(BadInput, grow.train, run / "step-00000004", text, skip=-1, **call)
    assert "--skip -1" in said
    assert not (tmp_path / "run").exists()
    longer = grow.train(run / "step-00000004", text, steps=10, **call)  # before the decay it may be prolonged
    assert [line["step"] for line in going(longer.path)] == [5, 6, 7, 8, 9, 10]
    by_tokens = grow.train(run / "step-00000004", text, **{**call, "out": tmp_path / "tokens"}, tokens=5 * 6 * 16)
    assert by_tokens.step == 9


def damaged(path: Path, change: str) -> None:
    """One fault of a grown state."""
    state = path / "state"
    if change == "truncated":
        os.truncate(state / "model.safetensors", 5000)
    elif change == "gone":
        (state / "model.safetensors").unlink()
    elif change == "document":
        (state / "train.json").unlink()
    elif change == "json":
        files.edit_json(state / "train.json", lambda d: d["carried"].pop("step"))
    else:
        tensors = load_file(state / "model.safetensors")
        name = "optim.model.layers.0.mlp.up_proj.weight"
        if change == "half":
            del tensors[f"{name}.exp_avg_sq"]
        elif change == "weight":
            del tensors["model.model.norm.weight"]
        elif change == "shape":
            tensors[f"{name}.exp_avg"] = tensors[f"{name}.exp_avg"].T.contiguous()
        elif change == "name":
            tensors["optim.model.other.exp_avg"] = torch.zeros(2)
        elif change == "nan":
            tensors[f"{name}.exp_avg"][0, 0] = torch.nan
        save_file(tensors, state / "model.safetensors")
        size = (state / "model.safetensors").stat().st_size
        files.edit_json(state / "train.json", lambda d: d["files"].update({"model.safetensors": size}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("truncated", "missing or of another size"),
        ("gone", "missing or of another size"),
        ("document", "state/ has no train.json"),
        ("json", "train.json: TypeError"),
        ("half", "half: model.layers.0.mlp.up_proj.weight (exp_avg, step)"),
        ("weight", "half: model.model.norm.weight"),
        ("shape", "of another shape: optim.model.layers.0.mlp.up_proj.weight.exp_avg"),
        ("name", "of no parameter: model.other"),
        ("nan", "is not finite"),
    ],
)
def test_a_damaged_state_is_never_used_and_never_passed_over(grown, text, tmp_path, change, words):
    path = shutil.copytree(grown, tmp_path / "grown")
    damaged(path, change)
    for call in (
        lambda: widen(path, tmp_path / "more", to={"hidden": 72}, state="carry"),
        lambda: widen(path, tmp_path / "more", to={"hidden": 72}, state="fresh-new"),
        lambda: grow.train(path, text, out=tmp_path / "run", **QUICK),
    ):
        said = refused(BadInput, call)
        assert words in said
        assert 'state="drop"' in said
    assert {p.name for p in tmp_path.iterdir()} == {"grown"}
    plain = widen(path, tmp_path / "plain", to={"hidden": 72})
    told_that_it_stays(plain, words)
    dropped = widen(path, tmp_path / "more", to={"hidden": 72}, state="drop")
    assert not any("training state" in note for note in dropped.notes)
    assert same(load_file(plain.path / "model.safetensors"), load_file(dropped.path / "model.safetensors"))


def told_that_it_stays(growth: grow.Growth, words: str) -> None:
    """Nobody asked for the state: one note says why it is not there, and nothing of it is."""
    said = [note for note in growth.notes if "training state" in note]
    assert len(said) == 1, said
    assert "stays behind: " in said[0]
    assert words in said[0]
    assert not {p.name for p in growth.path.iterdir()} & {"state", "optimizer.pt", "scheduler.pt", "trainer_state.json"}
    assert "state" not in files.read_json(growth.path / "grow.json")


def test_a_damaged_state_of_a_run(run, text, tmp_path):
    path = shutil.copytree(run / "step-00000004", tmp_path / "step")
    part = path / "state" / "__0_0.distcp"
    raw = bytearray(part.read_bytes())
    raw[: len(raw) // 2] = bytes(len(raw) // 2)
    part.write_bytes(raw)
    assert "is no tensor" in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
    assert "is no tensor" in refused(BadInput, grow.train, path, text, out=tmp_path / "run", **QUICK)
    part.unlink()
    assert "missing" in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
    assert {p.name for p in tmp_path.iterdir()} == {"step"}
    told_that_it_stays(widen(path, tmp_path / "grown"), "missing")


def test_a_strangers_state_stays_behind_unless_trusted(run, text, tmp_path, monkeypatch):
    source = run / "step-00000004"
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    growth = widen(source, tmp_path / "grown")
    assert "stays behind" in growth.notes[-1]
    assert "you are user 4321" in growth.notes[-1]
    assert not (growth.path / "state").exists()
    for call in (
        lambda: widen(source, tmp_path / "more", state="carry"),
        lambda: grow.train(source, text, out=tmp_path / "run", **QUICK),
    ):
        assert "trust_checkpoint=True" in refused(BadInput, call)
    assert open_state(widen(source, tmp_path / "more", trust_checkpoint=True).path) is not None
    done = grow.train(source, text, out=tmp_path / "run", trust_checkpoint=True, **{**QUICK, "steps": 1})
    assert "continues from the training state" in " ".join(done.notes)


def test_what_has_no_rule_stays_behind_or_is_refused(run, tmp_path):
    source = run / "step-00000004"
    lossy: dict[str, Any] = {"to": {"layers": 4}, "method": "gstack", "allow_lossy": True, "split": None}
    growth = widen(source, tmp_path / "lossy", **lossy)
    assert "stays behind: state=… cannot follow gstack, which is not exact here" in growth.notes[-1]
    assert "cannot follow gstack" in refused(Refused, widen, source, tmp_path / "no", state="carry", **lossy)
    assert not (tmp_path / "no").exists()


def edited(source: Path, to: Path, change: Any) -> Path:
    path = shutil.copytree(source, to)
    loaded = torch.load(path / "optimizer.pt", weights_only=True)
    change(loaded)
    torch.save(loaded, path / "optimizer.pt")
    return path


def swap(loaded: dict) -> None:
    loaded["state"][0], loaded["state"][5] = loaded["state"][5], loaded["state"][0]


def one_less(loaded: dict) -> None:
    number = loaded["param_groups"][1]["params"].pop()
    del loaded["state"][number]


def as_lion(loaded: dict) -> None:
    for entries in loaded["state"].values():
        del entries["exp_avg_sq"]


def as_8bit(loaded: dict) -> None:
    loaded["state"] = {n: {"state1": e["exp_avg"], "state2": e["exp_avg_sq"]} for n, e in loaded["state"].items()}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (swap, Refused, "its numbering does not fit the model of config.json"),
        (one_less, Refused, "a Trainer makes [15, 5] of LlamaForCausalLM"),
        (lambda x: x["param_groups"].reverse(), BadInput, "not numbered from 0 on"),
        (lambda x: x["state"][3].pop("exp_avg_sq"), BadInput, "half: "),
        (lambda x: x["state"][3]["exp_avg"].fill_(torch.inf), BadInput, "is not finite"),
        (lambda x: x["state"].clear(), Refused, "has not taken a step"),
        (lambda x: x.pop("param_groups"), BadInput, "is no optimizer's state"),
        (as_lion, Refused, "is of Lion"),
        (as_8bit, Refused, "is of an 8-bit optimizer"),
    ],
)
def test_a_trainers_state_that_does_not_fit(adamw, tmp_path, change, kind, words):
    path = edited(adamw, tmp_path / "checkpoint", change)
    said = refused(kind, widen, path, tmp_path / "grown", state="carry")
    assert words in said
    assert not (tmp_path / "grown").exists()
    told_that_it_stays(widen(path, tmp_path / "grown"), words)


def test_a_poisoned_or_cut_optimizer_is_not_opened(adamw, text, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = shutil.copytree(adamw, tmp_path / "checkpoint")
    whole = (path / "optimizer.pt").read_bytes()
    torch.save({"state": {0: Harm()}, "param_groups": []}, path / "optimizer.pt")
    zipped = (path / "optimizer.pt").read_bytes()
    for k, raw in enumerate((zipped, pickle.dumps(Harm()), whole[: len(whole) // 2], b"")):
        (path / "optimizer.pt").write_bytes(raw)
        words = "tensors and numbers alone are read"
        assert words in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
        refused(BadInput, grow.train, path, text, out=tmp_path / "run", **QUICK)
        told_that_it_stays(widen(path, tmp_path / f"without-{k}"), words)
        shutil.rmtree(tmp_path / f"without-{k}")
    assert not (tmp_path / "harm").exists()
    (path / "optimizer.pt").write_bytes(whole)
    (path / "scheduler.pt").unlink()
    said = refused(Refused, widen, path, tmp_path / "grown", state="carry")
    assert "scheduler.pt is missing, without which a Trainer begins with a fresh optimizer" in said
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint"}
    assert "scheduler.pt is missing" in widen(path, tmp_path / "grown").notes[-1]


def test_room_is_counted_and_nothing_half_written_stays(run, adamw, tmp_path, monkeypatch):
    from grow.optimizer.state import growth

    source = run / "step-00000004"
    planned = grow.plan(source, {"hidden": 36, "layers": 3}, **EVEN)
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * planned.nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "GB are free" in refused(BadInput, widen, source, tmp_path / "grown")  # weights and moments: 4 of them
    assert widen(source, tmp_path / "grown", state="drop").path.is_dir()
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "grown")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for name, path in (("write_document", source), ("write_trainer", adamw)):
        with monkeypatch.context() as here:
            here.setattr(growth, name, full)
            assert "the disk filled" in refused(BadInput, widen, path, tmp_path / "grown")
        assert list(tmp_path.iterdir()) == []


def test_the_commands(run, tmp_path, monkeypatch, capsys):
    source = run / "step-00000004"
    call = ("deepen", "--from", source, "--layers", 3, "--out", tmp_path / "grown", "--no-verify", "--state", "carry")
    code, out, err = files.command(monkeypatch, capsys, *call)
    assert code == 0, err
    assert "the training state came along (carry): AdamW behind step 4" in out + err
    code, _, err = files.command(
        monkeypatch, capsys, "widen", "--from", "small", "--to", "base", "--dry-run", "--state", "carry"
    )
    assert code == 2
    assert "has no training state" in err
    line = ("train", "--from", tmp_path / "grown", "--out", tmp_path / "run", "--state", "drop", "--continue-schedule")
    code, _, err = files.command(monkeypatch, capsys, *line, "--steps", 1)
    assert code == 2
    assert "--continue-schedule" in err


def test_settings_of_old_and_new_are_checked():
    stored = Settings(length=8).document()
    assert Settings.from_document(stored) == Settings(length=8)
    with pytest.raises(ValueError, match="begin"):
        Settings.from_document({k: v for k, v in stored.items() if k != "begin"})
