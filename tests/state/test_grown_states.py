"""Training states from file to file: what grows obeys the rule, what begins from it goes on as if nothing had happened.

Tiny models on random tokens. The rule itself is held against autograd here too: in a run whose first step is of rate
1e-30 the weights stay, the moments are (1 - β) times the gradient, and growing that is the gradient of the grown model.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from grown_states import COPIES, EVEN, EXACT, STILL, going, refused, short, values, wanted, widen
from safetensors.torch import load_file
from training import QUICK, apart, curve, same, tokens, trained, weights
from transformers import AutoModelForCausalLM

import grow
from grow.data import Corpus, Loader
from grow.errors import BadInput
from grow.optimizer.dual_rule import rates_of
from grow.optimizer.state.find import open_state
from grow.optimizer.state.parameter_names import bare_model, pairs

GROWTHS = {
    "2x": ("llama-tied", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 56}, COPIES),
    "3x": ("gpt2", {"hidden": 36, "heads": 9, "ffn": 100}, COPIES),
    "no-multiple": ("llama", {"hidden": 30, "ffn": 40}, {"operators": {"hidden": "copies"}, "split": "even"}),
    "silent": ("llama-tied", {"hidden": 24, "head_dim": 12, "heads": 8, "kv_heads": 2}, EVEN),
    "deeper": ("gpt2", {"layers": 5}, EVEN),
    "both": ("llama-tied", {"hidden": 54, "ffn": 31, "layers": 4}, EVEN),
    "parted": ("opt-no-final-norm", {"hidden": 24, "layers": 3}, EVEN),
}


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
def test_a_step_then_growth_equals_growth_then_the_step(still, text, stepped, tmp_path, name):
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


def test_the_comparison_fails_for_a_state_that_grew_like_the_weights(still, text, stepped, tmp_path, monkeypatch):
    monkeypatch.setattr(grow.optimizer.dual_rule, "_scale", lambda f, power, copies: f.value**power)
    with pytest.raises(AssertionError, match="exp_avg"):
        test_a_step_then_growth_equals_growth_then_the_step(still, text, stepped, tmp_path, "2x")


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
    assert said.startswith('optimizer="adamw": the training state of ')
    assert f'optimizer="{optimizer}", or state="drop"' in said
    assert not (tmp_path / "adamw").exists()
    assert grow.train(growth.path, text, out=tmp_path / "adamw", state="drop", **{**QUICK, "steps": 1}).step == 1


def test_files_grow_as_models_in_memory_do(run, tmp_path):
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


def test_weights_in_full_precision_grow_beside_rounded_ones(tiny, text, tmp_path):
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


def test_a_run_from_a_checkpoint_goes_on_as_the_earlier_run_did(run, tiny, text, tmp_path):
    """Moments, weights, place in the text, schedule: bit for bit the uninterrupted run."""
    done = grow.train(run / "step-00000004", text, out=tmp_path / "on", continue_schedule=True, **short())
    assert (done.step, done.settings.begin, done.settings.skip, done.settings.warmup) == (8, 4, 24, 2)
    assert going(tmp_path / "on") == [line for line in going(run) if line["step"] > 4]
    assert same(weights(tmp_path / "on", 8), weights(run, 8))
    assert curve(tmp_path / "on")[0]["step"] == 4
    assert done.tokens == 4 * 6 * 16  # its own


@pytest.mark.parametrize("kind", ["dropout", "adafactor", "muon"])
def test_runs_with_masks_and_other_optimizers_go_on_too(tiny, text, tmp_path, kind):
    source = tiny("gpt2" if kind == "dropout" else "llama")
    options = {**QUICK, "optimizer": "adamw" if kind == "dropout" else kind}
    whole = grow.train(source, text, out=tmp_path / "run", **options).path
    more = {**short(), "optimizer": options["optimizer"]}
    grow.train(whole / "step-00000002", text, out=tmp_path / "on", continue_schedule=True, **more)
    assert going(tmp_path / "on") == [line for line in going(whole) if line["step"] > 2]
    assert same(weights(tmp_path / "on"), weights(whole))


def test_a_grown_run_goes_on_in_its_text_and_schedule(run, grown, text, tmp_path):
    done = grow.train(grown, text, out=tmp_path / "on", continue_schedule=True, source=run / "step-00000004", **short())
    assert done.step == 8
    assert "reading goes on after 24 sequences" in done.notes
    assert "continues from the training state after step 4: moments of AdamW, weights in full precision" in done.notes
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


def test_another_text_or_seed_is_read_from_its_beginning(grown, text, tmp_path):
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
    assert 'resume=True: state="drop": ' in refused(BadInput, grow.train, out=cut, resume=True, state="drop")
    assert "resume=True: skip=3: " in refused(BadInput, grow.train, out=cut, resume=True, skip=3)
    plain = grow.train(grown, text, out=tmp_path / "plain", state="drop", **{**QUICK, "steps": 1})
    said = refused(BadInput, grow.train, out=plain.path, resume=True, continue_schedule=True)
    assert "resume=True: continue_schedule=True: " in said


def test_two_processes_begin_from_a_state_as_one_does(grown, text, tmp_path):
    """Each reads its rows of the state; what they save grows as one state."""
    options = {**QUICK, "steps": 2}
    one = grow.train(grown, text, out=tmp_path / "one", **options)
    line = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    trained(2, tmp_path, "--from", grown, "--data", text, "--out", tmp_path / "two", *line)
    assert apart(one.path, tmp_path / "two") < 1e-6  # sums of float32 in another order
    assert len(list((tmp_path / "two" / "step-00000002" / "state").glob("*.distcp"))) == 2
    a, b = (
        values(widen(p / "step-00000002", tmp_path / f"{p.name}-grown", to={"hidden": 72}).path)
        for p in (one.path, tmp_path / "two")
    )
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-6) for name in a)
