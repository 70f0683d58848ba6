"""Whatever goes wrong while a result is written, its folder appears whole and checked or not at all, and the source
is never touched."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny

import grow
from grow.errors import BadInput, GrowError, Refused
from grow.files import staging
from grow.files.staging import Staging


@pytest.fixture
def source(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "source", "llama", tokenizer=True)


@pytest.fixture(autouse=True)
def _nothing_half_made_is_left(tmp_path):
    yield
    assert [str(p) for p in tmp_path.rglob(".*.grow-*")] == []


def widen(source: Path, out: Any, **options: Any) -> grow.Growth:
    return grow.widen(source, "2x", out=out, **{"verify": False, **options})


def refused(source: Path, out: Any, **options: Any) -> GrowError:
    """The error of a growth that leaves everything around it as it was."""
    before = tiny.snapshot(source.parent)
    with pytest.raises(GrowError) as error:
        widen(source, out, **options)
    assert tiny.snapshot(source.parent) == before
    assert error.value.fix
    return error.value


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
    assert error.what == "holds what is no part of a checkpoint: notes.txt"
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


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target, target_is_directory=True)
    return path


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


# Faults while it is written


def full_disk(after: int) -> Callable:
    """`grow_tensor` whose write number `after` meets a full disk."""
    from grow.applying.tensor_rows import grow_tensor

    left = [after]

    def grow_until_full(t, read_rows, write_rows, **options):
        def put(first: int, rows: np.ndarray) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_rows(first, rows)

        grow_tensor(t, read_rows, put, **options)

    return grow_until_full


@pytest.mark.parametrize("after", [0, 1, 7, 21])
def test_a_disk_that_fills_leaves_nothing(source, tmp_path, monkeypatch, after):
    pwrite, left = os.pwrite, [after]

    def full(fd: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    error = refused(source, tmp_path / "out")
    assert error.what == "No space left on device; nothing was kept"
    assert error.exit_code == 2
    assert left[0] < 0


def test_a_disk_that_cannot_even_reserve_the_file_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "No space left" in refused(source, tmp_path / "out").what


def test_a_file_system_that_reserves_nothing_will_do(source, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    out = widen(source, tmp_path / "out").path
    assert grow.verify(source, out, rungs=("certificate",)).verdict == "certified"


def test_a_short_write_is_continued(source, tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[: max(1, len(data) // 2)], offset))
    out = widen(source, tmp_path / "out").path
    assert grow.verify(source, out, rungs=("certificate",)).verdict == "certified"


def test_files_stay_open_neither_after_success_nor_after_failure(source, tmp_path, monkeypatch):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    widen(source, tmp_path / "warm")
    before = count()
    widen(source, tmp_path / "out")
    refused(source, source)
    monkeypatch.setattr(grow.applying.engine, "grow_tensor", full_disk(3))
    refused(source, tmp_path / "full")
    assert count() == before


def test_a_second_run_to_the_same_output_fails_on_the_lock(source, tmp_path):
    with Staging(tmp_path / "out") as first:
        (first.path / "half").write_text("made")
        with pytest.raises(BadInput, match="another run is writing it") as error:
            widen(source, tmp_path / "out")
        assert "is locked" in error.value.why
        assert (first.path / "half").read_text() == "made"
    assert widen(source, tmp_path / "out").path.is_dir()


def test_what_an_interrupted_run_left_is_removed_with_a_note(source, tmp_path):
    left = tmp_path / ".out.grow-partial"
    left.mkdir()
    (left / staging.MARK).touch()
    (left / "model.safetensors").write_bytes(b"half")
    growth = widen(source, tmp_path / "out")
    assert growth.notes == ("removed .out.grow-partial, left by an interrupted run",)
    assert grow.verify(source, tmp_path / "out", rungs=("certificate",)).verdict == "certified"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_leftover_is_not_removed(source, tmp_path, kind):
    left = tmp_path / ".out.grow-partial"
    if kind == "file":
        left.write_text("mine")
    else:
        link(left, source)
    assert refused(source, tmp_path / "out").what == "is in the way"
    left.unlink()


# The source while it is read


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights written": lambda s: touch(s / "model.safetensors"),
    "weights replaced": lambda s: Path(shutil.copy(s / "model.safetensors", s / "x")).rename(s / "model.safetensors"),
    "config written": lambda s: touch(s / "config.json"),
    "tokenizer removed": lambda s: (s / "tokenizer_config.json").unlink(),
    "weights cut": lambda s: os.truncate(s / "model.safetensors", 2000),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_source_that_changes_while_it_is_read_is_noticed(source, tmp_path, name):
    changes = iter([CHANGES[name]])

    def meanwhile(done: int, total: int) -> None:
        if change := next(changes, None):
            change(source)

    with pytest.raises(BadInput) as error:
        widen(source, tmp_path / "out", progress=meanwhile)
    cut = name == "weights cut"
    reason = "it became shorter while it was read" if cut else "the grown checkpoint would mix two states of its source"
    assert error.value.why == reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensor", "values"),
    [
        ("model.layers.1.mlp.up_proj.weight", [np.nan]),
        ("model.layers.0.self_attn.o_proj.weight", [np.inf, -np.inf, np.nan]),
        ("model.embed_tokens.weight", [np.inf]),
        ("model.norm.weight", [np.nan, np.nan]),
        ("model.layers.0.input_layernorm.weight", [-np.inf]),
    ],
)
@pytest.mark.parametrize("to", ["2x", "hidden_size=36", "intermediate_size=31"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_nan_and_inf_are_counted_and_their_tensor_named(tmp_path, tensor, values, to, dtype):
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype=dtype)
    stored = tiny.narrow(np.array(values), dtype)
    tiny.edit_tensor(source, tensor, lambda raw: raw.ravel().__setitem__(slice(3, 3 + len(values)), stored))
    error = refused_to(source, tmp_path / "out", to)
    count = f"{len(values)} values are" if len(values) > 1 else "1 value is"
    assert (error.where, error.what) == (tensor, f"{count} NaN or Inf")


def refused_to(source: Path, out: Path, to: str, **options: Any) -> GrowError:
    with pytest.raises(GrowError) as error:
        grow.widen(source, to, out=out, verify=False, **options)
    assert not out.exists()
    return error.value


def test_large_numbers_are_no_infinity(tmp_path):
    # their squares overflow float32
    source = tiny.checkpoint(tmp_path / "source", "llama")
    tiny.edit_tensor(source, "model.layers.0.mlp.up_proj.weight", lambda raw: raw.__imul__(1e25))
    out = widen(source, tmp_path / "out").path
    assert grow.verify(source, out, rungs=("certificate",)).verdict == "certified"


@pytest.mark.parametrize(
    ("dtype", "stored", "value"),
    [("float16", "F32", 7e4), ("float16", "BF16", -7e4), ("bfloat16", "F32", 3.4e38), ("float32", "F64", 1e39)],
)
@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"])
@pytest.mark.parametrize("to", ["2x", "intermediate_size=31"])
def test_a_cast_that_would_overflow_is_refused(tmp_path, dtype, stored, value, tensor, to):
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype=stored)
    raw = tiny.narrow(np.array([value]), stored)[0]
    tiny.edit_tensor(source, tensor, lambda weights: weights.ravel().__setitem__(5, raw))
    error = refused_to(source, tmp_path / "out", to, dtype=dtype)
    assert isinstance(error, Refused)
    assert (error.where, error.why) == (tensor, "it would be stored as Inf")


def test_a_factor_that_would_overflow_is_refused(tmp_path):
    # silent coordinates scale every producer by √(36/24)
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype="F16")
    tiny.edit_tensor(source, "model.embed_tokens.weight", lambda raw: raw.__setitem__((0, 0), 6e4))
    error = refused_to(source, tmp_path / "out", "hidden_size=36", dtype="float16")
    assert error.where == "model.embed_tokens.weight"


@pytest.mark.parametrize(("dtype", "value"), [("F32", 3e38), ("BF16", 0x7F70), ("F64", 1.7e308)])
def test_a_power_of_two_that_would_overflow_is_refused(tmp_path, dtype, value):
    # four times the width: the stream is scaled by 2, which rounds nothing
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype=dtype)
    tiny.edit_tensor(source, "model.embed_tokens.weight", lambda raw: raw.__setitem__((0, 0), value))
    error = refused_to(source, tmp_path / "out", "hidden_size=96", operators={"hidden": "silent"})
    assert error.where == "model.embed_tokens.weight"


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


# Verification decides whether the result is kept


def corrupt(t, read_rows, write_rows, **options) -> None:
    """`grow_tensor` with one wrong element in one tensor."""
    from grow.applying.tensor_rows import grow_tensor

    def put(first: int, rows: np.ndarray) -> None:
        if t.name == "model.layers.1.self_attn.v_proj.weight" and first == 0:
            rows = rows.copy()
            rows[0, 0] += 1
        write_rows(first, rows)

    grow_tensor(t, read_rows, put, **options)


@pytest.fixture
def only_certificate(monkeypatch):
    """The growth's own check without models: torch stays out."""
    from grow.verification.ladder import verify_folders

    monkeypatch.setattr(grow.api, "verify_folders", functools.partial(verify_folders, rungs=("certificate",)))


