"""The fast paths give the reference's bits: every role, operator, dtype and split, in one block and in many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from grow.applying import fresh_rows, matrix_rows, norms, reference, tensor_rows
from grow.applying.arithmetic import arithmetic
from grow.applying.paths import Path, path_of
from grow.applying.reference import grow_whole
from grow.errors import BadInput, Refused
from grow.notation.axes import parse_signature
from grow.notation.dtypes import RAW
from grow.notation.maps import BLEND, AxisMap, axis_map, concatenate, product
from grow.notation.numbers import narrow, widen
from grow.notation.operators import OPERATORS, grow_head_dim, grow_heads
from grow.planning.change import DRAWN
from grow.planning.tensor import SPLITS, Share, TensorPlan

DTYPES = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16", "BF16 to F32": "F32", "F32 to F64": "F64"}
MATRICES = ("ffn <- hidden", "hidden -> ffn", "vocab -> hidden")
BLOCKS = (1 << 18, 61, 1)  # all rows, a few of them, one


def operator(name: str, context: str, times: float) -> Callable[[int], AxisMap]:
    return lambda n: OPERATORS[name](n, round(n * times), context)


def blended(n: int) -> AxisMap:
    return axis_map(n, [*range(n), *[BLEND] * 5])


def heads(operator: str) -> Callable[[int], AxisMap]:
    """Query heads of two groups, the size of a head being the rest: copies and unread ones beside each other."""

    def grown(n: int) -> AxisMap:
        found = grow_heads(2, 1, 6, 3, operator)
        assert found is not None
        return product([found.heads, OPERATORS["unread"](n, n + 3, "elementwise")])

    return grown


def head_dims(n: int) -> AxisMap:
    """q, k and v behind each other: a scale, silent and unread coordinates in one dim, the old ones moved."""
    return concatenate(grow_head_dim(n, n + 4, np.arange(n) + 1, scale=np.sqrt((n + 4) / n), qk_norm=False))


def raw_stream(n: int) -> AxisMap:
    """Copies whose scale nothing undoes but the reader."""
    copied = OPERATORS["copies"](n, 2 * n + 1, "rms")
    return replace(copied, gain=np.ones(copied.m), read=copied.read * copied.gain)


MAPS: dict[str, Callable[[int], AxisMap | None]] = {
    "unchanged": lambda n: None,
    "copies x2": operator("copies", "elementwise", 2),
    "copies x3": operator("copies", "rms", 3),
    "copies uneven": operator("copies", "elementwise", 2.45),
    "copies scaled": operator("copies", "rms", 1.6),
    "silent": operator("silent", "rms", 1.6),
    "silent x4": operator("silent", "rms", 4),
    "mean": operator("mean", "layernorm", 1.6),
    "unread": operator("unread", "elementwise", 1.6),
        "raw stream": raw_stream,
}
MAPS_OF_TABLES = {"unchanged": (MAPS["unchanged"], 1), "blend": (blended, 1)}
SEVERAL = {"heads copies": (heads("copies"), 2), "heads unread": (heads("unread"), 2), "head_dim": (head_dims, 3)}
"""Maps of dims that are so many times as large as what they are told."""


def planned(signature: str, dtype: str, maps: tuple[AxisMap | None, ...], shape: tuple[int, ...], **fields) -> TensorPlan:
    new = tuple(n if m is None else m.m for m, n in zip(maps, shape))
    source = dtype.split(" to ")[0]
    return TensorPlan("new", "old", parse_signature(signature), maps, shape, new, source, DTYPES[dtype], **fields)


def old_numbers(t: TensorPlan, seed: int) -> np.ndarray:
    """N(0, 1) of several scales, signs and a row of zeros; stored."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(t.matrix) * 2.0 ** draw.integers(-8, 2, t.matrix)
    if t.matrix[0] > 4 and t.matrix[1] > 1:
        values[3] = 0
    return narrow(values, t.source_dtype)


def fast(t: TensorPlan, old: np.ndarray, split: str, block: int, above: np.ndarray | None, patch) -> np.ndarray:
    """What `grow_tensor` hands out; each row once."""
    new, times = np.zeros(t.new_matrix, RAW[t.dtype]), np.zeros(t.new_matrix[0], dtype=int)

    def write(first: int, rows: np.ndarray) -> None:
        new[first : first + len(rows)] = rows
        times[first : first + len(rows)] += 1

    patch.setattr(tensor_rows, "BLOCK", block)
    upper = None if above is None else lambda start, stop: above[start:stop]
    tensor_rows.grow_tensor(t, lambda a, b: old[a:b], write, split=split, seed=7, read_above=upper)
    assert (times == 1).all()
    return new


def agree(t: TensorPlan, split: str, patch, blocks: tuple[int, ...] = BLOCKS) -> bool:
    old = old_numbers(t, 1)
    above = old_numbers(t, 2) if t.above else None
    for block in blocks:
        found = fast(t, old, split, block, above, patch)
        wanted = grow_whole(t, old, split=split, seed=7, block=block, above=above)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype) or found.tobytes() != wanted.tobytes():
            return False
    return True


def matrices(signature: str, dtype: str, **fields) -> Iterator[tuple[str, TensorPlan]]:
    """One tensor per pair of maps, of drawn sizes that differ from each other."""
    draw = np.random.default_rng(len(signature) + len(dtype))
    maps = {**{name: (of, 1) for name, of in MAPS.items()}, **SEVERAL}
    tables = {**MAPS_OF_TABLES} if signature.startswith("vocab") else maps
    for (row, (rows, a)), (col, (cols, b)) in itertools.product(tables.items(), maps.items()):
        n, k = draw.choice(np.arange(5, 16), 2, replace=False).tolist()
        yield f"{row}, {col}", planned(signature, dtype, (rows(n), cols(k)), (a * n, b * k), **fields)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("signature", MATRICES)
def test_matrices(signature, dtype, split, monkeypatch):
    different = [name for name, t in matrices(signature, dtype) if not agree(t, split, monkeypatch)]
    assert different == []
