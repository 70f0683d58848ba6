"""Checkpoints of every kind of stock model, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from probe_cases import made

from grow.models.true_float64 import quiet


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """`saved("t5")`: the folder of a checkpoint, made once."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "model"
            with quiet():
                made(name).save_pretrained(folders[name])
        return folders[name]

    return get