@pytest.mark.usefixtures("only_certificate")
def test_a_result_that_fails_its_verification_is_not_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(grow.applying.engine, "grow_tensor", corrupt)
    error = refused(source, tmp_path / "out", verify=True)
    assert isinstance(error, grow.Different)
    assert error.exit_code == 1
    assert error.verification.verdict == "different"
    assert "model.layers.1.self_attn.v_proj.weight[0, 0]" in error.why


@pytest.mark.usefixtures("only_certificate")
def test_the_command_exits_1_when_the_verification_fails(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grow.applying.engine, "grow_tensor", corrupt)
    out = tmp_path / "out"
    code, text, err = tiny.command(monkeypatch, capsys, "widen", "--from", source, "--to", "2x", "--out", out, "--json")
    assert code == 1
    assert err.startswith(f"error: {out}: is different after the growth; it was not kept")
    assert json.loads(text)["exit_code"] == 1
    assert not out.exists()


def test_without_verification_the_result_says_so(source, tmp_path):
    growth = widen(source, tmp_path / "out")
    assert not growth.verified
    assert tiny.read_json(tmp_path / "out" / "grow.json")["verification"] is None
    assert "**Unverified**" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.usefixtures("only_certificate")
def test_a_verified_result_carries_its_verification(source, tmp_path):
    growth = widen(source, tmp_path / "out", verify=True)
    assert growth.verified
    stored, found = tiny.read_json(tmp_path / "out" / "grow.json")["verification"], growth.verification.to_dict()
    assert (stored["source"], stored["grown"]) == (source.name, "out")
    assert {**stored, "source": found["source"], "grown": found["grown"]} == found
    assert str(tmp_path) not in (tmp_path / "out" / "grow.json").read_text()  # it is published with the weights


