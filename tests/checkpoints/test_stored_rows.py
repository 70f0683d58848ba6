"""Rows of stored tensors are those of the arrays that were written, in whichever files they lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from malformed import SINGLE, serialised

from grow.checkpoint.reader import open_tensors
from grow.files.distributed_checkpoint import PiecedFolder
from grow.files.stored_rows import read_matrix, read_rows
from grow.notation.dtypes import NAMES, RAW

pytestmark = pytest.mark.quick

SHAPES = [(3, 2, 5), (4, 7), (6,), (0, 5), (4, 0), ()]


def drawn(shape: tuple[int, ...], code: str) -> np.ndarray:
    """Any bits at all."""
    raw = np.random.default_rng(7).bytes(math.prod(shape) * RAW[code].itemsize)
    return np.frombuffer(raw, RAW[code]).reshape(shape)


def check(files, tensor, array: np.ndarray) -> None:
    """Rows of every beginning, middle and end, bit for bit."""
    shape = array.shape
    rows = array.reshape(shape[0] if shape else 1, math.prod(shape[1:]))
    flat = array.reshape(math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else rows
    for read, wanted in ((read_rows, rows), (read_matrix, flat)):
        count = len(wanted)
        for start, stop in ((0, count), (count // 2, count), (0, count // 3), (count // 3, count // 2)):
            got = read(files, tensor, start, stop)
            assert got.dtype == array.dtype
            assert got.shape == wanted[start:stop].shape
            assert got.tobytes() == wanted[start:stop].tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("code", RAW)
def test_rows_of_a_safetensors_file(code, shape, tmp_path):
    array, before = drawn(shape, code), np.arange(3, dtype="<f4")
    (tmp_path / SINGLE).write_bytes(serialised({"before": before, "x": array}))
    with open_tensors(tmp_path) as files:
        check(files, files.tensors["x"], array)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("code", RAW)
def test_rows_of_a_sharded_training_checkpoint(code, tmp_path):
    arrays = {str(shape): drawn(shape, code) for shape in SHAPES if 0 not in shape}
    tensors = {
        name: torch.from_numpy(array.copy().reshape(-1)).view(getattr(torch, NAMES[code])).reshape(array.shape)
        for name, array in arrays.items()
    }
    dcp.save(tensors, checkpoint_id=tmp_path, no_dist=True)
    with PiecedFolder(tmp_path) as files:
        for name, array in arrays.items():
            check(files, files.tensors[name], array)
