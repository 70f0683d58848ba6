"""Rows of embedding tables: which ones were looked up, and whether the others are the source's.

A table is read one row at a time: its other rows change nothing. What the probes looked up is counted, whichever
module or function did it; the rest is held against the source through the linear map that the rows have in common:

    y[row, j] = Σ_i x[row, i] · A[i, j]      x the source's table, y the grown one, the same A for every row
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from grow.verification.outputs.compare import spread
from grow.verification.outputs.stored_outputs import slices
from grow.verification.probes import Probe

EQUAL = 1e-9  # of a table's std: above what solving for a map rounds, below what a damaged number does
KNOWN = 32  # rows that tell coordinates apart by correlation
Rows = dict[str, torch.Tensor]  # parameter -> (rows,) bool


class Lookups(TorchFunctionMode):
    """Inside, `rows` collects what is looked up of the model's two-dimensional parameters, padding left out.

    F.embedding(index, table), table[index], table[:n]
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.rows, self.masks = model, Rows(), list[torch.Tensor]()

    def ask(self, probe: Probe) -> None:
        """Say which probe runs next: its masks tell padding."""
        given = [v.bool() for name, v in probe.inputs.items() if name.endswith("attention_mask") and v.ndim == 2]
        self.masks = [*given, probe.counted, *([] if probe.encoder_counted is None else [probe.encoder_counted])]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.nn.functional.embedding, torch.embedding, torch.Tensor.__getitem__):
            given = [*args, *(kwargs[name] for name in ("input", "weight", "indices") if name in kwargs)]
            index, table = given[:2] if func is torch.nn.functional.embedding else given[1::-1]
            self._note(table, index)
        return func(*args, **kwargs)

    def _note(self, table: Any, index: Any) -> None:
        if not isinstance(table, torch.nn.Parameter) or table.ndim != 2:
            return
        name = next((name for name, p in self.model.named_parameters() if p is table), None)
        if name is None:
            return
        seen = self.rows.setdefault(name, torch.zeros(len(table), dtype=torch.bool))
        index = index[0] if isinstance(index, tuple) else index
        if isinstance(index, torch.Tensor) and not index.is_floating_point() and index.dtype != torch.bool:
            mask = next((mask for mask in self.masks if mask.shape == index.shape), None)
            index = (index if mask is None else index[mask]).reshape(-1)
        seen[index] = True


@dataclass(frozen=True)
class Row:
    """A row that no probe looked up and that is not the source's; `column` is -1 where nothing says what it should
    be."""

    table: str
    row: int
    column: int = -1
    found: float = 0.0
    wanted: float = 0.0


def strange(name: str, x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor, unit: float = 0.0) -> Iterator[Row]:
    """The rows of `y` that are not what the others say they should be, of those that were not seen.

    seen  (rows,) bool: rows whose lookups gave the same outputs, from which the map is learned
    unit  largest relative rounding of a stored number
    """
    rest = ~seen
    if x.ndim != 2 or y.ndim != 2 or len(y) < len(x):
        yield from (Row(name, int(row)) for row in rest.nonzero().flatten()[:1])
        return
    y = y[: len(x)]
    scale = spread({name: x})[name] or 1.0
    near = max(EQUAL, 4 * unit)
    best, ratio, known = _single(_candidates(x[seen]), y[seen], near)
    if known.all():  # then no more than some rows have to be there at once
        yield from _compared(name, x, y, rest, lambda rows: _candidates(rows)[:, best] * ratio, scale, near)
        return
    x, y = x + 0, y + 0  # as plain tensors
    wanted, known = mapped(x, y, seen, near)
    if not known.all():
        yield from (Row(name, int(row)) for row in rest.nonzero().flatten()[:1])
        return
    yield from _compared(name, wanted, y, rest, lambda rows: rows, scale, near)


