"""Recipes that were carried out once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from short_recipes import SHORT, written
from training import tokens

import grow


@pytest.fixture(scope="session")
def place(tiny, tmp_path_factory) -> Path:
    """A folder with a checkpoint, token files and recipes beside them."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(tiny("llama-tied"), folder / "llama")
    tokens(folder / "tokens")
    return folder


@pytest.fixture(scope="session")
def short(place) -> Path:
    return written(place, SHORT, "short.toml")


@pytest.fixture(scope="session")
def done(short, tmp_path_factory) -> Any:
    return grow.run(short, out=tmp_path_factory.mktemp("done") / "out")
