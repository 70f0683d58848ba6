"""A Llama and a BERT to derive others from."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from edited_models import LLAMA, make


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "llama"
    return make(folder, "llama", LLAMA, transformers.AutoModelForCausalLM)
