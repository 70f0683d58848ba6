"""Growth operators: functions that return an axis map.

What may be done to an axis depends on what sits on it, the *context*:

    rms           the residual stream, read through RMSNorm
    layernorm     the residual stream, read through LayerNorm with a gain
    plain         a stream that some norm writes (post-LN), or that a norm without gain or nothing reads
    elementwise   units between two matrices: FFN units, attention heads

`OPERATORS` is the table of both; a new operator is one class and one line there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from grow.notation.maps import MEAN, SILENT, UNREAD, AxisMap, axis_map


class Copies:
    """Copy every coordinate; consumers share each weight among the copies.

    m = c·n    write 1, gain 1: exact through any norm and elementwise function; copy k of i lies at k·n + i
    else       RMSNorm only: coordinate i has c_i copies written with √(m/(n·c_i)), gain 1/write,
               so that the mean square over the axis, eps included, is unchanged
    Net2Net (arXiv 1511.05641), HyperCloning (2409.12903) for m = c·n.
    """

    name = "copies"
    meaning = "every old unit several times; what reads the copies shares each weight among them"
    contexts: ClassVar = {"rms", "layernorm", "plain", "elementwise"}

    def allows(self, n: int, m: int, context: str) -> bool:
        return m % n == 0 or context in ("rms", "elementwise")

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        source = np.arange(m) % n
        write = np.ones(m)
        if context != "elementwise" and m % n:
            counts = np.bincount(source, minlength=n)
            write = np.sqrt(m / (n * counts[source]))
        return axis_map(n, source, write=write, gain=1 / write, operator=self.name)


class Silent:
    """Append coordinates that carry 0 until training fills them; producers × s, norm gains ÷ s, s = √(m/n).

    RMSNorm sees Σ s²x² / m = Σ x² / n, so eps stays as it is, hard-coded or shared. Consumers of the new
    coordinates are random. Any m ≥ n.  LEMON's and Gesmundo & Maile's zero padding, without touching eps.
    """

    name = "silent"
    meaning = "new coordinates that carry 0 until training fills them"
    contexts: ClassVar = {"rms"}

    def allows(self, n: int, m: int, context: str) -> bool:
        return True

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        s = math.sqrt(m / n)
        return axis_map(n, _append(n, m, SILENT), write=s, gain=1 / s, operator=self.name)


class Mean:
    """Append coordinates that carry s · mean of the old ones, s = √(m/n): LayerNorm maps them to 0.

    The mean over the axis scales by s and the variance is unchanged, so eps stays as it is. Gains ÷ s on the
    old coordinates, bias 0 on the new. Any m ≥ n, for LayerNorm in front of a branch.  LEMON (2310.07999).
    """

    name = "mean"
    meaning = "new coordinates that carry the mean of the old ones, which LayerNorm takes away"
    contexts: ClassVar = {"layernorm"}

    def allows(self, n: int, m: int, context: str) -> bool:
        return True

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        s = math.sqrt(m / n)
        return axis_map(n, _append(n, m, MEAN), write=s, gain=1 / s, operator=self.name)


class Unread:
    """Append units that compute something random and that no consumer reads yet (weight 0).

    Exact in every dtype and for any m ≥ n; the zero consumers get a gradient at once.
    Gesmundo & Maile (2308.06103), theorem 3.1.
    """

    name = "unread"
    meaning = "new units that compute something, and that all readers weigh with 0 at first"
    contexts: ClassVar = {"elementwise"}

    def allows(self, n: int, m: int, context: str) -> bool:
        return True

    def __call__(self, n: int, m: int, context: str) -> AxisMap:
        return axis_map(n, _append(n, m, UNREAD), operator=self.name)


OPERATORS = {op.name: op for op in (Copies(), Silent(), Mean(), Unread())}

# The first operator of the list that allows (n, m) is the default.
DEFAULTS = {
    "rms": ("copies", "silent"),
    "layernorm": ("copies", "mean"),
    "plain": ("copies",),
    "elementwise": ("unread",),
}


def default_operator(n: int, m: int, context: str) -> str | None:
    """The name of the operator used for n -> m when nobody chooses, or None: not exact."""
    if context == "rms" and m % n:
        return "silent"
    return next((name for name in DEFAULTS[context] if OPERATORS[name].allows(n, m, context)), None)


def commutes(m: AxisMap, context: str) -> str:
    """Why what sits on the axis does not see what it saw before; "" when it does.

    rms          Σ write² over the copies of each old coordinate is m/n; fresh ones are silent
    layernorm    the same number c of copies of each, all written with √(m/(n·c)); fresh ones carry the mean likewise
    plain        the same number of copies of each, written with 1, and nothing else
    elementwise  copies are written with 1, and fresh ones are unread

    Where no norm with a gain is in between, nothing can take a gain.
    """
    if m.is_identity:
        return ""
    copied, allowed = m.source >= 0, {"rms": SILENT, "layernorm": MEAN}.get(context)
    if context in ("elementwise", "plain") and (m.gain[copied] != 1).any():
        return "nothing on it has a gain"
    if context == "elementwise":
        if (m.source[~copied] != UNREAD).any():
            return "a fresh unit is read"
        return "" if (m.write[copied] == 1).all() else "a function of one unit sees another scale"
    if (m.source[~copied] != allowed).any():
        return "a norm sees fresh coordinates that are neither silent nor the mean as it needs them"
    squares = np.bincount(m.source[copied], m.write[copied] ** 2, minlength=m.n)
    if np.abs(squares * m.n / m.m - 1).max() > 1e-12:  # roundings of √ and a sum
        return "a norm sees another sum of squares"
    same = (m.counts == m.counts[0]).all() and (m.write == m.write[0]).all()
    if context != "rms" and not same:
        return "LayerNorm sees another mean"
    if context == "layernorm" and np.abs(m.gain[copied] * m.write[copied] - 1).max(initial=0.0) > 1e-12:
        return "the LayerNorm's gain and its bias no longer go together"
    return ""


@dataclass(frozen=True)
class HeadMaps:
    """Where the old heads lie among the new: `heads` for q and the output projection, `kv_heads` for k and v."""

    heads: AxisMap
    kv_heads: AxisMap

    @property
    def even(self) -> bool:
        """Whether every old head has equally many copies, and none is fresh."""
        return all(m.m == m.counts.sum() and len(set(m.counts.tolist())) == 1 for m in (self.heads, self.kv_heads))


def grow_heads(heads: int, kv_heads: int, new_heads: int, new_kv_heads: int, operator: str) -> HeadMaps | None:
    """Grouped-query attention reads kv head ⌊q / q_per_kv⌋: old query heads keep a copy of their own kv head.

    q_per_kv g -> g' ≥ g   old groups stay whole, new query heads join them or come in new groups
    q_per_kv g -> g' < g   every old group is dealt over ⌈g/g'⌉ new ones that share its kv head's weights
    Fresh heads are `unread`, or cyclic `copies` of whole groups (then q_per_kv must stay, or divide).
    None when the old heads do not fit.
    """
    g, g2 = heads // kv_heads, new_heads // new_kv_heads
    parts = -(-g // g2)
    if parts * kv_heads > new_kv_heads:
        return None
    old = np.arange(heads)
    place = (old // g * parts + old % g // g2) * g2 + old % g % g2
    source = np.full(new_heads, UNREAD)
    source[place] = old
    kv_source = np.full(new_kv_heads, UNREAD)
    kv_source[: parts * kv_heads] = np.repeat(np.arange(kv_heads), parts)
    if operator == "copies":
        block, kv_block = parts * kv_heads * g2, parts * kv_heads
        if (source[:block] == UNREAD).any():
            filled = source[:block].reshape(kv_block, g2)
            for group in filled:
                kept = group[group != UNREAD]
                group[:] = kept[np.arange(g2) % len(kept)]
        source = source[np.arange(new_heads) % block]
        kv_source = kv_source[np.arange(new_kv_heads) % kv_block]
    return HeadMaps(axis_map(heads, source, operator=operator), axis_map(kv_heads, kv_source, operator=operator))


def grow_head_dim(
    d: int, d2: int, place: np.ndarray, *, scale: float, qk_norm: bool, mates: Callable[[int], np.ndarray] = np.arange
) -> tuple[AxisMap, AxisMap, AxisMap]:
    """Maps of `head_dim.q`, `.k` and `.v`; old coordinate i of q and k moves to place[i].

    The score of a head is Σ q·k; attention divides it by √d' afterwards, so q·k must come out `scale` times
    larger (√(d'/d), or 1 where a config scalar sets the scale).
        plain      q × scale, fresh q random, fresh k silent
        qk-norm    an RMSNorm over the head sees every coordinate: fresh ones are copies, written with
                   a = √(d'/(d·c)) so that the mean square is unchanged; q's gain is scale/a, k's gain 1/a on the
                   old coordinates and 0 on the fresh ones (the single zero factor)
    mates  size -> the coordinates of a head in the order in which they are copied: a norm behind the rotation sees the
           sum of squares of a pair alone, and pairs are copied whole
    v's new coordinates are unread.
    """
    if not qk_norm:
        q_source, k_source = np.full(d2, UNREAD), np.full(d2, SILENT)
        q_source[place] = k_source[place] = np.arange(d)
        q = axis_map(d, q_source, write=scale, operator="unread")
        k = axis_map(d, k_source, read=np.where(k_source >= 0, 1.0, 0.0), operator="silent")
    else:
        rest = mates(d2)[~np.isin(mates(d2), place)]
        source = np.empty(d2, dtype=np.int64)
        source[place] = np.arange(d)
        source[rest] = mates(d)[np.arange(len(rest)) % d]
        a = np.sqrt(d2 / (d * np.bincount(source, minlength=d)[source]))
        primary = np.zeros(d2)
        primary[place] = 1.0
        q = axis_map(d, source, write=a, gain=scale / a, read=primary / scale, operator="copies")
        k = axis_map(d, source, write=a, gain=primary / a, read=primary, operator="copies")
    v = axis_map(d, _append(d, d2, UNREAD), operator="unread")
    if not qk_norm:
        q = AxisMap(d, q.source, q.write, np.where(q.source >= 0, 1 / scale, 0.0), q.gain, q.operator)
    return q, k, v


def _append(n: int, m: int, kind: int) -> np.ndarray:
    return np.concatenate([np.arange(n), np.full(m - n, kind)])
