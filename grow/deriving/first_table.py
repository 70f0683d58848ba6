"""The first table of a type: a row per tensor, its dims from shapes, its arrow from what kind of module holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

import torch

from grow.architectures.names_of_axes import DOWN, FFNS, SIZES
from grow.deriving.integer_fields import LABELS, Moves
from grow.deriving.reading import Reads, is_norm
from grow.deriving.tiny_models import NotBuilt
from grow.notation.axes import INDICES, LOOKUPS, Space, parse_signature

SIDE_NAMES = (
    ("q", re.compile(r"(^|_)(q|query|wq)(_|\d|$|lin|proj|norm)")),
    ("k", re.compile(r"(^|_)(k|key|wk)(_|\d|$|lin|proj|norm)")),
    ("v", re.compile(r"(^|_)(v|value|wv)(_|\d|$|lin|proj|norm)")),
)
ATTENTION = re.compile(r"att|(^|[._])attn|(^|[._])self")
FUSED = (
    "(heads head_dim.q | kv_heads head_dim.k | kv_heads head_dim.v)",
    "(heads (head_dim.q | head_dim.k | head_dim.v))",
    "(heads head_dim.q | heads head_dim.k | heads head_dim.v)",
    "(kv_heads (q_per_kv head_dim.q | head_dim.k | head_dim.v))",
    "(kv_heads head_dim.k | kv_heads head_dim.v)",
    *(f"({units} | {units})" for units in FFNS),
)
SINGLE = (
    "hidden", *FFNS[:1], "vocab", "positions", "types", "embed", *FFNS[1:], "experts", "heads", "kv_heads",
)  # fmt: skip


class NotDescribed(Exception):
    """The notation has no words for a tensor; `name` is the tensor and the message says what moves it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


@cache
def understood(text: str) -> bool:
    """Whether the notation has this dimension."""
    try:
        parse_signature(f"{text} <-")
    except ValueError:
        return False
    return True


class Namer:
    """Names of tensors with `{layers}` and `{experts}` in place of the indices that these axes make longer."""

    def __init__(self, moves: Moves) -> None:
        self.moves = moves
        self.indexed = {
            index: {_numbers_out(n) for n in set(moves.after.get(moves.axes.get(index, ""), {})) - set(moves.base)}
            for index in INDICES
        }

    def row(self, name: str) -> str:
        if _numbers_out(name) in self.indexed["layers"]:
            name = re.sub(r"\.\d+\.", ".{layers}.", name, count=1)
        if _numbers_out(name.replace("{layers}", "0")) in self.indexed["experts"]:
            name = re.sub(r"\.\d+\.", ".{experts}.", name, count=1)
        return name


def _numbers_out(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".#", name)


def side_of(name: str) -> str:
    """q, k or v, where the name of a module says so."""
    leaf = [part for part in name.split(".") if part not in ("weight", "bias")][-1].lower()
    sides = [side for side, pattern in SIDE_NAMES if pattern.search(leaf)]
    return sides[0] if len(sides) == 1 else ""


def spaces(moves: Moves, name: str, dim: int) -> list[str]:
    """What a dim may be made of: every space of the notation that has its size, before and after each doubling."""
    side = side_of(name)
    sides = (side,) if side else ("v", "q", "k")
    own = [axis for axis in moves.axes if axis not in SIZES]
    candidates = [*SINGLE, *own, *(f"(heads {axis})" for axis in own), *(f"({a} | {b})" for a in own for b in own)]
    candidates += [f"({a} {b})" for a in own for b in (*FFNS, *own) if a != b]
    candidates += [f"({h} head_dim.{s})" for s in sides for h in ("heads", "kv_heads")]
    candidates += [f"head_dim.{s}" for s in sides] + [f for f in FUSED if understood(f)]
    shape = moves.base[name]
    axes = moves.sizes()
    if "positions" in axes and 0 < shape[dim] - axes["positions"] < 8:
        candidates.append(f"({shape[dim] - axes['positions']} | positions)")
    if not moves.moving(name, dim):
        return ["1"] if shape[dim] == 1 else []
    return [text for text in candidates if _fits(text, moves, name, dim)]


def _fits(text: str, moves: Moves, name: str, dim: int) -> bool:
    space = _space(text)
    known = moves.sizes()
    if any(label.axis not in known for label in space.labels) or space.size(known) != moves.base[name][dim]:
        return False
    for field, after in moves.after.items():
        if name in after and space.size(moves.sizes(field)) != after[name][dim]:
            return False
    return True


def _space(text: str) -> Space:
    return parse_signature(f"{text} <-").dims[0].space


