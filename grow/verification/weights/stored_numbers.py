"""Two checkpoints of one shape, compared number by number.

Probes look at a few hundred tokens. A pair without grow.json whose outputs agree on them can still differ in the row of
a token that no probe holds; where the shapes are equal that is seen here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grow.applying.engine import stored_rows
from grow.applying.tensor_rows import BLOCK
from grow.architectures import known_architecture
from grow.architectures.match import match
from grow.checkpoint.reader import Checkpoint
from grow.errors import GrowError, listing
from grow.notation.axes import WRITE
from grow.notation.dim_maps import coordinates
from grow.notation.dtypes import BITS, STORES
from grow.notation.numbers import narrow, widen
from grow.verification.verdict import Check

F64 = np.dtype(np.float64)
KEY_BIAS = "adds one number to all scores of a query, which softmax does not see"


@dataclass(frozen=True)
class StoredDifference:
    """The first number of a tensor that differs, and how many do; `invisible` is why no output can change."""

    tensor: str
    at: tuple[int, ...]
    found: float
    wanted: float
    count: int
    invisible: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "tensor": self.tensor,
            "index": list(self.at),
            "found": self.found,
            "wanted": self.wanted,
            "rule": "the same as in the source",
        }

    def __str__(self) -> str:
        more = f" and {self.count - 1:,} more" if self.count > 1 else ""
        place = ", ".join(map(str, self.at))
        return f"{self.tensor}[{place}]{more}: found {self.found:.9g}, wanted {self.wanted:.9g}"


def same_shapes(source: Checkpoint, grown: Checkpoint) -> bool:
    """Both store tensors of the same names and shapes; counters and masks in the same dtype too."""
    a, b = ({i.name: (i.shape, i.dtype in BITS or i.dtype) for i in c.tensors.values()} for c in (source, grown))
    return a == b


def narrowed(source: Checkpoint, grown: Checkpoint) -> str:
    """`: a (F64 -> BF16), b (F64 -> BF16)`, tensors stored in fewer bits than the source's; "" for none."""
    fewer_bits = [
        f"{name} ({source.tensors[name].dtype} -> {info.dtype})"
        for name, info in grown.tensors.items()
        if name in source.tensors and BITS.get(info.dtype, 99) < BITS.get(source.tensors[name].dtype, 0)
    ]
    return f": {listing(fewer_bits)}" if fewer_bits else ""


def stored_differences(source: Checkpoint, grown: Checkpoint) -> Iterator[StoredDifference]:
    """One entry for every tensor whose values differ, in the order of the files; read in blocks."""
    unseen = invisible(source)
    for name, info in source.tensors.items():
        if info.dtype not in BITS:
            if source.sha256(info) != grown.sha256(grown.tensors[name]):
                yield StoredDifference(name, (0,) * len(info.shape), math.nan, math.nan, math.prod(info.shape))
            continue
        reason, hidden = unseen.get(name, ("", np.zeros(0, dtype=bool)))
        first, found, wanted, count = None, 0.0, 0.0, 0
        for (start, a), (_, b) in zip(_blocks(source, name), _blocks(grown, name)):
            off = ~((a == b) & np.isfinite(b))  # what is not a number equals nothing
            if off.any():
                if first is None:
                    i, j = np.argwhere(off)[0]
                    first = (start + int(i), *(int(k) for k in np.unravel_index(j, info.shape[1:])))
                    found, wanted = float(b[i, j]), float(a[i, j])
                count += int(off.sum())
                if reason and not hidden[start + np.flatnonzero(off.any(axis=1))].all():
                    reason = ""
        if first is not None:
            yield StoredDifference(name, first[: len(info.shape)], found, wanted, count, reason)


def _blocks(checkpoint: Checkpoint, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, (rows, columns) in float64) of a stored tensor, a few rows at a time."""
    info = checkpoint.tensors[name]
    step = max(1, BLOCK // max(1, math.prod(info.shape[1:])))
    rows = info.shape[0] if info.shape else 1
    for start in range(0, rows, step):
        yield start, widen(stored_rows(checkpoint, name, start, min(start + step, rows)), info.dtype, F64)


def not_finite(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The first stored number that is NaN or infinite, as in `Verification.first`; None where all are finite."""
    for name, info in checkpoint.tensors.items():
        if info.dtype not in BITS:
            continue
        for start, values in _blocks(checkpoint, name):
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                i, j = (int(k) for k in bad[0])
                index = (start + i, *(int(k) for k in np.unravel_index(j, info.shape[1:])))[: len(info.shape)]
                rule = "a finite number"
                return {
                    "tensor": name,
                    "index": list(index),
                    "found": float(values[i, j]),
                    "wanted": None,
                    "rule": rule,
                }
    return None


def narrowest(checkpoint: Checkpoint) -> str:
    """The coarsest dtype that holds every stored weight as it is, whatever they are stored in; "" without weights."""
    left = ["BF16", "F16", "F32", "F64"]
    has_weights = False
    for name, info in checkpoint.tensors.items():
        if info.dtype not in BITS:
            continue
        has_weights = True
        for _, values in _blocks(checkpoint, name):
            for dtype in [dtype for dtype in left if info.dtype not in STORES[dtype]]:
                if not np.array_equal(widen(narrow(values, dtype), dtype, F64), values, equal_nan=True):
                    left.remove(dtype)
    return left[0] if has_weights else ""


def invisible(checkpoint: Checkpoint) -> Mapping[str, tuple[str, np.ndarray]]:
    """Tensor -> why no output depends on some of its rows, and a mask of all rows that says which.

    Only for families whose tables say so.
    """
    known = known_architecture(checkpoint.config)
    if known is None:
        return {}
    attention = known.family.attention
    if attention.rope or known.qk_norm or attention.positional:
        return {}
    try:
        matched = match(known, checkpoint.tensors, str(checkpoint.path))
    except GrowError:
        return {}
    unseen = {}
    for t in matched.tensors:
        dim = t.row.signature.dims[0]
        if len(t.row.signature.dims) == 1 and dim.role == WRITE and dim.has("head_dim"):
            keys = coordinates(dim.space, "head_dim.k", known.sizes)
            if keys.any():
                unseen[t.name] = KEY_BIAS, keys
    return unseen


def from_files(
    fault: Mapping[str, Any] | None,
    stored: Sequence[StoredDifference],
    fields: Sequence[Mapping[str, Any]],
    failed: Check,
) -> dict[str, Any]:
    """What differs, without a forward pass: a fault of the certificate, a stored number, a field, or what failed."""
    if fault is None and stored:
        fault = stored[0].document()
    if fault is not None:
        text = f"{fault['tensor']}: {fault['rule']}"
        if fault["index"] is not None:
            place = ", ".join(map(str, fault["index"]))
            numbers = f"is {fault['found']:.9g}, wanted {fault['wanted']:.9g}"
            text = f"{fault['tensor']}[{place}] {numbers} ({fault['rule']})"
        return {"module": fault["tensor"].rpartition(".")[0], **fault, "field": None, "text": text}
    if fields:
        name, found, wanted = (fields[0][key] for key in ("field", "grown", "source"))
        text = f"config.json: {name}: found {found!r}, wanted {wanted!r}"
        return {"module": None, "tensor": None, "field": name, "found": found, "wanted": wanted, "text": text}
    return {"module": None, "tensor": None, "field": None, "text": f"{failed.name}: {failed.reason}"}
