"""A text of random ids, a short run over it, and a grown checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import QUICK, tokens

import grow
import grow.data
from grow.training.settings.run_settings import Training


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="session")
def run(tiny, text, tmp_path_factory) -> Training:
    """Four steps of a tiny Llama, nothing interrupted."""
    return grow.train(tiny("llama-tied"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK)
