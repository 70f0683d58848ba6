"""What a kill, a full disk, a second run or a touched file can do to a run: one message, and nothing lost."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny as files
import torch
from test_train import QUICK, curve, forked, refused, same, tokens, weights

import grow
from grow.errors import BadInput
from grow.files.distributed_checkpoint import PiecedFolder
from grow.training import run_folder
from grow.training.saved import checkpoints
from grow.training.settings.run_settings import Training
from grow.training.step.loop import NotFinite


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> Training:
    return grow.train(tiny("llama-tied"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run.path, tmp_path / "run"))


# A run's folder


@pytest.mark.parametrize("bundled", [False, True])
def test_a_run_that_was_killed_before_it_was_begun_is_begun_by_the_same_command(bundled, tiny, text, tmp_path):
    path, begin = tmp_path / "run", {"src": tiny("llama-tied"), "data": text, **QUICK}
    if bundled:
        begin = {"src": "small", "data": [], **QUICK, "steps": 1}

    def killed() -> None:
        from grow.training import run

        run.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        grow.train(**begin, out=path)

    for resume in (False, True):
        assert forked(killed) == -signal.SIGKILL
        assert sorted(p.name for p in path.iterdir()) == [".lock", *(["data"] if bundled else [])]
        if resume:
            said = refused(out=path, resume=True)
            assert "was interrupted before it was begun" in said
            assert not path.exists()
        else:
            assert grow.train(**begin, out=path, resume=True).step == begin["steps"]
            shutil.rmtree(path)
    assert forked(killed) == -signal.SIGKILL
    assert grow.train(**begin, out=path).step == begin["steps"]


def test_what_somebody_else_put_beside_a_lock_is_not_written_over(tiny, text, tmp_path):
    path = tmp_path / "run"
    for name in ("data/manifest.json", "notes.txt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
        (path / name).write_text('{"sources": [{"name": "mine.txt"}]}')
        assert "exists and is not empty" in refused(src=tiny("llama"), data=text, out=path)
        assert (path / name).is_file()
        shutil.rmtree(path)


def test_the_second_of_two_that_begin_at_once_leaves_the_first_alone(tiny, text, tmp_path, monkeypatch):
    path, check, held = tmp_path / "run", run_folder.check_run, []

    def late(*args: Any) -> bool:
        found = check(*args)
        if not held:  # the other one gets there between this look and the lock
            path.mkdir()
            held.append(open(path / ".lock", "w"))  # noqa: SIM115
            fcntl.flock(held[0], fcntl.LOCK_EX)
            (path / "mine").touch()
        return found

    monkeypatch.setattr(run_folder, "check_run", late)
    assert "another run is writing it" in refused(src=tiny("llama"), data=text, out=path)
    assert (path / "mine").exists()
    held[0].close()
    (path / "mine").unlink()
    (path / "run.json").touch()  # and was done before the lock was asked for
    held[:] = []
    monkeypatch.setattr(
        run_folder, "check_run", lambda *args: held.append(1) or (check(*args) if len(held) > 1 else False)
    )
    assert "exists and is not empty" in refused(src=tiny("llama"), data=text, out=path)
    assert (path / "run.json").exists()


def test_what_is_read_is_not_written_into(tiny, text, tmp_path):
    source = Path(shutil.copytree(tiny("llama-tied"), tmp_path / "source"))
    data = Path(shutil.copytree(text, tmp_path / "tokens"))
    link = tmp_path / "link"
    link.symlink_to(source)
    for out in (source / "run", link / "run", data / "run"):
        assert "is the source, inside it or around it" in refused(src=source, data=data, out=out, **QUICK)
        assert not out.exists()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "x"\ndata = "tokens"\n[[stage]]\nkind = "load"\nfrom = "source"\n'
        '[[stage]]\nkind = "train"\nsteps = 1\nlength = 16\n'
    )
    for out in (source / "out", data / "out"):
        with pytest.raises(BadInput, match="is the source, inside it or around it"):
            grow.run(recipe, out=out)
        assert not out.exists()


# metrics.jsonl


def test_a_disk_that_is_full_when_a_run_goes_on_costs_no_line(run, copy):
    shutil.rmtree(copy / "step-00000004")

    def no_byte_more() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with pytest.raises((OSError, BadInput)):
            grow.train(out=copy, resume=True)
        return 7

    assert forked(no_byte_more) == 7
    assert curve(copy) == curve(run.path)
    grow.train(out=copy, resume=True)
    assert curve(copy) == curve(run.path)
    assert same(weights(copy), weights(run.path))


@pytest.mark.parametrize("lines", [None, [0, 1, 3, 4], ["garbage"]])
def test_lost_lines_are_told_and_a_plateau_that_was_in_them_is_an_error(run, copy, lines):
    shutil.rmtree(copy / "step-00000004")
    file = copy / "metrics.jsonl"
    found = file.read_text().splitlines(keepends=True)
    if lines is None:
        file.unlink()
    else:
        file.write_text("".join(found[k] if isinstance(k, int) else f"{k}\n" for k in lines))
    lost = 1 if lines and len(lines) > 1 else 2
    seen = f"has no line of {lost} of the 2 steps"

    def plateau(document: dict[str, Any]) -> None:
        document["settings"]["plateau"] = [2, 0.1]

    asked = Path(shutil.copytree(copy, copy.parent / "asked"))
    train = asked / "step-00000002" / "state" / "train.json"
    files.edit_json(train, plateau)
    assert seen in refused(out=asked, resume=True)
    again = grow.train(out=copy, resume=True)
    assert f"metrics.jsonl {seen} so far: they are not on the curve" in again.notes
    assert curve(copy)[-2:] == curve(run.path)[-2:]


# Checkpoints


def test_checkpoints_that_are_gone_are_no_reason_to_begin_anew(run, copy):
    for step in (2, 4):
        (copy / f"step-0000000{step}").rename(copy.parent / str(step))
    said = refused(out=copy, resume=True)
    assert "has no checkpoint, and metrics.jsonl tells of 4 steps" in said
    assert "bring step-00000002 back" in said
    assert curve(copy) == curve(run.path)
    (copy.parent / "4").rename(copy / "step-00000004")
    assert grow.train(out=copy, resume=True, steps=5).step == 5


RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "a step of words": ({"step": "4"}, "step is 4"),
    "another step": ({"step": 2}, "its train.json is of step 2"),
    "no tokens": ({"tokens": None}, "tokens is None"),
    "no data": ({"data": None}, "data is None"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_none_is_passed_over(run, copy, name):
    change, said = RECORDS[name]
    files.edit_json(copy / "step-00000004" / "state" / "train.json", lambda d: d.update(change))
    again = grow.train(out=copy, resume=True)
    assert again.notes[0].startswith(f"step-00000004 is passed over: {said}")
    assert curve(copy) == curve(run.path)


def test_a_changed_config_is_not_gone_on_with(copy):
    file = copy / "step-00000004" / "config.json"
    file.write_text(file.read_text().replace("silu", "relu"))
    assert "config.json: is not the config that the run had" in refused(out=copy, resume=True, steps=5)


def test_a_finished_stage_without_metrics_is_said(run, copy):
    from grow.staged.stages import summary

    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(BadInput, match="has no line of the last step"):
        summary(copy)


# state/


def test_a_disk_that_fills_in_the_middle_of_the_state_is_said(run, copy, capfd):
    """The library that writes it raises what is no Exception."""
    shutil.rmtree(copy / "step-00000004")

    def no_room() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(BadInput, match="step-00000004: could not be written: File too large") as error:
            grow.train(out=copy, resume=True)
        assert "earlier checkpoints are as they were" in str(error.value)
        return 7

    assert forked(no_room) == 7
    assert not list(copy.glob(".step-*"))
    grow.train(out=copy, resume=True)
    assert same(weights(copy), weights(run.path))


def test_a_file_of_the_state_that_cannot_be_written_is_no_fault_of_grow(run, copy, monkeypatch):
    from torch.distributed.checkpoint.api import CheckpointException

    from grow.training.saved import exact_state

    def torn(*_: object, **__: object) -> None:  # of another process there is the text alone
        raise CheckpointException("", {1: (RuntimeError("unexpected pos 704 vs 598\nmore"), None)})

    monkeypatch.setattr(exact_state.dcp, "save", torn)
    with pytest.raises(OSError, match="unexpected pos 704 vs 598"):
        grow.train(out=copy, resume=True, steps=5)
    assert not list(copy.glob(".step-*"))
    usage = shutil.disk_usage(copy)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=99))
    assert "No space left on device" in refused(out=copy, resume=True, steps=5)


@pytest.mark.parametrize("kind", ["model.", "optim."])
def test_a_flipped_bit_in_the_state_is_no_state_to_go_on_from(copy, kind, tmp_path):
    with PiecedFolder(copy / "step-00000004" / "state") as stored:
        tensor = next(t for name, t in stored.tensors.items() if name.startswith(kind) and t.nbytes > 1000)
        file, at = tensor.pieces[0].file, stored._place(tensor, tensor.pieces[0]) + 77
    raw = bytearray(file.read_bytes())
    raw[at] ^= 4
    file.write_bytes(raw)
    assert f"{tensor.name}: is damaged" in refused(out=copy, resume=True, steps=5)
    with pytest.raises(BadInput, match="is damaged"):
        grow.widen(copy / "step-00000004", "2x", out=tmp_path / "wide", verify=False, state="carry")
    assert not (tmp_path / "wide").exists()
    plain = grow.widen(copy / "step-00000004", "2x", out=tmp_path / "wide", verify=False)  # the weights are whole
    assert any("stays behind" in note and "is damaged" in note for note in plain.notes)
    assert not (plain.path / "state").exists()


# Text


def flipped(file: Path, at: int = 100) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_changed_byte_of_the_text_is_found_whenever_a_run_begins_or_goes_on(run, tiny, text, tmp_path, name):
    copied = Path(shutil.copytree(text, tmp_path / "tokens"))
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    flipped(copied / name)
    for options in ({"src": tiny("llama"), "out": tmp_path / "new"}, {"out": path, "resume": True, "steps": 5}):
        assert f"{name}: is not the file that was written" in refused(data=copied, **options)
    assert not (tmp_path / "new").exists()


def test_a_corpus_of_terabytes_is_not_read_beforehand_which_is_said(tiny, text, tmp_path, monkeypatch):
    copied = Path(shutil.copytree(text, tmp_path / "text"))
    flipped(copied / "val.bin", -2)
    monkeypatch.setattr(sys.modules["grow.training.text.inputs"], "READ_WHOLE", 1000)
    done = grow.train(tiny("llama-tied"), copied, out=tmp_path / "run", **QUICK)
    assert f"{copied}: 1,800 bytes are too many to be read and hashed beforehand" in done.notes


def test_a_plateau_without_validation_text_is_refused(tiny, tmp_path):
    tokens(tmp_path / "tokens", held_out=9)
    begin = {"src": tiny("llama"), "data": tmp_path / "tokens", "out": tmp_path / "run", **QUICK}
    assert "no corpus has a block of validation text" in refused(**begin, plateau=(2, 0.1))
    shutil.copytree(tiny("llama"), tmp_path / "llama")
    (tmp_path / "recipe.toml").write_text(
        'name = "x"\ndata = "tokens"\n[[stage]]\nkind = "load"\nfrom = "llama"\n'
        '[[stage]]\nkind = "train"\nsteps = 9\nlength = 16\nplateau = "2:0.1"\n'
    )
    with pytest.raises(BadInput, match=r"stage 2 .train.: --plateau 2:0.1: no corpus"):
        grow.price(tmp_path / "recipe.toml", measured=False)


def test_a_share_too_small_to_be_read_is_said(tiny, text, tmp_path):
    little = tokens(tmp_path / "little", count=40, seed=1)
    begin = {"src": tiny("llama"), "out": tmp_path / "run", **QUICK}
    said = refused(data=[f"{text}:1", f"{little}:1e-5"], **begin)
    assert "little/train: would never be read: its share is 1e-05" in said
    for share, other in ((0, 0), ("nan", 1), (-1, 1)):
        assert "--data: weights " in refused(data=[f"{text}:{share}", f"{little}:{other}"], **begin)
    done = grow.train(data=[f"{text}:1e308", f"{little}:1e308"], **{**begin, "steps": 1})
    assert done.step == 1


# Numbers


@pytest.mark.parametrize("kind", ["weight", "moment"])
def test_no_checkpoint_holds_what_is_no_number(kind, tiny, text, tmp_path, monkeypatch):
    """The last update may spoil what no loss has seen yet."""
    step, done = torch.optim.AdamW.step, []

    def spoilt(self, *_: object) -> None:
        step(self)
        done.append(1)
        if len(done) == 2:
            p = self.param_groups[0]["params"][1]
            (p.data if kind == "weight" else self.state[p]["exp_avg_sq"])[3] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    with pytest.raises(NotFinite) as error:
        grow.train(tiny("llama"), text, out=tmp_path / "run", **{**QUICK, "save_every": 1, "eval_every": 99})
    assert error.value.where.startswith("step 2: model." if kind == "weight" else "step 2: optim.")
    assert f"{text}/train: blocks " in str(error.value)
    assert [step for step, _ in checkpoints.steps(tmp_path / "run")] == [1]


def test_a_validation_loss_that_is_none_is_of_the_step_behind_which_it_was_measured(tiny, text, tmp_path, monkeypatch):
    from grow.training.step import loop

    loss_sum = loop.loss_sum
    monkeypatch.setattr(
        loop, "loss_sum", lambda model, given: loss_sum(model, given) * (1 if model.training else math.nan)
    )
    with pytest.raises(NotFinite, match="step 0: the validation loss"):
        grow.train(tiny("llama"), text, out=tmp_path / "run", **QUICK)


LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "a rate beyond float32": ({"lr": 1e38}, "--lr 1e+38: must be"),
    "a clip that is none": ({"clip": math.nan}, "fix        --clip 1"),
    "no tokens": ({"steps": None, "tokens": 0}, "--tokens 0: must be"),
    "fewer tokens than none": ({"steps": None, "tokens": -5}, "--tokens -5: must be"),
    "half a token": ({"steps": None, "tokens": 0.5}, "--tokens 0.5: must be"),
    "a batch of nothing and tokens": ({"steps": None, "tokens": 5, "batch": 0}, "--batch 0: must be"),
    "tokens without end": ({"steps": None, "tokens": 10**40}, "at most"),
    "a place beyond every text": ({"skip": 2**63 - 1}, "--skip 9223372036854775807: must be"),
    "half a re-warming": ({"rewarm": (1.25,)}, "--rewarm (1.25,): must be"),
    "a plateau of one number": ({"plateau": 5}, "--plateau 5: must be"),
    "a flag of words": ({"documents": "yes"}, "--documents yes: must be"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_cannot_be_computed_with_is_refused_by_name(name, tiny, text, tmp_path):
    change, said = LIMITS[name]
    options = {k: v for k, v in {**QUICK, **change}.items() if v is not None}
    assert said in refused(src=tiny("llama"), data=text, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_memory_that_is_used_up_is_no_fault_of_grow(error, tiny, text, tmp_path, monkeypatch, capsys):
    from grow.training import run as module

    def none_left(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "load_model", none_left)
    line = ["train", "--from", tiny("llama"), "--data", text, "--out", tmp_path / "run"]
    code, _, err = files.command(monkeypatch, capsys, *line)
    assert code == 2
    assert f"memory: {error}" in err
    assert "--accumulate" in err
    assert not (tmp_path / "run").exists()


# The step before the first


def scaled(folder: Path, tensor: str, factor: float) -> Path:
    """A copy whose tensor has its first row scaled; every file keeps its size."""
    path = Path(shutil.copytree(folder, folder.parent / f"{folder.name}-{factor}"))
    header, begin = files.read_header(path)
    at, _ = header[tensor]["data_offsets"]
    values = np.memmap(path / "model.safetensors", "<f4", "r+", begin + at, tuple(header[tensor]["shape"]))
    values[:1] *= np.float32(factor)
    values.flush()
    return path


@pytest.mark.parametrize("held_out", [200, 9])
def test_tokens_are_compared_one_by_one_and_without_validation_text_the_first_batch_s(held_out, tiny, tmp_path):
    """A row of a query matrix moves some losses up and others down: their mean stays within 1e-4."""
    grown = grow.widen(tiny("llama-tied"), {"hidden": 48}, out=tmp_path / "grown", verify=False).path
    begin = {"data": tokens(tmp_path / "tokens", held_out=held_out), "source": tiny("llama-tied"), **QUICK, "steps": 1}
    what = "validation loss" if held_out > 16 else "loss of the first batch"
    done = grow.train(grown, out=tmp_path / "run", **begin)
    assert any(note.startswith(f"the {what} before the first step is the source's: ") for note in done.notes)
    broken = scaled(grown, "model.layers.0.self_attn.q_proj.weight", 1.0005)
    said = refused(src=broken, out=tmp_path / "broken", **begin)
    one, other = (float(x) for x in re.search(r"loss.* of ([\d.]+) before .* source ([\d.]+),", said).groups())
    assert abs(one - other) < 1e-4
    assert "single tokens differ by " in said


def test_new_tokens_and_positions_are_not_held_against_the_source(tiny, text, tmp_path):
    source = tiny("llama-tied")
    begin = {"data": text, "source": source, **QUICK, "steps": 1}
    wide = grow.widen(source, {"hidden": 48, "vocab": 52}, out=tmp_path / "wide", verify=False).path
    done = grow.train(wide, out=tmp_path / "run", **begin)
    assert any("before the first step is the source's" in note for note in done.notes)
    assert "before the first step" in refused(src=scaled(wide, "model.norm.weight", 1.5), out=tmp_path / "x", **begin)
    more = tokens(tmp_path / "more", vocab=52)
    done = grow.train(wide, out=tmp_path / "new", **{**begin, "data": more})
    assert any("was not compared with the source's: the text has tokens" in note for note in done.notes)
    far = grow.widen(source, {"positions": 90}, out=tmp_path / "far", verify=False).path
    done = grow.train(far, out=tmp_path / "long", **{**begin, "length": 80})
    assert any("it has 64 positions, and a sequence 80 tokens" in note for note in done.notes)


def test_weights_that_were_changed_beside_a_state_are_not_lost_unsaid(run, tiny, text, tmp_path):
    """The state's weights are exact, and would be taken in their place."""
    grown = grow.widen(run.checkpoint, {"hidden": 48}, out=tmp_path / "grown", verify=False).path
    for source in (Path(shutil.copytree(run.checkpoint, tmp_path / "step")), grown):
        begin = {"src": scaled(source, "model.norm.weight", 1.001), "data": text, "out": tmp_path / "run", **QUICK}
        assert re.search(r"model.norm.weight: (differs by|was changed after)", refused(**begin))
        assert grow.train(**begin, state="drop").step == 4
        shutil.rmtree(tmp_path / "run")
        assert grow.train(**{**begin, "src": source}).step == 4
        shutil.rmtree(tmp_path / "run")
    wide = grow.train(
        tiny("llama"), text, out=tmp_path / "wide", **QUICK, dtype="float64"
    )  # the state is, the file is not
    more = grow.widen(wide.checkpoint, {"hidden": 72}, out=tmp_path / "more", verify=False).path
    assert grow.train(more, text, out=tmp_path / "run", **QUICK, dtype="float64").step == 4


