"""A result is kept when it was verified, and an interrupted run leaves none."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
from output_folders import refused, widen

import grow
from grow.errors import BadInput

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
