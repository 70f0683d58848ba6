"""Checkpoints that are made once and damaged in copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
import pytest

import grow
from grow.architectures import config_values


@pytest.fixture(autouse=True, scope="module")
def any_class():
    """Here a table has a class for each of its conditions, whether or not stock code has one of that name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_values, "_architectures", lambda *_: iter(()))
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Callable[..., Path]:
    """`made("gpt2", "float64")`: a stock checkpoint whose parameters are all random; with `to`, what grows from it.

    Made once, and not to be changed.
    """
    found: dict[tuple, Path] = {}

    def get(variant: str, dtype: str = "float64", to: str = "") -> Path:
        if (variant, dtype, to) not in found:
            folder = tmp_path_factory.mktemp("made") / variant
            if to:
                grow.widen(get(variant, dtype), to, out=folder, verify=False)
            else:
                models.save(variant, folder, dtype)
            found[variant, dtype, to] = folder
        return found[variant, dtype, to]

    return get
