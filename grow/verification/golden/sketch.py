"""A large matrix sketched as a few numbers per row, which any wrong element moves.

    values       (r, c)  x[rows, columns]: all columns of a narrow matrix, a drawn set of a wide one
    top          (r, t)  the largest elements of a row in falling order, and top_columns where they are
    logsumexp    (r,)    log Σ exp of the row
    projections  (r, k)  x[rows] · signs / √width: every element of the row enters each, with weight ±1
    sum          (k,)    Σ ± projections / √n over all n rows, so that a row that is not kept counts too

Only values where all columns are kept, sum only where rows are left out. A projection has the spread of an element
of x, so one unit measures all parts. An error of one element in a row of 150,000 is 390 times smaller in a
projection; a wrong weight shows at 1e-7 or more of the spread, and the limit of an exact growth is 1e-12.

The signs are bits of SHAKE-256 of a text: the same for every machine, library and version, for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

PROJECTIONS = 8
PARTS = ("values", "top", "top_columns", "logsumexp", "projections", "sum")

Sketch = Mapping[str, np.ndarray]


class Worst(NamedTuple):
    """The largest difference of two sketches, and what differs: "[3, 17]", "[3] in projection 2"."""

    delta: float = 0.0
    where: str = ""


def signs(seed: int, what: str, count: int, many: int = 1) -> np.ndarray:
    """(count, many) of ±1, the bits of SHAKE-256("grow golden {seed} {what} {count} {many}")."""
    key = f"grow golden {seed} {what} {count} {many}".encode()
    raw = np.frombuffer(hashlib.shake_256(key).digest(-(-count * many // 8)), np.uint8)
    return np.unpackbits(raw, count=count * many).reshape(count, many) * 2.0 - 1.0


def kept_rows(n: int, count: int) -> np.ndarray:
    """`count` of n rows, evenly spaced from first to last; a single one is the last, which has the most context."""
    return np.array([n - 1]) if count == 1 < n else np.arange(count) * (n - 1) // max(count - 1, 1)


def kept_columns(seed: int, width: int, count: int) -> np.ndarray:
    """`count` of `width` columns in rising order, drawn without repetition."""
    if count == width:
        return np.arange(width)
    raw = hashlib.shake_256(f"grow golden {seed} columns {width}".encode()).digest(8 * width)
    return np.sort(np.argsort(np.frombuffer(raw, "<u8"), kind="stable")[:count])


def sketch(x: np.ndarray, *, seed: int, rows: int, columns: int, top: int) -> dict[str, np.ndarray]:
    """What is kept of x (n, width): `rows` of its rows, `columns` and the `top` largest elements of each."""
    n, width = x.shape
    some = x[kept_rows(n, rows)]
    kept: dict[str, np.ndarray] = {}
    if columns:
        kept["values"] = some[:, kept_columns(seed, width, columns)]
    if top and columns < width:
        order = np.argsort(-some, axis=1, kind="stable")[:, :top]
        kept["top"], kept["top_columns"] = np.take_along_axis(some, order, 1), order.astype(np.int32)
        high = kept["top"][:, :1]
        kept["logsumexp"] = high[:, 0] + np.log(np.exp(some - high).sum(1))
    if columns < width or rows < n:
        projected = x @ (signs(seed, "columns", width, PROJECTIONS) / np.sqrt(width))
        if columns < width:
            kept["projections"] = projected[kept_rows(n, rows)]
        if rows < n:
            kept["sum"] = (signs(seed, "rows", n) * projected).sum(0) / np.sqrt(n)
    return {name: np.ascontiguousarray(value) for name, value in kept.items()}


def bytes_per_row(width: int, columns: int, top: int) -> int:
    """What `sketch` takes for one row."""
    return 8 * width if columns == width else 8 * (columns + PROJECTIONS + (top and 1 + top)) + 4 * top


def check(kept: Sketch, n: int, width: int) -> None:
    """ValueError unless `kept` can be a sketch of an (n, width) matrix; nothing of that size is built."""
    rows, columns, top = _counts(kept)
    wanted: dict[str, tuple[int, ...]] = {}
    if columns:
        wanted["values"] = (rows, columns)
    if top:
        wanted |= {"top": (rows, top), "top_columns": (rows, top), "logsumexp": (rows,)}
    if columns < width:
        wanted["projections"] = (rows, PROJECTIONS)
    if rows < n:
        wanted["sum"] = (PROJECTIONS,)
    shapes = {name: value.shape for name, value in kept.items()}
    if shapes != wanted or not (1 <= rows <= n and max(columns, top) <= width and (not top or columns < width)):
        raise ValueError(f"{shapes} is not a sketch of ({n}, {width})")
    for name, value in kept.items():
        whole = name == "top_columns"
        fits = ((value >= 0) & (value < width)).all() if whole else np.isfinite(value).all()
        if value.dtype != (np.int32 if whole else np.float64) or not fits:
            raise ValueError(f"{name} holds something else than {'columns' if whole else 'finite numbers'}")


def _counts(kept: Sketch) -> tuple[int, int, int]:
    """How many rows, columns and largest elements `kept` has."""
    columns = kept["values"].shape[1] if "values" in kept else 0
    return len(kept["values" if columns else "projections"]), columns, kept["top"].shape[1] if "top" in kept else 0


def again(kept: Sketch, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The sketch of y that keeps what `kept` keeps."""
    rows, columns, top = _counts(kept)
    return sketch(y, seed=seed, rows=rows, columns=columns, top=top)