def test_a_failed_verification_does_not_cost_the_overwritten_checkpoint(
    source, tmp_path, monkeypatch, only_certificate
):
    tiny.checkpoint(tmp_path / "out", "gpt2")
    monkeypatch.setattr(grow.applying.engine, "grow_tensor", corrupt)
    assert refused(source, tmp_path / "out", verify=True, overwrite=True).exit_code == 1


@pytest.mark.usefixtures("only_certificate")
def test_the_source_is_never_touched(source, tmp_path):
    before = tiny.snapshot(source)
    widen(source, tmp_path / "out", verify=True)
    assert tiny.snapshot(source) == before


# Signals: a run of its own, slowed down so that it is in the middle of a shard when the signal comes


class Run(NamedTuple):
    process: subprocess.Popen
    out: Path
    partial: Path


SLOW = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored, and pass that on
import grow.cli
from grow.files import writer
write = writer._pwrite
def slow(*arguments):
    write(*arguments)
    sys.stdout.write("w"); sys.stdout.flush()
    time.sleep(0.2)
writer._pwrite = slow
grow.cli.main()
"""


@pytest.fixture
def run(source, tmp_path):
    out = tmp_path / "out"
    line = ["widen", "--from", source, "--to", "2x", "--out", out, "--no-verify"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(grow.__file__).parents[1])},
    )
    try:
        assert process.stdout.read(3) == b"www"
        yield Run(process, out, tmp_path / ".out.grow-partial")
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(tmp_path / ".out.grow-partial", ignore_errors=True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_exits_130_and_leaves_nothing(run, name):
    assert run.partial.is_dir()
    run.process.send_signal(getattr(signal, name))
    _, err = run.process.communicate(timeout=20)
    assert run.process.returncode == 130
    assert err.decode().strip() == "interrupted: nothing was kept under the final name"
    assert not run.out.exists()
    assert not run.partial.exists()


def test_a_killed_run_leaves_no_result_and_the_next_one_cleans_up(run, source):
    run.process.kill()
    run.process.communicate(timeout=20)
    assert run.process.returncode == -signal.SIGKILL
    assert not run.out.exists()
    assert run.partial.is_dir()
    growth = widen(source, run.out)
    assert growth.notes == ("removed .out.grow-partial, left by an interrupted run",)
    assert not run.partial.exists()


def test_a_run_in_another_process_holds_the_lock(run, source):
    with pytest.raises(BadInput, match="another run is writing it"):
        widen(source, run.out)
    started = time.monotonic()
    run.process.communicate(timeout=30)
    assert run.process.returncode == 0, f"after {time.monotonic() - started:.0f} s"
    assert grow.verify(source, run.out, rungs=("certificate",)).verdict == "certified"