# Recipes

INIT = (
    '[[stage]]\nkind = "init"\nfrom = "llama"\nsizes = {hidden = 24, heads = 3, kv_heads = 3, head_dim = 8, ffn = 20}\n'
)
FEW = '[[stage]]\nkind = "train"\nsteps = 2\nlength = 16\nbatch = 4\n'
WIDE = '[[stage]]\nkind = "widen"\nto = {ffn = 28}\nverify = false\n'


def recipe(place: Path, text: str) -> Path:
    (place / "recipe.toml").write_text('name = "x"\ndata = "tokens"\n' + text)
    return place / "recipe.toml"


@pytest.fixture
def place(tiny, text, tmp_path) -> Path:
    shutil.copytree(tiny("llama-tied"), tmp_path / "llama")
    shutil.copytree(text, tmp_path / "tokens")
    return tmp_path


LATE: dict[str, tuple[str, str]] = {
    "a state before any training": (INIT + FEW + 'state = "carry"\n', "stage 2 (train): state: there is no state"),
    "a growth of no state": (INIT + WIDE + 'state = "carry"\n', "stage 2 (widen): state: there is no state"),
    "a state that was dropped": (
        INIT + FEW + WIDE + 'state = "drop"\n' + FEW + 'state = "carry"\n',
        "stage 4 (train): state: there is no state to take over: what there was is dropped",
    ),
    "another optimizer": (
        INIT + FEW + 'optimizer = "muon"\n' + WIDE + FEW,
        "stage 4 (train): optimizer adamw: the state that comes along from 02-train is of muon",
    ),
    "a shard size of words": (INIT + WIDE + 'max_shard_size = "big"\n', "max_shard_size: is 'big': wanted a number"),
    "a shard size that is true": (INIT + WIDE + "max_shard_size = true\n", "max_shard_size: is True: wanted a size"),
    "shards without end": (INIT + WIDE + f'max_shard_size = "{"9" * 400}GB"\n', "wanted a number of bytes"),
    "a budget without end": (INIT + FEW.replace("steps = 2", "flops = 1e39"), "at most"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_a_later_stage_would_refuse_is_refused_before_anything_runs(name, place):
    text, said = LATE[name]
    with pytest.raises(BadInput) as error:
        grow.run(recipe(place, text), out=place / "out")
    assert said in str(error.value)
    assert not (place / "out").exists()


def test_an_optimizer_of_its_own_is_no_fault_where_the_state_stays_behind(place):
    drop = INIT + FEW + 'optimizer = "muon"\n' + WIDE + 'state = "drop"\n' + FEW
    assert grow.price(recipe(place, drop), measured=False).rows[3].forecast.settings.optimizer == "adamw"
    assert grow.price(
        recipe(place, INIT + FEW + 'optimizer = "muon"\n' + WIDE + FEW + 'state = "drop"\n'), measured=False
    )


def test_a_stage_that_was_refused_may_change_and_what_was_done_stays(place, monkeypatch):
    """The first stages may have taken days."""
    from grow.staged import stages

    out, train = place / "out", stages.api.train

    def refuse(*_: object, **__: object) -> None:
        raise BadInput("here", what="is refused", why="it must be", fix="another way")

    def only(folder: str) -> Callable:
        return lambda *a, **k: (refuse if Path(k["out"]).name == folder else train)(*a, **k)

    first, then, last = WIDE, FEW, "[baseline]\n"
    for name, refusing in (("widen", refuse), ("train", only("04-train")), ("train", only("baseline"))):
        with monkeypatch.context() as patch:
            patch.setattr(stages.api, name, refusing)
            with pytest.raises(BadInput, match="is refused"):
                grow.run(recipe(place, INIT + FEW + first + then + last), out=out, resume=out.exists())
        if name == "widen":
            first = WIDE.replace("28", "31")
            before = (out / "02-train" / "metrics.jsonl").read_bytes()
        elif then == FEW:
            then += "lr = 1e-3\n"
        else:
            last += "seed = 5\n"
    done = grow.run(recipe(place, INIT + FEW + first + then + last), out=out, resume=True)
    assert grow.inspect(done.final).sizes["ffn"] == 31
    assert done.stages[3]["options"]["lr"] == 1e-3
    assert (out / "02-train" / "metrics.jsonl").read_bytes() == before
    assert json.loads((out / "baseline" / "run.json").read_text())["settings"]["seed"] == 5
    fresh = grow.run(recipe(place, INIT + FEW + first + then + last), out=place / "fresh")
    assert [entry["loss"] for entry in done.stages if "loss" in entry] == [
        entry["loss"] for entry in fresh.stages if "loss" in entry
    ]
    assert done.baseline["loss"] == fresh.baseline["loss"]


def test_a_record_whose_folders_are_elsewhere_is_neither_drawn_nor_gone_on_with(place):
    done = grow.run(recipe(place, INIT + FEW), out=place / "out")
    for elsewhere in ("../tokens", "..", 5, str(place)):
        files.edit_json(done.path / "recipe.json", lambda d, name=elsewhere: d["stages"][1].update(folder=name))
        with pytest.raises(BadInput, match="lists no stages"):
            grow.plot([done.path])
        with pytest.raises(BadInput, match="is no record of a recipe's run"):
            grow.run(place / "recipe.toml", out=done.path, resume=True)


@pytest.mark.parametrize("line", ['{"step": "a"}', '{"step": null}', '{"step": 1.5}', "[" * 100_000])
def test_lines_that_are_none_are_not_drawn(copy, line):
    with open(copy / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    assert len(grow.plot([copy]).curves[0].points) == 5


@pytest.mark.parametrize("work", ["save", "load"])
def test_a_signal_inside_the_library_that_keeps_the_state_is_no_damaged_state(work, copy, monkeypatch):
    """It collects whatever ends its work, signals too, and raises its own."""
    from grow.training.saved import exact_state

    planner = exact_state.dcp.DefaultSavePlanner if work == "save" else exact_state.dcp.DefaultLoadPlanner

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planner, "create_local_plan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grow.train(out=copy, resume=True, steps=5)
    assert not list(copy.glob(".step-*"))
    assert grow.train(out=copy, resume=True, steps=5).step == 5