def worst(kept: Sketch, y: np.ndarray, seed: int) -> Worst:
    """How far y (n, width) is from the matrix that `kept` was made of. All finite; same shape."""
    new, rows = again(kept, y, seed), kept_rows(len(y), _counts(kept)[0])
    farthest = Worst()
    for name in sorted(set(PARTS) & set(kept) - {"top_columns"}, key=PARTS.index):
        delta = np.abs(kept[name] - new[name])
        if name == "top":  # the k-th largest element wherever it is now, and the element where it was
            moved = np.abs(kept["top"] - np.take_along_axis(y[rows], kept["top_columns"].astype(np.int64), 1))
            delta = np.maximum(delta, moved)
        high = float(delta.max(initial=0.0))
        if high > farthest.delta:
            row, *rest = map(int, np.unravel_index(int(delta.argmax()), delta.shape))
            farthest = Worst(high, _where(name, rows, row, rest, kept, y, seed))
    return farthest


def _where(name: str, rows: np.ndarray, row: int, rest: list[int], kept: Sketch, y: np.ndarray, seed: int) -> str:
    if name == "sum":
        return f" in the sum over all {len(y)} rows"
    if name in ("values", "top"):
        columns = kept["top_columns"][row] if name == "top" else kept_columns(seed, y.shape[1], kept["values"].shape[1])
        return f"[{rows[row]}, {columns[rest[0]]}]"
    return f"[{rows[row]}] in {'logsumexp' if name == 'logsumexp' else f'projection {rest[0]}'}"


def spread(parts: list[np.ndarray]) -> float:
    """Standard deviation over all parts, the unit of `compare.difference`; a single value is its own size."""
    values = np.concatenate([part.ravel() for part in parts])
    return float(values.std() if values.size > 1 else np.abs(values).sum())


def same_first(kept: Sketch, y: np.ndarray, tie: float) -> np.ndarray:
    """(r,) whether the largest element of a kept row is where it was, or level with it up to `tie`."""
    some = y[kept_rows(len(y), _counts(kept)[0])]
    first = kept["top_columns"][:, 0] if "top_columns" in kept else kept["values"].argmax(1)
    result: np.ndarray = some[np.arange(len(some)), first] >= some.max(1) - tie
    return result
