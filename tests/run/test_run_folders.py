"""Folders, records and checkpoints from which a recipe does not continue."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import tiny as files
from safetensors.torch import load_file
from short_recipes import assert_same_runs, recipe_json

import grow
from grow.errors import BadInput
from grow.staged.recipe_folder import RECIPE

# Folders


def test_bad_folders_are_refused_and_left_alone(short, done, tmp_path):
    import fcntl

    def said(**options: Any) -> str:
        with pytest.raises(BadInput) as error:
            grow.run(short, **options)
        return str(error.value)

    assert "exists and is not empty" in said(out=done.path)
    assert "resume=True continues it" in said(out=done.path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in said(out=tmp_path / "file")
    assert "does not exist" in said(out=tmp_path / "nowhere" / "out")
    assert "does not exist" in said(out=tmp_path / "none", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    assert "holds no run of a recipe" in said(out=tmp_path / "other", resume=True)
    with open(done.path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is writing it" in said(out=done.path, resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]


NO_RECORD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another schema": lambda d: d.update(schema=9),
    "no stages": lambda d: d.pop("stages"),
    "a stage that is none": lambda d: d["stages"].append(3),
    "a folder outside": lambda d: d["stages"][0].update(folder="../x"),
    "no status": lambda d: d["stages"][0].pop("status"),
}


@pytest.mark.parametrize("name", NO_RECORD)
def test_a_damaged_record_is_refused(short, done, tmp_path, name):
    path = shutil.copytree(done.path, tmp_path / "out", symlinks=True)
    files.edit_json(path / RECIPE, NO_RECORD[name])
    with pytest.raises(BadInput, match="is not a record of a recipe's run"):
        grow.run(short, out=path, resume=True)


def test_a_recipe_does_not_continue_from_a_changed_checkpoint(short, done, tmp_path):
    path = shutil.copytree(done.path, tmp_path / "out", symlinks=True)

    def undone(document: dict[str, Any]) -> None:
        document["stages"][4]["status"] = document["baseline"]["status"] = "waiting"

    files.edit_json(path / RECIPE, undone)
    file = path / "03-widen" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(BadInput, match="has another sha256"):
        grow.run(short, out=path, resume=True)
    file.unlink()
    with pytest.raises(BadInput, match="missing"):
        grow.run(short, out=path, resume=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_runs(short, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match="the stages need"):
        grow.run(short, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_finished_stages_and_the_run_can_be_resumed(short, done, tmp_path, monkeypatch):
    import errno

    from grow.training.saved import checkpoints

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_state", full)
        with pytest.raises(BadInput, match=r"stage 2 .train.: .*step-00000002") as error:
            grow.run(short, out=tmp_path / "out")
    assert "No space left on device" in str(error.value)
    grow.run(short, out=tmp_path / "out", resume=True)
    assert_same_runs(tmp_path / "out", done.path)


def test_a_growth_that_fails_verification_stops_the_recipe(short, tmp_path, monkeypatch):
    from grow.staged import stages

    growth = stages.Conductor.growth

    def broken(self, stage, entry, before):
        found = growth(self, stage, entry, before)
        folder = self.out / entry["folder"]
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] *= 1.5
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return found

    monkeypatch.setattr(stages.Conductor, "growth", broken)
    with pytest.raises(grow.Different) as error:
        grow.run(short, out=tmp_path / "out")
    assert error.value.exit_code == 1
    assert "stage 4 (verify)" in error.value.where
    assert recipe_json(tmp_path / "out")["stages"][3]["status"] == "running"
