"""A source, and the promise that nothing half made is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny


@pytest.fixture
def source(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "source", "llama", tokenizer=True)


@pytest.fixture(autouse=True)
def _nothing_half_made_is_left(tmp_path):
    yield
    assert [str(p) for p in tmp_path.rglob(".*.grow-*")] == []
