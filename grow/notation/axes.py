"""The notation of a tensor's axes, and the parser of family tables, which cannot be read apart.

    vocab -> hidden                                reads vocab, writes hidden    (an embedding table)
    (kv_heads q_per_kv head_dim.q) <- hidden       writes the left, reads hidden (a torch Linear weight)
    hidden -> (heads head_dim.q | heads head_dim.k | heads head_dim.v)           (a GPT-2 Conv1D weight)
    ffn <-                                         writes ffn, reads nothing     (a bias)
    hidden *                                       the gain of a norm in front of what reads it
    hidden *>                                      the gain of a norm behind a branch, in front of the residual stream
    ffn <- hidden.raw                              reads the residual stream with no gain in between
    hidden 1*                                      a gain that is stored as w and means 1 + w
    hidden +                                       a norm's bias
    heads, head_dim.q *                            a gain for each head, in a tensor of two dims
    (2 | positions) -> hidden                      a table with 2 rows in front of the axis
    () *                                           a number that a whole layer has
    [experts] (ffn | ffn) <- hidden                one such matrix per expert, stacked in one tensor
    hidden <- channels, patch, patch               a tensor of four dims: what is left of the arrow are its rows
    1, positions -> hidden                         one of three

The arrow points at what is produced. Parentheses are one stored dimension: a product of axes, outer axis first, or
several products one behind the other with `|` in between; a number is so many coordinates that never grow. Nor does an
axis of `STORED` for which the family has no config field: it has the size that is stored.
`kv_heads q_per_kv` in a row is the space of query heads and is called `heads`; size 1 is a size.
`head_dim.q`, `.k` and `.v` have one size and separate coordinates: q meets k in a dot product,
v meets the output projection. So have `hidden`, as it is behind a norm with a gain, and `hidden.raw`.
`head_dim.turn` is a rotation as a table has it: the sines of all pairs of a head, then their cosines.

A line of a family's table is a tensor name, a signature, what stock code multiplies the tensor by, and a condition:

    lm_head.weight               vocab <- hidden                 ? ForCausalLM not tie_word_embeddings
    model.embed_tokens.weight    vocab -> hidden    × √hidden
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

SIDES = ("q", "k", "v")
WRITE, READ, GAIN, SHIFT, STACK = "write", "read", "gain", "shift", "stack"
INDICES = ("layers", "experts")  # axes along which tensors are counted instead of stacked
STORED = {"labels", "positions", "channels", "patch", "pooled", "pixels", "kernel"}
"""Axes that have the size that is stored and never grow, unless a config field says their size."""
LOOKUPS = {"vocab", "positions", "types", "task_types", "buckets", "places", "experts"}
"""Axes whose tables are looked up row by row."""

_LABEL = re.compile(r"(?P<axis>[a-z_]+)(?:\.(?P<side>[qkv]|raw|turn))?$")
_MARKS = re.compile(r"^(?P<dim>.+?)\s*(?<!\S)(?:(?P<gain>1?\*>?)|(?P<shift>\+))$")
_ARROW = re.compile(r"^(?P<left>[^<>]+?)\s*(?P<arrow><-|->)\s*(?P<right>[^<>]*)$")
_STACK = re.compile(r"^\[(?P<axis>[a-z_]+)\]\s*(?P<rest>.+)$")
_TIMES = re.compile(r"\s(?P<sign>[×÷])\s*√(?P<axis>[a-z_]+)$")


@dataclass(frozen=True)
class Label:
    """One axis inside a stored dimension: `hidden`, `head_dim.q`."""

    axis: str
    side: str = ""

    @property
    def space(self) -> str:
        """The name of its coordinates: an axis map exists per space."""
        return f"{self.axis}.{self.side}" if self.side else self.axis

    @property
    def labels(self) -> tuple[Label, ...]:
        return (self,)

    def size(self, sizes: Mapping[str, int]) -> int:
        return sizes[self.axis]

    def __str__(self) -> str:
        return self.space


@dataclass(frozen=True)
class Fixed:
    """So many coordinates that are no axis and never grow."""

    count: int

    @property
    def labels(self) -> tuple[Label, ...]:
        return ()

    def size(self, sizes: Mapping[str, int]) -> int:
        return self.count

    def __str__(self) -> str:
        return str(self.count)


@dataclass(frozen=True)
class Product:
    """Every combination of its factors, the outer one first."""

    factors: tuple[Space, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(label for factor in self.factors for label in factor.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        total = 1
        for factor in self.factors:
            total *= factor.size(sizes)
        return total

    def __str__(self) -> str:
        return " ".join(f"({f})" if isinstance(f, Concatenation) else str(f) for f in self.factors)


@dataclass(frozen=True)
class Concatenation:
    """Its parts one behind the other."""

    parts: tuple[Space, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(label for part in self.parts for label in part.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        return sum(part.size(sizes) for part in self.parts)

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


Space = Label | Fixed | Product | Concatenation
"""What a stored dimension is made of."""


@dataclass(frozen=True)
class Dim:
    """One stored dimension and its role.

    offset  of a gain: what stock code adds to the stored number
    behind  of a gain: the norm is behind a branch, so what it writes is scaled as what it reads
    """

    space: Space
    role: str
    offset: float = 0.0
    behind: bool = False

    @property
    def labels(self) -> tuple[Label, ...]:
        """Its axes, in storage order."""
        return self.space.labels

    @property
    def looked_up(self) -> bool:
        """Whether it indexes the rows of a table, which are looked up and not multiplied."""
        return self.role == READ and any(label.axis in LOOKUPS for label in self.labels)

    def has(self, axis: str) -> bool:
        """Whether the axis is part of it."""
        return any(label.axis == axis for label in self.labels)

    def size(self, sizes: Mapping[str, int]) -> int:
        return self.space.size(sizes)

    def __str__(self) -> str:
        return str(self.space) if isinstance(self.space, (Label, Fixed)) else f"({self.space})"


@dataclass(frozen=True)
class Signature:
    """The dims of a tensor in storage order.

    number  it has no dim; as a matrix it is one row with one column
    rows   how many of them, the first ones, are the rows of the tensor as a matrix; of a stack, of each of its matrices
    """

    dims: tuple[Dim, ...]
    text: str
    rows: int = 1
    number: bool = False

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(dim.size(sizes) for dim in self.stored)

    @property
    def stored(self) -> tuple[Dim, ...]:
        """The dims that the stored tensor has."""
        return () if self.number else self.dims

    def flat(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of a tensor of this shape as a matrix; a vector is one column, a stack lies flat."""
        rows = self.rows + self.stacked
        return math.prod(shape[:rows]), math.prod(shape[rows:])

    @property
    def matrix(self) -> Signature:
        """Of the tensor as a matrix; itself where it is one, a vector or a stack of them."""
        if self.number:
            return Signature(self.dims, self.text)
        if self.stacked or (self.rows == 1 and len(self.dims) <= 2):
            return self
        sides = self.dims[: self.rows], self.dims[self.rows :]
        dims = tuple(Dim(_product([dim.space for dim in side], self.text), side[0].role) for side in sides if side)
        return Signature(dims, self.text)

    @property
    def stacked(self) -> bool:
        """Whether its first dim counts matrices."""
        return self.dims[0].role == STACK

    def counts(self, axis: str) -> bool:
        """Whether it is a stack of so many matrices."""
        return self.stacked and self.dims[0].has(axis)

    @property
    def part(self) -> Signature:
        """Of one matrix of a stack."""
        return Signature(self.dims[1:], self.text.partition("]")[2].strip(), self.rows) if self.stacked else self

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(label.axis for dim in self.dims for label in dim.labels)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Row:
    """One line of a family's table; `{layers}` and `{experts}` stand for indices.

    root   (axis, exponent): stock code multiplies the tensor by the size of the axis to the power of ½ or -½
    """

    name: str
    signature: Signature
    when: str = ""
    root: tuple[str, float] | None = None

    @property
    def text(self) -> str:
        """Its signature, and what stock code multiplies the tensor by."""
        if self.root is None:
            return self.signature.text
        axis, exponent = self.root
        return f"{self.signature} {'×' if exponent > 0 else '÷'} √{axis}"

    @property
    def optional(self) -> bool:
        """Stored by some checkpoints and not by others; grown when it is there."""
        return "optional" in self.when.split()

    @property
    def pattern(self) -> re.Pattern[str]:
        return name_pattern(self.name)


