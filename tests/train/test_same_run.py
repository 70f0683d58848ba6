"""A run is a function of its settings, however it is accumulated, interrupted or shared by processes.

Tiny models on token files of random ids.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import models
import pytest
import tiny as files
import torch
from training import QUICK, apart, curve, killed_at, refused, same, trained, weights

import grow
import grow.data
from grow.training.log import metrics
from grow.training.saved import checkpoints
from grow.training.settings.schedule import rate, rewarm
from grow.training.step import loop
from grow.training.step.loop import NotFinite

# Schedules


def test_schedules_equal_those_computed_by_hand():
    wsd = [rate(k, schedule="wsd", steps=10, warmup=2, decay=3) for k in range(10)]
    assert wsd == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)], abs=1e-15)
    linear = [rate(k, schedule="wsd", steps=6, decay=3, shape="linear") for k in range(6)]
    assert linear == [1, 1, 1, 0.75, 0.5, 0.25]
    cosine = [rate(k, schedule="cosine", steps=5, warmup=1, floor=0.2) for k in range(6)]
    assert cosine == pytest.approx([1, 1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2])
    assert [rate(k, schedule="constant", steps=3, warmup=2) for k in range(4)] == [0.5, 1, 1, 1]
    assert [rewarm(k, 1.25, 20) for k in (0, 1, 19, 20)] == [0.625, 1.25, 1.25, 1.0]


# The same run, however it is computed


def test_accumulated_parts_give_the_gradient_of_the_batch(tiny, text, tmp_path):
    source = tiny("gpt2")
    off = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    plain = shutil.copytree(source, tmp_path / "source")
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | off))
    for dtype, limit in (("float32", 1e-6), ("float64", 1e-12)):
        paths = [tmp_path / f"{dtype}-{a}" for a in (1, 3)]
        for path, parts in zip(paths, (1, 3)):
            grow.train(plain, text, out=path, dtype=dtype, accumulate=parts, documents=True, **{**QUICK, "lr": 1e-3})
        assert apart(*paths) < limit  # sums of float numbers in another order


def test_accumulated_parts_of_masked_text_weigh_every_token_alike(tmp_path):
    """A part with few masked tokens counts less: the mean over the batch, not a mean of means."""
    options = dict(steps=2, batch=4, length=32, warmup=0, decay=0, dtype="float64", save_every=9, eval_every=9)
    for parts in (1, 4):
        grow.train("small-bert", out=tmp_path / f"{parts}", accumulate=parts, **options)
    assert apart(tmp_path / "1", tmp_path / "4") < 1e-12


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(path / "step-00000004")
    again = grow.train(out=path, resume=True)
    assert (again.step, again.tokens, again.loss, again.val_loss) == (4, run.tokens, run.loss, run.val_loss)
    assert curve(path) == curve(run.path)
    assert same(weights(path), weights(run.path))
    assert grow.train(out=path, resume=True).step == 4  # nothing left to do


@pytest.mark.parametrize("other", ["adafactor", "muon", "dropout", "bfloat16", "masked"])
def test_every_kind_of_run_resumes_bit_for_bit(tiny, text, tmp_path, other):
    """Dropout and masks follow from (seed, step); moments of every optimizer are kept; a bfloat16 file is rounded and
    the state is not."""
    source: Any = tiny("gpt2", "bfloat16") if other in ("dropout", "bfloat16") else tiny("llama")
    options = {**QUICK, "optimizer": other if other in ("adafactor", "muon") else "adamw"}
    options |= {"dtype": "bfloat16"} if other == "bfloat16" else {}
    data: Any = text
    if other == "masked":
        source, data = "small-bert", ()
        options |= {"batch": 2, "length": 32}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    grow.train(source, data, out=whole, **options)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "step-00000004")
    grow.train(out=cut, resume=True, **({"data": cut / "data"} if other == "masked" else {}))
    assert curve(cut) == curve(whole)
    assert same(weights(cut), weights(whole))


def test_two_processes_compute_what_one_does_and_any_number_continues(run, tiny, text, tmp_path):
    """Sharded over two processes, saved after step 2, continued by one and by three. Llama has no dropout."""
    line = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    line += ["--from", tiny("llama-tied"), "--data", text, "--out", tmp_path / "two", "--world", 2]
    trained(2, tmp_path, *line)
    assert apart(run.path, tmp_path / "two") < 1e-6  # sums of float32 in another order
    stored = (tmp_path / "two" / "step-00000002" / "state").glob("__*.distcp")
    assert sorted(p.name for p in stored) == ["__0_0.distcp", "__1_0.distcp"]
    for count in (1, 3):
        path = shutil.copytree(tmp_path / "two", tmp_path / f"then-{count}")
        shutil.rmtree(path / "step-00000004")
        if count == 1:
            grow.train(out=path, resume=True)
        else:
            trained(count, tmp_path, "--out", path, "--resume")
        assert apart(run.path, path) < 1e-6
        found, wanted = weights(path), weights(run.path)
        assert max((found[name] - wanted[name]).abs().max().item() for name in wanted) < 1e-4  # Adam divides by √v


# Interrupted


def killed_run(event: int, path: Path, begin: dict[str, Any]) -> int:
    """A run, begun or continued, that is killed at its n-th event: whatever is written, synced, renamed, removed,
    recorded or stepped."""

    def work() -> None:
        if (path / "run.json").is_file():
            grow.train(out=path, resume=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
            grow.train(**begin, out=path)

    patched = (
        (checkpoints, ("save_state", "write_stock", "_write_documents", "_sync", "prune")),
        (Path, ("rename", "mkdir", "write_text", "write_bytes")),
        (shutil, ("rmtree",)),
        (os, ("pwrite", "fsync")),
        (metrics.Log, ("record", "sync")),
        (loop, ("set_rate", "gradient_norm", "clip_gradients")),
    )
    return killed_at(event, patched, work)


def test_killed_at_any_moment_a_run_goes_on_as_if_it_had_not_been(tiny, text, tmp_path):
    begin = {"src": tiny("llama"), "data": text, **QUICK, "keep": 2, "steps": 6}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    grow.train(**begin, out=whole)
    draw, kills, code = models.seeded("kill"), 0, -9
    while code:
        code = killed_run(draw.randrange(20, 120), cut, begin)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if cut.is_dir():  # under its name a checkpoint is whole
            assert all(checkpoints.read_train(path)["step"] == step for step, path in checkpoints.steps(cut))
        assert kills < 60
    assert kills > 3
    assert curve(cut) == curve(whole)
    assert same(weights(cut, 6), weights(whole, 6))
    assert [step for step, _ in checkpoints.steps(cut)] == [4, 6]
    assert not list(cut.glob(".step-*"))


def test_sigterm_finishes_the_step_and_saves_it(tiny, text, tmp_path, monkeypatch, capsys):
    from grow.training.log.metrics import Log

    record = Log.record

    def at_three(self, entry):
        record(self, entry)
        if entry["step"] == 2:  # in the middle of what is step 3 by then
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Log, "record", at_three)
    path = tmp_path / "run"
    line = [f"--{k.replace('_', '-')}={v}" for k, v in {**QUICK, "save_every": 100}.items()]
    code, out, _ = files.command(
        monkeypatch, capsys, "train", "--from", tiny("llama"), "--data", text, "--out", path, *line
    )
    assert code == 130
    assert "stopped by SIGTERM after step 3 of 4; --resume continues it" in out
    assert [step for step, _ in checkpoints.steps(path)] == [3]
    monkeypatch.undo()
    again = grow.train(out=path, resume=True)
    assert (again.step, again.stopped) == (4, "")


def test_half_written_checkpoints_of_a_killed_run_are_removed_with_a_note(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    (path / "step-00000004" / "state" / "train.json").unlink()
    (path / ".step-00000004.partial" / "state").mkdir(parents=True)
    again = grow.train(out=path, resume=True)
    assert again.notes[0] == "removed .step-00000004.partial, left half-written by an interrupted run"
    assert again.notes[1].startswith("step-00000004 is passed over: has no state/train.json")
    assert curve(path) == curve(run.path)


def test_a_missing_state_is_an_error_and_no_run_begins_anew(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(path / "step-00000002")
    part = path / "step-00000004" / "state" / "__0_0.distcp"
    part.unlink()
    said = refused(out=path, resume=True)
    assert "has no whole checkpoint to resume from" in said
    assert "state/__0_0.distcp is missing" in said


def test_a_state_without_a_moment_is_an_error(run, tmp_path, monkeypatch):
    from grow.training.saved import exact_state

    path = shutil.copytree(run.path, tmp_path / "run")
    monkeypatch.setattr(exact_state, "states", lambda optimizers: [("optim.model.norm.weight.third", torch.zeros(2))])
    assert "missing: optim.model.norm.weight.third; of no parameter: optim." in refused(out=path, resume=True)


def test_the_last_checkpoints_stay_and_so_do_those_with_a_file_keep(run, tiny, text, tmp_path):
    path = tmp_path / "run"
    grow.train(tiny("llama"), text, out=path, **{**QUICK, "save_every": 1, "keep": 3, "steps": 4})
    assert [step for step, _ in checkpoints.steps(path)] == [2, 3, 4]
    (path / "step-00000002" / "KEEP").touch()
    grow.train(out=path, resume=True, steps=6, keep=1)
    assert [step for step, _ in checkpoints.steps(path)] == [2, 6]


def test_a_full_disk_is_one_error_and_the_earlier_checkpoint_is_whole(tiny, text, tmp_path, monkeypatch):
    path = tmp_path / "run"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for target, name in ((checkpoints, "save_state"), (os, "posix_fallocate"), (checkpoints, "write_json")):
        shutil.rmtree(path, ignore_errors=True)
        begun = {**QUICK, "steps": 2}
        grow.train(tiny("llama"), text, out=path, **begun)
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            said = refused(out=path, resume=True, steps=4)
        assert "could not be written: No space left on device" in said
        assert not list(path.glob(".step-*"))
        assert grow.train(out=path, resume=True, steps=4).step == 4


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_blocks(tiny, text, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(NotFinite) as error:
        grow.train(tiny("llama"), text, out=path, **{**QUICK, "lr": 1e30, "clip": 0.0, "save_every": 1})
    assert error.value.exit_code == 2
    assert "step 2" in error.value.where or "step 3" in error.value.where
    assert f"{text}/train: blocks " in str(error.value)
    kept, *_ = [path for _, path in checkpoints.steps(path)]
    assert checkpoints.read_train(kept)["step"] == 1
