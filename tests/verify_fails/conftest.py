"""Grown pairs, made once, and copies to be damaged."""

from __future__ import annotations

import pytest
from damaged_pairs import CASES, Pair, make


@pytest.fixture
def copied(tmp_path) -> Pair:
    """A llama pair of one's own, to be damaged."""
    return make(CASES["llama ×2"], tmp_path)