@cache
def name_pattern(name: str) -> re.Pattern[str]:
    """Matches the names of a row's tensors, with a group for each index: `{layers}` is `layers`."""
    escaped = re.escape(name)
    for index in INDICES:
        escaped = escaped.replace(re.escape(f"{{{index}}}"), rf"(?P<{index}>0|[1-9]\d*)")
    return re.compile(escaped + r"\Z")


def parse_signature(text: str) -> Signature:
    """`Signature` of a line's middle part; ValueError, quoting it, when it is not in the notation."""
    text = " ".join(text.split())
    if stack := _STACK.match(text):
        of = parse_signature(stack["rest"])
        return Signature((Dim(Label(stack["axis"]), STACK), *of.dims), text, of.rows)
    if text == "() *":
        return Signature((Dim(Fixed(1), GAIN),), text, number=True)
    if marked := _MARKS.match(text):
        spaces, gain = [_space(group.strip(), text) for group in marked["dim"].split(",")], marked["gain"]
        if gain is None:
            return Signature(tuple(Dim(space, SHIFT) for space in spaces), text, len(spaces))
        how = float(gain[0] == "1"), gain[-1] == ">"
        return Signature(tuple(Dim(space, GAIN, *how) for space in spaces), text, len(spaces))
    arrow = _ARROW.match(text)
    if arrow is None or (arrow["arrow"] == "->" and not arrow["right"]):
        raise ValueError(f"signature {text!r} is neither `A <- B`, `A -> B`, `A *` nor `A +`")
    left_role, right_role = (WRITE, READ) if arrow["arrow"] == "<-" else (READ, WRITE)
    rows = [Dim(_space(group.strip(), text), left_role) for group in arrow["left"].split(",")]
    right = arrow["right"].split(",") if arrow["right"] else []
    columns = [Dim(_space(group.strip(), text), right_role) for group in right]
    return Signature((*rows, *columns), text, len(rows))