def signatures(moves: Moves, model: torch.nn.Module, reads: Reads, name: str) -> Iterator[str]:
    """Signatures that a tensor's shape and module admit, the likeliest first."""
    owner, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(owner)  # None where files hold in parts what stock code holds in one
    shape = moves.base[name]
    options = [["labels"] if _is_labels(moves, name, d) else spaces(moves, name, d) for d in range(len(shape))]
    for d, found in enumerate(options):
        if not found:
            moved = sorted(moves.moving(name, d))
            raise NotDescribed(name, f"dim {d} of size {shape[d]} follows {' and '.join(moved) or 'no field'}")
    attends = bool(ATTENTION.search(owner.lower()))
    if module is not None and is_norm(module):
        mark = "+" if leaf == "bias" else "*" if reads.norms.get(owner, True) else "*>"
        ordered = [s for s in options[0] if ("head" in s) == (attends and bool(side_of(name)))] or options[0]
        yield from (f"{space} {mark if space == 'hidden' else mark[0]}" for space in ordered)
    elif isinstance(module, torch.nn.Embedding) and len(shape) == 2:
        for index in (s for s in options[0] if set(_labels(s)) & LOOKUPS):
            yield from (f"{index} -> {space}" for space in options[1])
    elif len(shape) == 1:
        yield from (f"{space} <-" for space in _written(options[0], name, attends))
    elif len(shape) == 2 and "experts" in options[0] and leaf.endswith("bias"):
        yield from (f"[experts] {space} <-" for space in options[1])
    elif len(shape) == 2:
        out, into = (options[1], options[0]) if _stores_in_out(module) else (options[0], options[1])
        raw = not reads.source.get(owner, "?")
        for a in _written(out, name, attends):
            for b in _read(into, name, attends, a):
                b = "hidden.raw" if raw and b == "hidden" and a not in ("hidden", "labels") else b
                yield f"{b} -> {a}" if _stores_in_out(module) else f"{a} <- {b}"
    elif len(shape) == 3 and "experts" in options[0]:
        # of (experts, hidden, units) or (experts, units, hidden) the name says which way it goes
        down = any(word in name.lower() for word in DOWN)
        for a in options[1]:
            for b in options[2]:
                yield f"[experts] {a} {'<-' if _is_stream(a) == down else '->'} {b}"
                yield f"[experts] {a} {'->' if _is_stream(a) == down else '<-'} {b}"
    else:
        raise NotDescribed(name, f"a tensor of {len(shape)} dims")


def _is_stream(text: str) -> bool:
    return text in ("hidden", "hidden.raw")


def _labels(text: str) -> list[str]:
    return [label.axis for label in _space(text).labels]


def _is_labels(moves: Moves, name: str, dim: int) -> bool:
    """Whether a dim counts answers: it follows their number, or nothing, as the two ends of an answer in a text."""
    moved, size = moves.moving(name, dim), moves.base[name][dim]
    return moved == {"num_labels"} or (not moved and size in (2, LABELS) and not re.search(r"\.\d+\.", name))


def _written(options: list[str], name: str, attends: bool) -> list[str]:
    """A projection of attention writes heads where its name says q, k or v, or where it holds all three."""
    heads = [s for s in options if "head" in s]
    fused = [s for s in options if "|" in s]
    first = fused or (heads if attends and side_of(name) else [s for s in options if "head" not in s])
    return first + [s for s in options if s not in first]


def _read(options: list[str], name: str, attends: bool, writes: str) -> list[str]:
    """The projection behind attention reads what the heads write."""
    heads = [s for s in options if s.endswith("head_dim.v)")]
    first = heads if attends and writes == "hidden" else [s for s in options if "head" not in s]
    return first + [s for s in options if s not in first]


def _stores_in_out(module: torch.nn.Module | None) -> bool:
    return type(module).__name__ == "Conv1D"


def table_text(rows: Mapping[str, tuple[str, str]]) -> str:
    """name -> (signature, condition) as a family's table."""
    width = max(map(len, rows), default=0)
    span = max((len(s) for s, _ in rows.values()), default=0)
    lines = (f"{n:<{width}}  {s:<{span}}  {f'? {when}' if when else ''}".rstrip() for n, (s, when) in rows.items())
    return "\n" + "\n".join(lines) + "\n"


def first_rows(moves: Moves, model: torch.nn.Module, reads: Reads) -> dict[str, str]:
    """Row -> the likeliest signature of every tensor. NotBuilt where the layers of a model are not alike."""
    namer = Namer(moves)
    rows: dict[str, str] = {}
    per_layer: dict[str, set[str]] = {}
    for name in moves.base:
        row = namer.row(name)
        if "{layers}" in row and (hit := re.search(r"\.(\d+)\.", name)):
            per_layer.setdefault(hit[1], set()).add(row)
        if row in rows:
            continue
        found = next(signatures(moves, model, reads, name), None)
        if found is None:
            raise NotDescribed(name, "no signature has this shape")
        rows[row] = found
    if not per_layer:
        raise NotBuilt("no tensor is numbered by the layers")
    if len({frozenset(names) for names in per_layer.values()}) > 1:
        raise NotBuilt("its layers are of several kinds, which differ in their tensors")
    return rows