def _compared(
    name: str,
    x: torch.Tensor,
    y: torch.Tensor,
    rest: torch.Tensor,
    wanted: Callable[[torch.Tensor], torch.Tensor],
    scale: float,
    near: float,
) -> Iterator[Row]:
    """The rows among `rest` of y that are not what `wanted` makes of those of x."""
    parts = list(slices(len(x), max(x.shape[1], y.shape[1])))
    size = torch.full((y.shape[1],), scale, dtype=y.dtype)
    for part in parts:
        size = torch.maximum(size, wanted(x[part] + 0).abs().amax(0))
    for part in parts:
        should = wanted(x[part] + 0)
        off = ~((y[part] - should).abs() <= near * size) & rest[part][:, None]
        for row in off.any(1).nonzero().flatten().tolist():
            column, at = int(off[row].nonzero()[0]), part.start + row
            yield Row(name, at, column, float(y[at, column]), float(should[row, column]))


def mapped(
    x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor | int, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What every row of y should be, and for which columns the rows that were seen say so.

    First every column is tried as a multiple of one old column, of their mean, or of 1; what is left as a linear
    combination of all old ones, where there are rows enough to tell.
    """
    if isinstance(seen, int):  # the first rows
        seen = torch.arange(len(x)) < seen
    candidates = _candidates(x)
    best, ratio, known = _single(candidates[seen], y[seen], near)
    wanted = candidates[:, best] * ratio
    if not known.all() and len(x) >= 2 * candidates.shape[1]:
        wanted, known = _solved(candidates, y, seen, wanted, known, near)
    return wanted, known


def _candidates(x: torch.Tensor) -> torch.Tensor:
    """What a new column may be a multiple of: every old one, their mean, 1."""
    return torch.cat([x, x.mean(1, keepdim=True), torch.ones(len(x), 1, dtype=x.dtype)], 1)


def _single(a: torch.Tensor, b: torch.Tensor, near: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which column of a (rows, candidates) each column of b (rows, new) is a multiple of, by how much, and
    whether the rows say so."""
    if len(a) < min(KNOWN, 2 * (a.shape[1] - 2) + 2):
        width = b.shape[1]
        return torch.zeros(width, dtype=torch.long), torch.zeros(width, dtype=b.dtype), torch.zeros(width).bool()
    best = (_unit(a).T @ _unit(b)).abs().argmax(0)
    chosen = a[:, best]
    # the median, so that single numbers do not move the scale by which all are judged
    ratio = torch.where(chosen == 0, torch.nan, b / chosen).nanmedian(0).values.nan_to_num(0.0)
    return best, ratio, (b - chosen * ratio).abs().amax(0) <= near * b.abs().amax(0)


def _solved(
    x: torch.Tensor, y: torch.Tensor, seen: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns that are not known yet, as combinations of all old ones: solved on the rows that were seen, and on
    as many others as that takes; a damaged one among those spoils the solution, so it is left out and solved again."""
    rows = torch.cat([seen.nonzero().flatten(), (~seen).nonzero().flatten()])[: 2 * x.shape[1]]
    missing = (~known).nonzero().flatten()
    for _ in range(4):
        a, b = x[rows], y[rows][:, missing]
        solution = torch.linalg.lstsq(a, b, driver="gelsd").solution
        apart = ((a @ solution - b).abs() / b.abs().amax(0).clamp(min=1e-300)).amax(1)
        if float(apart.max()) <= near * 100 or len(rows) <= x.shape[1] + 1:
            break
        rows = rows[apart.argsort()[: max(x.shape[1] + 1, len(rows) - max(1, len(rows) // 16))]]
    wanted[:, missing] = x @ solution
    known = known.clone()
    agree = ((wanted - y)[:, missing].abs() <= 100 * near * y[:, missing].abs().amax(0)).double().mean(0) > 0.5
    inside = ((wanted - y)[seen][:, missing].abs() <= 100 * near * y[:, missing].abs().amax(0)).all(0)
    known[missing] = agree & inside
    return wanted, known


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
