"""The other values of every fact of a family, axis by axis: a fact is proved where each of them fails.

hidden     kind of the norms, what gains are stored as, on which side of a branch a norm stands, who reads the bare
           stream, roots of hidden, arrows of square matrices
head_dim   whether scores are divided by √head_dim, how heads are turned, which projection is v, the order of
           fused parts
heads      which axis of a product is the outer one, whether fused parts lie head by head
layers     whether scores are divided by the layer's index, too
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from grow.architectures.family import Family
from grow.notation.axes import GAIN, READ, WRITE, Concatenation, Label, Product, Row, Space

ROPES = (None, "half", "pairs", "partial")
HEAD_BY_HEAD = (
    "(heads (head_dim.q | head_dim.k | head_dim.v))",
    "(heads head_dim.q | heads head_dim.k | heads head_dim.v)",
)
"""The fused parts of q, k and v head by head, and one behind the other."""


@dataclass(frozen=True)
class Other:
    """A family that differs in one fact; `fact` names what it is about, `value` what it says instead."""

    axis: str
    fact: str
    value: str
    family: Family


def others(family: Family, axis: str) -> Iterator[Other]:
    """Every family that says one fact of this axis otherwise."""
    makers: dict[str, Callable[[Family], Iterator[Other]]] = {
        "hidden": _of_hidden,
        "heads": _of_heads,
        "head_dim": _of_head_dim,
        "layers": _of_layers,
    }
    if axis in makers:
        yield from makers[axis](family)
    if axis in family.units:
        yield from _interleaved(family, axis)


def with_line(family: Family, row: Row, signature: str, root: str = "") -> Family:
    """The family with one row written anew; its condition stays."""
    found = []
    for line in family.table.splitlines():
        if line.split()[:1] == [row.name] and _when(line) == row.when:
            line = f"{row.name}  {signature} {root}".rstrip() + (f"  ? {row.when}" if row.when else "")
        found.append(line)
    return replace(family, table="\n".join(found) + "\n")


def _when(line: str) -> str:
    return " ".join(line.partition("?")[2].split())


def _root(row: Row) -> str:
    return row.text.removeprefix(row.signature.text).strip()


def _of_hidden(family: Family) -> Iterator[Other]:
    norm = family.norm
    for kind in {"rms", "layernorm"} - {norm.kind}:
        yield Other("hidden", "kind of the norms", kind, replace(family, norm=replace(norm, kind=kind)))
    if norm.writes_stream == "always":
        free = replace(family, norm=replace(norm, writes_stream="never"))
        yield Other("hidden", "place of the norms", "in front of branches", free)
    gains = [row for row in family.rows if row.signature.dims[0].role == GAIN and row.signature.dims[0].has("hidden")]
    if gains:
        yield _all_offsets(family)
    for row in gains:
        mark = row.signature.text.split()[-1]
        other = mark.removesuffix(">") if mark.endswith(">") else mark + ">"
        place = "behind a branch" if other.endswith(">") else "in front of readers"
        yield Other("hidden", f"place of {_short(row)}", place, with_line(family, row, f"hidden {other}", _root(row)))
    for row in family.rows:
        dims = row.signature.dims
        text = row.signature.text
        reader = next(
            (d for d in dims if d.role == READ and d.space in (Label("hidden"), Label("hidden", "raw"))), None
        )
        if reader is not None and len(dims) == 2 and not row.optional:
            raw = "hidden.raw" in text
            changed = text.replace("hidden.raw", "hidden") if raw else re.sub(r"\bhidden$", "hidden.raw", text)
            if changed != text:
                words = "a norm's output" if raw else "the bare stream"
                yield Other("hidden", f"what {_short(row)} reads", words, with_line(family, row, changed, _root(row)))
        if len(dims) == 2 and any(d.looked_up for d in dims) and dims[1].has("hidden") and dims[0].has("vocab"):
            root = "" if row.root else "× √hidden"
            words = "not multiplied" if row.root else "× √hidden"
            yield Other("hidden", f"{_short(row)}", words, with_line(family, row, text, root))
        if len(dims) == 2 and dims[0].has("vocab") and dims[0].role == WRITE and dims[1].has("hidden"):
            root = "" if row.root else "÷ √hidden"
            yield Other("hidden", f"{_short(row)}", root or "not divided", with_line(family, row, text, root))
        if len(dims) == 2 and _sized_alike(row) and not row.optional:
            flipped = _flipped(row)
            yield Other("hidden", f"arrow of {_short(row)}", flipped, with_line(family, row, flipped, _root(row)))


def _sized_alike(row: Row) -> bool:
    """Whether a matrix is square by its table: it looks the same both ways."""
    return str(row.signature.dims[0]) == str(row.signature.dims[1])


def _flipped(row: Row) -> str:
    text = row.signature.text
    return text.replace("<-", "->") if "<-" in text else text.replace("->", "<-")


def _all_offsets(family: Family) -> Other:
    """All gains of hidden at once: stored as they are, or as their difference from 1."""
    stored = any(
        row.signature.dims[0].offset for row in family.rows if row.signature.dims[0].role == GAIN
    )  # one way for all norms of a model
    pattern = re.compile(r"(?m)^(\S+\s+.*?)(?<=\s)(1?)(\*>?)(?=\s|$)")
    table = pattern.sub(lambda hit: f"{hit[1]}{'' if stored else '1'}{hit[3]}", family.table)
    return Other("hidden", "what gains are stored as", "w" if stored else "w for 1 + w", replace(family, table=table))


def _of_head_dim(family: Family) -> Iterator[Other]:
    attention = family.attention
    if attention.scaled in ("always", "never"):
        flipped = "never" if attention.scaled == "always" else "always"
        words = "not divided" if flipped == "never" else "divided by √head_dim"
        yield Other("head_dim", "scores", words, replace(family, attention=replace(attention, scaled=flipped)))
    ropes: tuple[str | None, ...] = ROPES if attention.rope else ()
    if attention.rope not in ROPES:  # the same pairs, whose turns another thing says
        ropes = (None, "half")
    for rope in ropes:
        if rope != attention.rope:
            turned = replace(family, attention=replace(attention, rope=rope))
            yield Other("head_dim", "rotation", str(rope or "none"), turned)

    sides = _with_sides(family)
    if not any(_fused(row) for row in sides):
        for side in ("q", "k"):
            changed = _swapped(family, sides, side, "v")
            yield Other("head_dim", "which projection is v", f"the one called {side}", changed)
    yield from _reordered(family, "head_dim", _orders)


def _reordered(family: Family, axis: str, orders: Callable[[Row], Iterator[str]]) -> Iterator[Other]:
    """Families in which the fused parts of one module, weight and bias alike, lie in another order."""
    modules: dict[str, list[Row]] = {}
    for row in _with_sides(family):
        if _fused(row):
            modules.setdefault(row.name.rpartition(".")[0], []).append(row)
    for module, rows in modules.items():
        for texts in zip(*(orders(row) for row in rows)):
            changed = family
            for row, text in zip(rows, texts):
                changed = with_line(changed, row, text, _root(row))
            yield Other(axis, f"order of {module.rpartition('{layers}.')[2]}", texts[0], changed)


def _with_sides(family: Family) -> list[Row]:
    return [row for row in family.rows if "head_dim" in row.signature.text]


def _of_heads(family: Family) -> Iterator[Other]:
    sides = _with_sides(family)
    yield from _reordered(family, "heads", _head_by_head)
    inner = [row for row in sides if not _fused(row) and any(isinstance(d.space, Product) for d in row.signature.dims)]
    if inner:
        changed = family
        for row in inner:
            text = re.sub(r"\((kv_heads q_per_kv|kv_heads|heads) (head_dim\.[qkv])\)", r"(\2 \1)", row.signature.text)
            changed = with_line(changed, row, text, _root(row))
        yield Other("heads", "outer axis of q, k, v", "head_dim", changed)


def _fused(row: Row) -> bool:
    return any(isinstance(s, Concatenation) for d in row.signature.dims for s in _nested(d.space))


def _nested(space: Space) -> Iterator[Space]:
    yield space
    for part in getattr(space, "parts", ()) or getattr(space, "factors", ()):
        yield from _nested(part)


def _orders(row: Row) -> Iterator[str]:
    """The fused parts of q, k and v in another order."""
    text = row.signature.text
    hit = re.search(r"\(([^()]* \| [^()]*)\)", text)
    if hit is None or "head_dim" not in hit[1]:
        return
    parts = [part.strip() for part in hit[1].split("|")]
    for order in permutations(parts):
        if order[-1] != parts[-1]:  # q and k meet in a product that does not know which is which
            yield text.replace(hit[0], f"({' | '.join(order)})")


def _interleaved(family: Family, axis: str) -> Iterator[Other]:
    """Gate and up of a unit beside each other in place of one behind the other, and the other way round."""
    ways = (f"({axis} | {axis})", f"({axis} 2)")
    for way, other in (ways, ways[::-1]):
        rows = [row for row in family.rows if way in row.signature.text]
        changed = family
        for row in rows:
            changed = with_line(changed, row, row.signature.text.replace(way, other), _root(row))
        if rows:
            yield Other(axis, "order of gate and up", other, changed)


def _head_by_head(row: Row) -> Iterator[str]:
    text = row.signature.text
    whole, behind = HEAD_BY_HEAD
    if whole in text:
        yield text.replace(whole, behind)
    elif hit := re.search(r"\((heads|kv_heads) head_dim\.q \| (heads|kv_heads) head_dim\.k \| \S+ head_dim\.v\)", text):
        yield text.replace(hit[0], whole)


def _swapped(family: Family, rows: list[Row], a: str, b: str) -> Family:
    """The family with the projections of two sides exchanged, and what reads them as before."""
    changed = family
    for row in rows:
        if any(dim.role == WRITE and "head_dim" in str(dim) for dim in row.signature.dims):
            text = row.signature.text
            swapped = text.replace(f"head_dim.{a}", "head_dim.?").replace(f"head_dim.{b}", f"head_dim.{a}")
            changed = with_line(changed, row, swapped.replace("head_dim.?", f"head_dim.{b}"), _root(row))
    return changed


def _of_layers(family: Family) -> Iterator[Other]:
    attention = family.attention
    if attention.index_scaled in ("always", "never"):
        flipped = "never" if attention.index_scaled == "always" else "always"
        words = "also divided by the layer's index + 1" if flipped == "always" else "not divided by the layer's index"
        yield Other("layers", "scores", words, replace(family, attention=replace(attention, index_scaled=flipped)))


def _short(row: Row) -> str:
    return row.name.rpartition("{layers}.")[2]
