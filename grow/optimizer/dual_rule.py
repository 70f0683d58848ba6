"""The dual rule: how moments, rates and new entries of a grown tensor follow from its maps.

Where weights are multiplied with `write`, gradients are multiplied with `read`, and the other way round.

An entry of a grown tensor holds v times an old entry, and its gradient is γ times the old entry's. Per stored dim, by
the chain rule through x̃ = write·x, a norm's gain × `gain`, and readers that weigh with `read`:

    role of the dim          v: its value     γ: its gradient    because
    write   rows             write            read · gain        ∂L/∂x̃ = gain · ∂L/∂(what readers see)
    read    columns          read             gain · write       the input is gain · write times the old one
    gain    a norm's weight  gain             read · write       the normalised input is write times the old one
    shift   a norm's bias    1                read
    gain    in front of a    read · gain²     write²             the tied table is written with `write` and read as it
    shift   tied head        read · gain      write              is, so the norm takes the share of each copy
    rows of a looked-up      1                1, 0 on repeats    what was never looked up has no gradient
            table

    a tensor                 Π of its dims    Π of its dims      × factor and ÷ factor (chains of LayerNorms)

The dual of the axis map's law follows from L̃(grown(W)) = L(W) and is what the tests hold against autograd:

    for every old entry:   Σ over its copies of   v · γ  =  1

So first moments grow by γ and second moments by γ². A tied table needs no case of its own: as the embedding its γ is
read · gain, and as the head it is gain · write · (the norm's read · gain), the same number. Growing head_dim multiplies
q by √(d'/d), which is `write` of head_dim.q, and γ is its inverse. Staged training (arXiv 2203.06211) doubles GPT-2
together with its optimizer state; here the rule is derived for any map.

The rule is exact (γ is the gradient's factor on every copied entry) for even shares, beside silent and unread
coordinates, and for inserted layers. Elsewhere γ is nominal:
    drawn shares     `read` is the expectation of a draw; the expectation of the gradient over draws is γ · old
    mean             gradients of the stream also flow through the coordinates that carry the mean
    head_dim, q/k norm   the part of a gradient along q itself does not scale with the rest
    kv heads dealt   (fewer queries per kv head) a copy's gradient comes from its own queries; the sum is the old one
    new tokens       take a part of the softmax
    an untied head   a tied table's state belongs to the sum of two gradients, which cannot be separated; both get it

With even shares, training then commutes with growing: an entry follows v times its old trajectory at these rates:

    SGD     lr · v/γ             weight decay · γ/v
    Adam    lr · v      eps · γ  weight decay · γ/v
    AdamW   lr · v      eps · γ  weight decay / v
    Muon    lr · v · √(c·d)      weight decay / (v · √(c·d))    for c and d copies of every row and column: orthogonal
                                 updates of copies are that much smaller (before its own adjustment to the shape)

An entry is new unless it is the first to carry an old one: fresh coordinates, further copies and inserted layers are.
This module knows no optimizer class and no framework: moments are numpy arrays or torch tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from grow.notation.axes import GAIN, READ, SHIFT
from grow.notation.maps import AxisMap
from grow.notation.origins import Read, Stack
from grow.optimizer.arrays import along, as_like, gather, joined, pick, ratio, times, work, zeros
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan

V = TypeVar("V")
POLICIES = ("fresh-new", "carry", "drop")
"""What happens to the state of new entries: see `grow.optimizer.torch_classes`."""


@dataclass(frozen=True)
class Factors:
    """How the m new coordinates of one stored dim follow from the old ones.

    source    (m,) the old coordinate, 0 where there is none
    value     (m,) v, 0 on fresh coordinates
    gradient  (m,) γ, 0 on fresh coordinates
    first     (m,) True for the first one that carries an old coordinate
    """

    source: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    first: np.ndarray


def factors(t: TensorPlan) -> tuple[Factors | None, ...]:
    """v and γ along each stored dim; None where nothing changes. See the table above."""
    return tuple(
        None if m is None else _factors(m, role, t.tied, dim.looked_up)
        for m, role, dim in zip(t.maps, t.roles, t.signature.dims)
    )


def _factors(m: AxisMap, role: str, tied: bool, looked_up: bool) -> Factors:
    copied = m.source >= 0
    source = np.where(copied, m.source, 0)
    first = np.zeros(m.m, dtype=bool)
    # a copy that adds nothing to the law does not carry (k under a q/k norm whose gain is 0)
    carriers = np.flatnonzero(copied & (m.read * m.gain * m.write != 0))
    first[carriers[np.unique(m.source[carriers], return_index=True)[1]]] = True
    one = np.ones(m.m)
    value, gradient = {
        READ: (m.read, m.gain * m.write),
        GAIN: (m.read * m.gain**2, m.write**2) if tied else (m.gain, m.read * m.write),
        SHIFT: (m.read * m.gain, m.write) if tied else (one, m.read),
    }.get(role, (m.write, first if looked_up else m.read * m.gain))
    return Factors(source, np.where(copied, value, 0.0), np.where(copied, gradient, 0.0), first)


def grow_moment(
    t: TensorPlan, moment: Any, power: int, *, copies: bool = True, rows: tuple[int, int] | None = None
) -> Any:
    """t.shape -> t.new_shape: the moment of the grown tensor, in the moment's own dtype and on its device.

    power   1 for an average of gradients (γ), 2 for an average of their squares (γ²)
    copies  False: further copies of an entry start at 0, as fresh ones do
    rows    (first, end): only these rows of the result

    The state of a tensor that belongs to an identity layer, or was filled with a number, starts at 0.
    Example: hidden 64 -> 128 by copies; exp_avg of a down_proj (64, 256) hidden <- ffn becomes (128, 256)
    with both copies of a row at 1/2 of the old one.
    """
    first, end = rows or (0, t.new_shape[0])
    if not carries(t, copies):
        return zeros(moment, (end - first, *t.new_shape[1:]))
    here, *others = factors(t)
    some = pick(moment, 0, here.source[first:end]) if here is not None else moment[first:end]
    grown = work(some)
    if here is not None:
        grown = times(grown, 0, _scale(here, power, copies)[first:end])
    for dim, f in enumerate(others, 1):
        if f is not None:
            grown = gather(grown, dim, f.source, _scale(f, power, copies))
    if t.factor != 1:
        grown = grown / t.factor**power
    return as_like(grown, moment)


def grow_factored(t: TensorPlan, row: Any, col: Any, *, copies: bool = True) -> tuple[Any, Any]:
    """The row and column means of a second moment that is kept as their product: (n, 1), (1, k) -> (m, 1), (1, l).

    Adafactor estimates V = row · col / mean(row). The grown estimate is Ṽ[j, k] = γr[j]² γc[k]² V[source], of which

        row̃[j] = γr[j]² · row[source j] · Σ_k γc[k]² col[source k] / l  ÷  (Σ col / k)           and col̃ alike

    are again its means, because V is a product. Ṽ is exactly γ² times V, whatever is fresh. They are also the means
    that Adafactor would have kept of the grown gradients, where Σ γ² over the copies is the same all along the other
    dim. In a stack, (e, n, 1) and (e, 1, k), every matrix is a product of its own, and in a kernel those of its last
    two dims.
    """
    if not carries(t, copies):
        return zeros(row, (*t.new_shape[:-1], 1)), zeros(col, (*t.new_shape[:-2], 1, t.new_shape[-1]))
    if not isinstance(t.origin, Stack):
        return _factored([t], row, col, copies)
    if not t.signature.stacked:
        return _factored_kernel(t, row, col, copies)
    height, made = t.new_shape[1], []
    for e in range(t.new_shape[0]):  # each matrix has its own means, and experts keep their order
        parts = [piece for begin, piece in t.parts if begin // height == e]
        made.append(_factored(parts, row[e], col[e], copies))
    rows, cols = zip(*made)
    return joined(rows, row), joined(cols, col)


def _factored_kernel(t: TensorPlan, row: Any, col: Any, copies: bool) -> tuple[Any, Any]:
    """The grown means of a tensor of more than two dims."""
    *outer, f_row, f_col = factors(t)
    rows, cols = work(row), work(col)
    for dim, f in enumerate(outer):
        if f is not None:
            rows, cols = (gather(x, dim, f.source, _scale(f, 2, copies)) for x in (rows, cols))
    new_rows = rows if f_row is None else gather(rows, rows.ndim - 2, f_row.source, _scale(f_row, 2, copies))
    new_cols = cols if f_col is None else gather(cols, cols.ndim - 1, f_col.source, _scale(f_col, 2, copies))
    by_cols, by_rows = ratio(new_cols, cols, each=True), ratio(new_rows, rows, each=True)
    new_rows, new_cols = (x * by / t.factor**2 for x, by in ((new_rows, by_cols), (new_cols, by_rows)))
    return as_like(new_rows, row), as_like(new_cols, col)


def _factored(parts: list[TensorPlan], row: Any, col: Any, copies: bool) -> tuple[Any, Any]:
    """The grown means of one matrix, whose parts lie below each other."""
    rows, cols, first, grown = work(row), work(col), 0, []
    for t in parts:
        own, f_row = rows[first : first + t.shape[0]], factors(t)[0]
        grown.append(own if f_row is None else gather(own, 0, f_row.source, _scale(f_row, 2, copies)))
        first += t.shape[0]
    f_col = factors(parts[0])[1]
    new_rows = grown[0] if len(grown) == 1 else joined(grown, row)
    new_cols = cols if f_col is None else gather(cols, 1, f_col.source, _scale(f_col, 2, copies))
    by_cols, by_rows = ratio(new_cols, cols), ratio(new_rows, rows)
    factor = parts[0].factor
    new_rows, new_cols = (x * by / factor**2 for x, by in ((new_rows, by_cols), (new_cols, by_rows)))
    return as_like(new_rows, row), as_like(new_cols, col)


def carries(t: TensorPlan, copies: bool = True) -> bool:
    """Whether any entry holds an old one; for `copies` see `grow_moment`."""
    match t.origin:
        case Read(again=again, twin=twin):
            first = not again and (twin is None or twin.place == 0)
            return not t.inserted and (copies or first)
        case Stack(pieces=pieces):
            return any(carries(piece, copies) for piece in pieces)
    return False


class Rate(NamedTuple):
    """The factors of each entry of a grown parameter, float64: it holds `value` times an old entry and gets `gradient`
    times its gradient. Both are 0 where it holds none."""

    value: Any
    gradient: Any


class PerTensor(Mapping[str, V], Generic[V]):
    """Name of a grown parameter -> something of its size, computed when it is looked up and not kept."""

    def __init__(self, plan: Plan, compute: Callable[[TensorPlan], V]) -> None:
        self._tensors = {plan.in_memory.get(t.name, t.name): t for t in plan.tensors}
        self._compute = compute

    def __getitem__(self, name: str) -> V:
        return self._compute(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def new_entries(plan: Plan) -> Mapping[str, Any]:
    """Parameter -> BoolTensor of its shape, True where an entry is new, so that one part can be re-warmed or frozen.

    For every old entry exactly one entry is not new: the first that carries it. Among the copies of an expert that is
    the first one; where a dense FFN became experts it is the first group, or the shared expert that alone carries it. A
    tied table that is stored under two names (BERT's decoder bias) is listed under both.
    """
    return PerTensor(plan, new_entries_of)


def new_entries_of(t: TensorPlan) -> Any:
    """`new_entries` of one parameter."""
    import torch

    if isinstance(t.origin, Stack):
        return _stacked(t.origin, new_entries_of, t.new_shape)
    if not carries(t, copies=False):
        return torch.ones(t.new_shape, dtype=torch.bool)
    old = torch.ones(t.new_shape, dtype=torch.bool)
    for dim, f in enumerate(factors(t)):
        if f is not None:
            old &= torch.from_numpy(f.first).reshape(along(dim, old.ndim))
    return ~old


def rates(plan: Plan) -> Mapping[str, Rate]:
    """Parameter -> `Rate`: what per-entry rates need, see the module's docstring."""
    return PerTensor(plan, rates_of)


def rates_of(t: TensorPlan) -> Rate:
    """`rates` of one parameter."""
    import torch

    if isinstance(stack := t.origin, Stack):
        values = _stacked(stack, lambda piece: rates_of(piece).value, t.new_shape)
        return Rate(values, _stacked(stack, lambda piece: rates_of(piece).gradient, t.new_shape))
    if not isinstance(t.origin, Read) or not carries(t):
        return Rate(*(torch.zeros(t.new_shape, dtype=torch.float64) for _ in range(2)))
    value = torch.full(t.new_shape, t.origin.factor, dtype=torch.float64)
    gradient = torch.full(t.new_shape, 1 / t.origin.factor, dtype=torch.float64)
    for dim, f in enumerate(factors(t)):
        if f is not None:
            value *= torch.from_numpy(f.value).reshape(along(dim, value.ndim))
            gradient *= torch.from_numpy(f.gradient).reshape(along(dim, value.ndim))
    return Rate(value, gradient)


def _stacked(stack: Stack[TensorPlan], compute: Callable[[TensorPlan], Any], shape: tuple[int, ...]) -> Any:
    """The results for all matrices of a stack, each in its place."""
    import torch

    return torch.cat([compute(piece) for piece in stack.pieces]).reshape(shape)


def _scale(f: Factors, power: int, copies: bool) -> np.ndarray:
    return f.gradient**power if copies else f.gradient**power * f.first
