"""The notation of a tensor's axes, and the parser of family tables.

    vocab -> hidden                                reads vocab, writes hidden    (an embedding table)
    (kv_heads q_per_kv head_dim.q) <- hidden       writes the left, reads hidden (a torch Linear weight)
    hidden -> (qkv heads head_dim)                 the same, stored transposed   (a GPT-2 Conv1D weight)
    ffn <-                                         writes ffn, reads nothing     (a bias)
    hidden *                                       a norm's gain
    hidden +                                       a norm's bias
    positions+2 -> hidden                          a table with 2 rows more than the axis
    [experts] (gate_up ffn) <- hidden              one such matrix per expert, stacked in one tensor

The arrow points at what is produced. Parentheses are one stored dimension, outer label first.
`kv_heads q_per_kv` in a row is the space of query heads and is called `heads`; size 1 is a size.
`head_dim.q`, `.k` and `.v` have one size and separate coordinates: q meets k in a dot product,
v meets the output projection. Along `qkv` (size 3) the side follows from the slice. `gate_up` (size 2) and `one`
are no axes: they never grow.

A line of a family's table is a tensor name, a signature and, after `?`, when it is there:

    lm_head.weight     vocab <- hidden     ? ForCausalLM not tie_word_embeddings
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

SIDES = ("q", "k", "v")
WRITE, READ, GAIN, SHIFT, STACK = "write", "read", "gain", "shift", "stack"
INDICES = ("layers", "experts")  # axes along which tensors are counted instead of stacked
FIXED = {"qkv": 3, "gate_up": 2, "one": 1}  # labels whose size no config says
LOOKUPS = {"vocab", "positions", "types"}  # a table that these index is looked up row by row, not multiplied

_LABEL = re.compile(r"(?P<axis>[a-z_]+)(?:\.(?P<side>[qkv]))?(?:\+(?P<extra>\d+))?$")
_SIDE = r"\([^()]*\)|[^\s()]+"
_MAP = re.compile(rf"^(?P<left>{_SIDE})\s*(?P<arrow><-|->)\s*(?P<right>{_SIDE})?$")
_NORM = re.compile(rf"^(?P<left>{_SIDE})\s*(?P<mark>[*+])$")
_STACK = re.compile(r"^\[(?P<axis>[a-z_]+)\]\s*(?P<rest>.+)$")


@dataclass(frozen=True)
class Label:
    """One axis inside a stored dimension: `head_dim.q`, `positions+2`, `hidden`."""

    axis: str
    side: str = ""
    extra: int = 0

    @property
    def space(self) -> str:
        """The name of its coordinates: an axis map exists per space."""
        return f"{self.axis}.{self.side}" if self.side else self.axis

    def size(self, sizes: Mapping[str, int]) -> int:
        return (FIXED.get(self.axis) or sizes[self.axis]) + self.extra

    def __str__(self) -> str:
        return self.space + (f"+{self.extra}" if self.extra else "")


@dataclass(frozen=True)
class Dim:
    """One stored dimension: the labels it is the product of, and its role."""

    labels: tuple[Label, ...]
    role: str

    def size(self, sizes: Mapping[str, int]) -> int:
        total = 1
        for label in self.labels:
            total *= label.size(sizes)
        return total

    def __str__(self) -> str:
        text = " ".join(map(str, self.labels))
        return f"({text})" if len(self.labels) > 1 else text


@dataclass(frozen=True)
class Signature:
    """The dims of a tensor in storage order."""

    dims: tuple[Dim, ...]
    text: str

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(dim.size(sizes) for dim in self.dims)

    @property
    def stacked(self) -> bool:
        """Whether its first dim counts matrices."""
        return self.dims[0].role == STACK

    def counts(self, axis: str) -> bool:
        """Whether it is a stack of so many matrices."""
        return self.stacked and self.dims[0].labels[0].axis == axis

    @property
    def part(self) -> Signature:
        """Of one matrix of a stack."""
        return Signature(self.dims[1:], self.text.partition("]")[2].strip()) if self.stacked else self

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(label.axis for dim in self.dims for label in dim.labels)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Row:
    """One line of a family's table; `{layers}` and `{experts}` stand for indices."""

    name: str
    signature: Signature
    when: str = ""

    @property
    def optional(self) -> bool:
        """Stored by some checkpoints and not by others; grown when it is there."""
        return "optional" in self.when.split()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        escaped = re.escape(self.name)
        for index in INDICES:
            escaped = escaped.replace(re.escape(f"{{{index}}}"), rf"(?P<{index}>0|[1-9]\d*)")
        return re.compile(escaped + r"\Z")


def parse_signature(text: str) -> Signature:
    """`Signature` of a line's middle part; ValueError, quoting it, when it is not in the notation."""
    text = " ".join(text.split())
    if stack := _STACK.match(text):
        of = parse_signature(stack["rest"])
        return Signature((Dim((Label(stack["axis"]),), STACK), *of.dims), text)
    if norm := _NORM.match(text):
        role = GAIN if norm["mark"] == "*" else SHIFT
        return Signature((Dim(_labels(norm["left"], text), role),), text)
    arrow = _MAP.match(text)
    if arrow is None or (arrow["arrow"] == "->" and not arrow["right"]):
        raise ValueError(f"signature {text!r} is neither `A <- B`, `A -> B`, `A *` nor `A +`")
    left_role, right_role = (WRITE, READ) if arrow["arrow"] == "<-" else (READ, WRITE)
    dims = [Dim(_labels(arrow["left"], text), left_role)]
    if arrow["right"]:
        dims.append(Dim(_labels(arrow["right"], text), right_role))
    return Signature(tuple(dims), text)


def parse_table(text: str) -> tuple[Row, ...]:
    """The rows of a family's table, one per non-empty line."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        head, _, when = line.partition("?")
        name, _, signature = head.strip().partition(" ")
        rows.append(Row(name, parse_signature(signature), " ".join(when.split())))
    return tuple(rows)


def _labels(group: str, text: str) -> tuple[Label, ...]:
    labels: list[Label] = []
    for word in group.strip("()").split():
        match = _LABEL.match(word)
        if match is None:
            raise ValueError(f"signature {text!r}: {word!r} is not a label")
        if match["axis"] == "q_per_kv":
            if not labels or labels[-1].axis != "kv_heads":
                raise ValueError(f"signature {text!r}: q_per_kv follows kv_heads")
            labels[-1] = Label("heads")
        else:
            labels.append(Label(match["axis"], match["side"] or "", int(match["extra"] or 0)))
    if not labels:
        raise ValueError(f"signature {text!r}: an empty group")
    return tuple(labels)
