"""Growths and their golden files, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

import grow
from grow.verification.golden import record


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Callable[..., tuple[Path, Path, Path]]:
    """`made("llama", "2x")`: source, golden file and grown of a random checkpoint, made once; do not change them."""
    kept: dict[str, tuple[Path, Path, Path]] = {}

    def get(family: str, to: str, *, budget: int = 10**6, options=None, **fields) -> tuple[Path, Path, Path]:
        key = repr((family, to, budget, options, fields))
        if key not in kept:
            folder = tmp_path_factory.mktemp("golden")
            source = tiny.checkpoint(folder / "source", family, **fields)
            record(source, folder / "golden.safetensors", budget=budget)
            grow.widen(source, to, out=folder / "grown", verify=False, **(options or {}))
            kept[key] = source, folder / "golden.safetensors", folder / "grown"
        return kept[key]

    return get


@pytest.fixture
def copied(made, tmp_path) -> tuple[Path, Path]:
    """A golden file and a llama grown × 2 of one's own, to be damaged."""
    _, file, grown = made("llama", "2x")
    return shutil.copy(file, tmp_path), shutil.copytree(grown, tmp_path / "grown")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """The golden file of the bundled `small`, and `small` grown × 2."""
    folder = tmp_path_factory.mktemp("small")
    record("small", folder / "small.safetensors")
    return folder / "small.safetensors", grow.widen("small", "2x", out=folder / "2x", verify=False).path


@pytest.fixture(scope="session")
def wide(made) -> tuple[Path, Path, Path]:
    """A vocabulary of 500, and a budget that leaves no room for all rows and columns of the logits."""
    return made("llama", "2x", budget=30_000, vocab_size=500, tie_word_embeddings=False)