def parse_table(text: str) -> tuple[Row, ...]:
    """The rows of a family's table, one per non-empty line."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        head, _, when = line.partition("?")
        name, _, signature = head.strip().partition(" ")
        times = _TIMES.search(signature)
        root = (times["axis"], 0.5 if times["sign"] == "×" else -0.5) if times else None
        middle = signature[: times.start()] if times else signature
        rows.append(Row(name, parse_signature(middle), " ".join(when.split()), root))
    return tuple(rows)


def _space(group: str, text: str) -> Space:
    """The space that a label, the number 1 or a group in parentheses names."""
    words = iter(re.findall(r"[()|]|[^\s()|]+", group))
    first = next(words, "")
    space = _concatenation(words, text) if first == "(" else _atom(first, text)
    if next(words, None) is not None:
        raise ValueError(f"signature {text!r}: {group!r} is one stored dimension, which parentheses hold together")
    if not space.labels and space != Fixed(1):
        raise ValueError(f"signature {text!r}: {group!r} has no axis")
    return space


def _concatenation(words: Iterator[str], text: str) -> Space:
    """What stands between a parenthesis and the one that closes it: products with `|` in between."""
    parts: list[Space] = []
    factors: list[Space] = []
    for word in words:
        if word in ("|", ")"):
            parts.append(_product(factors, text))
            factors = []
            if word == ")":
                return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))
        elif word == "(":
            factors.append(_concatenation(words, text))
            if not isinstance(factors[-1], Concatenation):
                raise ValueError(f"signature {text!r}: parentheses inside parentheses hold parts together, so one `|`")
        elif word == "q_per_kv" and factors and factors[-1] == Label("kv_heads"):
            factors[-1] = Label("heads")
        else:
            factors.append(_atom(word, text))
    raise ValueError(f"signature {text!r}: a parenthesis is not closed")


def _product(factors: list[Space], text: str) -> Space:
    if not factors:
        raise ValueError(f"signature {text!r}: an empty group")
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def _atom(word: str, text: str) -> Label | Fixed:
    if word.isdecimal() and not word.startswith("0"):
        return Fixed(int(word))
    if word == "q_per_kv":
        raise ValueError(f"signature {text!r}: q_per_kv follows kv_heads")
    match = _LABEL.match(word)
    if match is None:
        raise ValueError(f"signature {text!r}: {word!r} is not a label")
    return Label(match["axis"], match["side"] or "")
