"""A source for results that replace others."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny


@pytest.fixture
def source(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "source", "llama", tokenizer=True)
