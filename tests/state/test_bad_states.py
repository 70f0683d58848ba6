"""A state that is missing, damaged or owned by another user is never used, and never ignored in silence."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny as files
import torch
from grown_states import EVEN, going, refused, short, widen
from safetensors.torch import load_file, save_file
from training import QUICK, same

import grow
from grow.errors import BadInput, Refused
from grow.optimizer.state import grown_state
from grow.optimizer.state.find import open_state
from grow.training.settings.run_settings import Settings


@pytest.fixture(scope="module")
def adamw(trainer, tiny, tmp_path_factory) -> Path:
    return trainer("adamw_torch", tmp_path_factory.mktemp("adamw") / "out", tiny("llama-tied"))[0].with_name(
        "checkpoint-2"
    )


# What is wrong


def test_a_missing_state_is_an_error_where_it_is_asked_for(tiny, text, tmp_path):
    source = tiny("llama")
    for policy in ("carry", "fresh-new"):
        said = refused(BadInput, widen, source, tmp_path / "grown", state=policy)
        assert f'state="{policy}": {source} has no training state' in said
    said = refused(BadInput, widen, source, tmp_path / "grown", state="cary")
    assert "did you mean 'carry'?" in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", state="carry", **QUICK)
    assert "has no training state" in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", state="fresh", **QUICK)
    assert 'state="fresh": no such choice' in said
    said = refused(BadInput, grow.train, source, text, out=tmp_path / "run", continue_schedule=True, **QUICK)
    assert "continue_schedule=True: there is no training state" in said
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_that_cannot_go_on(run, text, tmp_path):
    call: dict[str, Any] = {"out": tmp_path / "run", "continue_schedule": True, **short()}
    said = refused(BadInput, grow.train, run / "step-00000008", text, **call)
    assert "the training state is that after step 8, and the run ends with step 8" in said
    said = refused(BadInput, grow.train, run / "step-00000008", text, steps=12, **call)
    assert "a change of steps would have given the 8 steps so far other learning rates" in said
    said = refused(BadInput, grow.train, run / "step-00000004", text, begin=2, **call)
    assert "begin=2: must be" in said
    said = refused(BadInput, grow.train, run / "step-00000004", text, skip=-1, **call)
    assert "skip=-1" in said
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
def test_a_damaged_state_is_never_used_and_always_reported(grown, text, tmp_path, change, words):
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
    """One note says why a state that was not asked for is not in the result, and no part of it is."""
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
    assert "is not a tensor" in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
    assert "is not a tensor" in refused(BadInput, grow.train, path, text, out=tmp_path / "run", **QUICK)
    part.unlink()
    assert "missing" in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
    assert {p.name for p in tmp_path.iterdir()} == {"step"}
    told_that_it_stays(widen(path, tmp_path / "grown"), "missing")


def test_a_state_of_another_user_stays_behind_unless_trusted(run, text, tmp_path, monkeypatch):
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


def test_a_state_that_no_rule_can_grow_stays_behind_or_is_refused(run, tmp_path):
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
        (lambda x: x.pop("param_groups"), BadInput, "is not an optimizer's state"),
        (as_lion, Refused, "belongs to Lion"),
        (as_8bit, Refused, "belongs to an 8-bit optimizer"),
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
        words = "only tensors and numbers are read"
        assert words in refused(BadInput, widen, path, tmp_path / "grown", state="carry")
        refused(BadInput, grow.train, path, text, out=tmp_path / "run", **QUICK)
        told_that_it_stays(widen(path, tmp_path / f"without-{k}"), words)
        shutil.rmtree(tmp_path / f"without-{k}")
    assert not (tmp_path / "harm").exists()
    (path / "optimizer.pt").write_bytes(whole)
    (path / "scheduler.pt").unlink()
    said = refused(Refused, widen, path, tmp_path / "grown", state="carry")
    assert "without scheduler.pt a Trainer begins with a fresh optimizer" in said
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint"}
    assert "without scheduler.pt a Trainer" in widen(path, tmp_path / "grown").notes[-1]


def test_disk_space_is_checked_and_nothing_half_written_stays(run, adamw, tmp_path, monkeypatch):

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
            here.setattr(grown_state, name, full)
            assert "the disk filled" in refused(BadInput, widen, path, tmp_path / "grown")
        assert list(tmp_path.iterdir()) == []


def test_the_commands_carry_and_refuse_states(run, tmp_path, monkeypatch, capsys):
    source = run / "step-00000004"
    call = ("deepen", "--from", source, "--layers", 3, "--out", tmp_path / "grown", "--no-verify", "--state", "carry")
    code, out, err = files.command(monkeypatch, capsys, *call)
    assert code == 0, err
    assert "the training state came along (carry): AdamW after step 4" in out + err
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
