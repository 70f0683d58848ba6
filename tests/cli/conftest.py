"""A growth by the command line, and the command in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

import grow


@pytest.fixture
def grow_(monkeypatch, capsys):
    """`grow_("plan", "--from", source)`: exit code, stdout, stderr."""
    return lambda *arguments: tiny.command(monkeypatch, capsys, *arguments)


def run_of(folder: Path) -> Path:
    """A run of two steps, as it is found on disk."""
    entries = [{"step": k, "tokens": 8 * k, "flops": 1e3 * k, "seconds": k, "loss": 3.0 - k} for k in (1, 2)]
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cli")
    source = tiny.checkpoint(folder / "source", "llama")
    run_of(folder / "run")
    return source, grow.widen(source, "2x", out=folder / "grown", verify=False).path
