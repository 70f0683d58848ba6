"""Growths into a folder, and refusals that leave everything around it as it was."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import grow
from grow.errors import GrowError


def widen(source: Path, out: Any, **options: Any) -> grow.Growth:
    return grow.widen(source, "2x", out=out, **{"verify": False, **options})


def refused(source: Path, out: Any, **options: Any) -> GrowError:
    """The error of a growth that leaves everything around it as it was."""
    before = tiny.snapshot(source.parent)
    with pytest.raises(GrowError) as error:
        widen(source, out, **options)
    assert tiny.snapshot(source.parent) == before
    assert error.value.fix
    return error.value


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target, target_is_directory=True)
    return path


def full_disk(after: int) -> Callable:
    """`grow_tensor` whose write number `after` meets a full disk."""
    from grow.applying.tensor_rows import grow_tensor

    left = [after]

    def grow_until_full(t, read_rows, write_rows, **options):
        def put(first: int, rows: np.ndarray) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_rows(first, rows)

        grow_tensor(t, read_rows, put, **options)

    return grow_until_full
