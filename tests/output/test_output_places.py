"""Places that cannot hold a result are refused before the first byte is read; odd names work."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from output_folders import full_disk, link, refused, widen

import grow
from grow.files import staging

# What can be refused before the first byte is read


def test_a_folder_that_is_not_empty_is_not_touched_unasked(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    error = refused(source, out)
    assert (error.where, error.what) == (f'out="{out}"', "exists and is not empty")
    assert error.fix == "overwrite=True, or another out=…"


def test_an_empty_folder_is_used(source, tmp_path):
    (tmp_path / "out").mkdir()
    assert (widen(source, tmp_path / "out").path / "grow.json").is_file()


def test_overwrite_replaces_a_checkpoint_and_nothing_else(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    assert refused(source, out, overwrite=True).what == "is not a checkpoint folder"
    shutil.rmtree(out)
    tiny.checkpoint(out, "gpt2")
    (out / "notes.txt").write_text("somebody's own")
    error = refused(source, out, overwrite=True)
    assert error.what == "holds what is not part of a checkpoint: notes.txt"
    assert error.fix == "move it elsewhere, or another out=…"
    (out / "notes.txt").unlink()
    (out / "generation_config.json").write_text("{}")
    widen(source, out, overwrite=True)
    assert tiny.read_json(out / "config.json")["model_type"] == "llama"
    assert not (out / "generation_config.json").exists()


def test_an_overwritten_checkpoint_is_there_until_the_new_one_is_whole(source, tmp_path, monkeypatch):
    tiny.checkpoint(tmp_path / "out", "gpt2")
    monkeypatch.setattr(grow.applying.engine, "grow_tensor", full_disk(5))
    assert "nothing was kept" in refused(source, tmp_path / "out", overwrite=True).what


def test_a_rename_that_fails_gives_the_overwritten_checkpoint_its_name_back(source, tmp_path, monkeypatch):
    out, rename = tiny.checkpoint(tmp_path / "out", "gpt2"), Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".grow-partial"):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    before = tiny.snapshot(out)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        widen(source, out, overwrite=True)
    assert tiny.snapshot(out) == before


OVERLAPS: dict[str, Callable[[Path], Any]] = {
    "the source": lambda s: s,
    "inside": lambda s: s / "out",
    "around": lambda s: s.parent,
    "by dots": lambda s: f"{s}/../source",
    "a trailing slash": lambda s: f"{s}/",
    "via a link": lambda s: link(s.parent / "link", s),
    "inside via a link": lambda s: link(s.parent / "link", s) / "out",
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", OVERLAPS)
def test_an_output_that_is_the_source_inside_it_or_around_it_is_refused(source, name, overwrite):
    out = OVERLAPS[name](source)
    assert refused(source, out, overwrite=overwrite).what == "is the source, inside it or around it"


def test_an_output_that_is_a_link_is_refused(source, tmp_path):
    tiny.checkpoint(tmp_path / "old", "gpt2")
    assert refused(source, link(tmp_path / "link", tmp_path / "old"), overwrite=True).what == "is a link"
    assert refused(source, link(tmp_path / "dangling", tmp_path / "nowhere")).what == "is a dangling link"


def test_a_parent_that_cannot_hold_the_result_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    missing = refused(source, tmp_path / "missing" / "out")
    assert missing.what == f"its parent {tmp_path / 'missing'} does not exist"
    assert missing.fix == f"mkdir -p {tmp_path / 'missing'}"
    assert refused(source, tmp_path / "file" / "out").what == f"its parent {tmp_path / 'file'} is not a folder"
    assert refused(source, tmp_path / "file").what == "is a file"


def test_a_read_only_parent_is_refused(source, tmp_path, monkeypatch):
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != folder and access(path, mode))
    assert refused(source, folder / "out").what == f"{folder} is read-only"


@pytest.mark.parametrize("name", ["", "/", "x" * 201, "😀" * 51])
def test_an_output_without_a_usable_name_is_refused(source, tmp_path, name, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert refused(source, name or "").fix


def test_too_little_disk_is_refused_before_writing(source, tmp_path, monkeypatch):
    needed = grow.plan(source, "2x").nbytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    error = refused(source, tmp_path / "out")
    assert error.what.startswith("needs 0.00 GB")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert widen(source, tmp_path / "out").path.is_dir()


# Names


NAMES = ["with space", "😀", "two\nlines", "-n", "--help", "naïve", "a'b\"c$d`e", "x" * 200, "%s{}", "\udcff.bytes"]


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name_work_through_the_command(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    source = tiny.checkpoint(Path(name), "llama")
    out = f"{name[:199]}2"
    code, text, err = tiny.command(
        monkeypatch, capsys, "widen", "--from", source, "--to", "2x", "--out", out, "--no-verify"
    )
    assert code == 0, err
    assert "parameters, bit-exact" in text
    code, text, err = tiny.command(monkeypatch, capsys, "verify", "--rung", "certificate", "--json", "--", source, out)
    assert code == 0, err
    assert json.loads(text)["verdict"] == "certified"
    code, _, err = tiny.command(monkeypatch, capsys, "inspect", "--", Path(out) / "nowhere")
    assert code == 2
    assert err.startswith("error: ")


def test_a_path_of_four_kilobytes_is_a_clean_error(source, tmp_path):
    assert refused(source, tmp_path / "/".join(["y" * 100] * 40)).exit_code == 2
