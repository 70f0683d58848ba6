"""What three processes and two did, in one start of all scenarios each (`together.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dealing
import models
import pytest
import tiny
from launched import FAULTS, LOADED, scenarios, shortened
from training import tokens

import grow

STAGED = """
name = "staged"
data = "tokens"
train = {length = 16, batch = 6, lr = 1e-2, warmup = 0, eval_every = 2}
stage = [
    {kind = "load", from = "wide"},
    {kind = "train", steps = 3},
    {kind = "widen", to = "hidden_size=48,layers=3"},
    {kind = "train", steps = 3},
]
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("together")
    tiny.checkpoint(made / "source", "llama", dtype="BF16", tie_word_embeddings=False)
    tiny.checkpoint(made / "wide", "llama", tie_word_embeddings=False, intermediate_size=19)
    for name, (variant, dtype) in LOADED.items():
        models.save(variant, made / name, dtype)
    tokens(made / "tokens", vocab=29)
    (made / "staged.toml").write_text(STAGED)
    tiny.checkpoint(made / "other", "llama", dtype="BF16", tie_word_embeddings=False, vocab_size=31)
    return made


@pytest.fixture(scope="session")
def dealt(folder) -> Path:
    """A grown model and runs of one process from it."""
    made = folder / dealing.FOLDER
    models.save("llama-tied", made / "small", "float32")
    grow.widen(made / "small", {"hidden": 36, "ffn": 43, "layers": 3}, out=made / "source", verify=False)
    tokens(made / "text")
    for name in dealing.NAMES:
        dealing.run(folder, name, f"{name}-1")
    return made


@pytest.fixture(scope="session")
def three(dealt, folder) -> dict[str, list[dict[str, Any]]]:
    """What each of three processes found in each scenario."""
    shortened(dealt, "1", 3)
    return scenarios(folder, 3, "growths", "sharded", "loading", "staged", "dealt", "uneven", "begun", *FAULTS)
