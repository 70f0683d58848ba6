"""Whatever goes wrong while a result is written, its folder appears whole or not at all; sources stay."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from output_folders import full_disk, link, refused, widen

import grow
from grow.errors import BadInput, GrowError, Refused
from grow.files import staging
from grow.files.staging import Staging

# Faults while it is written


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
