"""The bundled text as token files."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from grow.data import prepare
from grow.zoo import bundled_path


@pytest.fixture(scope="session")
def reader():
    return transformers.AutoTokenizer.from_pretrained(bundled_path("small"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory) -> Path:
    """The bundled text as token files."""
    out = tmp_path_factory.mktemp("data") / "tokens"
    prepare(["sotu-heldout"], tokenizer="small", out=out, validation=0.3, seed=4)
    return out
