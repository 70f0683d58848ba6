"""What a kill, a full disk or a second run can do to the files of a run: one message, and nothing lost."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny as files
from training import QUICK, curve, forked, refused, same, weights

import grow
from grow.errors import BadInput
from grow.files.distributed_checkpoint import PiecedFolder
from grow.training import run_folder
from grow.training.saved import checkpoints

# A run's folder


@pytest.mark.parametrize("bundled", [False, True])
def test_a_run_killed_before_its_first_step_is_begun_again_by_the_same_command(bundled, tiny, text, tmp_path):
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
            assert "was interrupted before the run began" in said
            assert not path.exists()
        else:
            assert grow.train(**begin, out=path, resume=True).step == begin["steps"]
            shutil.rmtree(path)
    assert forked(killed) == -signal.SIGKILL
    assert grow.train(**begin, out=path).step == begin["steps"]


def test_a_file_of_another_program_beside_a_lock_is_not_overwritten(tiny, text, tmp_path):
    path = tmp_path / "run"
    for name in ("data/manifest.json", "notes.txt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
        (path / name).write_text('{"sources": [{"name": "mine.txt"}]}')
        assert "exists and is not empty" in refused(src=tiny("llama"), data=text, out=path)
        assert (path / name).is_file()
        shutil.rmtree(path)


def test_of_two_runs_that_begin_at_once_the_second_leaves_the_first_alone(tiny, text, tmp_path, monkeypatch):
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


def test_a_run_never_writes_into_what_it_reads(tiny, text, tmp_path):
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


def test_a_full_disk_at_resume_loses_no_line_of_metrics(run, copy):
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
def test_lost_lines_of_metrics_are_a_note_and_an_error_for_a_plateau(run, copy, lines):
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


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(run, copy):
    for step in (2, 4):
        (copy / f"step-0000000{step}").rename(copy.parent / str(step))
    said = refused(out=copy, resume=True)
    assert "has no checkpoint, and metrics.jsonl records 4 steps" in said
    assert "bring step-00000002 back" in said
    assert curve(copy) == curve(run.path)
    (copy.parent / "4").rename(copy / "step-00000004")
    assert grow.train(out=copy, resume=True, steps=5).step == 5


RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "a step of words": ({"step": "4"}, "step is 4"),
    "another step": ({"step": 2}, "its train.json belongs to step 2"),
    "no tokens": ({"tokens": None}, "tokens is None"),
    "no data": ({"data": None}, "data is None"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_checkpoint_with_a_damaged_record_is_passed_over(run, copy, name):
    change, said = RECORDS[name]
    files.edit_json(copy / "step-00000004" / "state" / "train.json", lambda d: d.update(change))
    again = grow.train(out=copy, resume=True)
    assert again.notes[0].startswith(f"step-00000004 is passed over: {said}")
    assert curve(copy) == curve(run.path)


def test_a_run_does_not_continue_with_a_changed_config(copy):
    file = copy / "step-00000004" / "config.json"
    file.write_text(file.read_text().replace("silu", "relu"))
    assert "config.json: is not the config that the run had" in refused(out=copy, resume=True, steps=5)


def test_a_finished_stage_without_metrics_is_an_error(run, copy):
    from grow.staged.stages import summary

    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(BadInput, match="has no line for the last step"):
        summary(copy)


# state/


def test_a_disk_that_fills_while_the_state_is_written_is_one_error(run, copy, capfd):
    """The library that writes the state raises an error that is not an Exception."""
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
def test_a_run_does_not_continue_from_a_state_with_a_flipped_bit(copy, kind, tmp_path):
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
