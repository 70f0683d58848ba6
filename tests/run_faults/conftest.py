"""A short run, and a copy of it to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from training import QUICK, tokens

import grow
from grow.training.settings.run_settings import Training


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="session")
def run(tiny, text, tmp_path_factory) -> Training:
    return grow.train(tiny("llama-tied"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the run that tests may damage."""
    return Path(shutil.copytree(run.path, tmp_path / "run"))
