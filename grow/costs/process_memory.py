"""Memory of one process when several train a model together under FSDP2.

    weights, gradients, moments   its rows of every tensor: ⌈rows / N⌉ of dim 0, in float32; AdamW has two moments
    in flight                     what is whole for a short time: gathered weights, gradients before they are sharded

FSDP2 gathers a block while the one before computes, from a buffer of the same size. It keeps the root's own tensors
(tables T, head H, final norm: R numbers together) whole from the forward pass to the end of the backward pass. With B
numbers in the largest block, the largest of these is in flight:

    2(R + B)              a forward pass begins
    R + H + 4B            backward: the head's gradient stays, two blocks are gathered, and two gradients are sharded
    R + H + T + B, + T    its end: a table's gradient is dense; where it is tied, both gradients lie beside their sum

torch's FSDPMemTracker counts the same (tests/test_distributed.py) for a step of several parts; with one part, some of
the gradient does not exist yet at the peak. Activations, and the memory of a compiler or of nccl, are not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from grow.architectures.family import Family
from grow.architectures.match import numberless
from grow.notation.axes import EXPERTS, WRITE
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan

WIDE = 4  # bytes of a float32
READ_AT_ONCE = 1 << 24  # numbers of a tensor, while a model is loaded
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class ProcessMemory:
    """The bytes of the process that holds the most.

    loading  what reading the weights takes beside them: a block of a tensor, or the whole model where experts are
             stored one by one and fused in memory
    """

    weights: int
    gradients: int
    moments: int
    in_flight: int
    loading: int

    @property
    def total(self) -> int:
        """The bytes while the model trains, without activations."""
        return self.weights + self.gradients + self.moments + self.in_flight

    def document(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


@dataclass
class _Parameter:
    """A parameter in memory: the `rows` of its dim 0, its `numbers`, and its layer as `block`, None for the root."""

    rows: int
    numbers: int
    block: str | None
    fused: bool
    kind: str


def memory_per_process(plan: Plan, processes: int) -> tuple[ProcessMemory, ProcessMemory]:
    """(the bytes for the source, the bytes for the result)."""
    tied = [model.tie is not None for model in (plan.source, plan.grown)]
    old = _memory(_parameters(plan.family, ((t, t.shape, t.source) for t in plan.read)), processes, tied[0])
    new = _memory(_parameters(plan.family, ((t, t.new_shape, t.name) for t in plan.tensors)), processes, tied[1])
    return old, new


def memory_document(plan: Plan, processes: int) -> dict[str, Any]:
    old, new = memory_per_process(plan, processes)
    return {"processes": processes, "old": old.document(), "new": new.document()}


def _parameters(family: Family, stored: Iterable[tuple[TensorPlan, tuple[int, ...], str]]) -> list[_Parameter]:
    """The parameters as stock classes hold them; experts that are stored one by one are the rows of one parameter."""
    parameters: dict[tuple, _Parameter] = {}
    for tensor, shape, name in stored:
        hit = LAYER.search(name)
        block = name[: hit.end()] if hit else None
        several = f"{{{EXPERTS}}}" in (alike := numberless(name, family))
        key = (block, alike) if several else (name,)
        one = parameters.setdefault(key, _Parameter(0, 0, block, several, _kind(tensor)))
        one.rows += 1 if several else shape[0] if shape else 1
        one.numbers += math.prod(shape)
    return list(parameters.values())


def _kind(t: TensorPlan) -> str:
    """The kind of a tensor: "table" that is looked up, "head" that writes logits, or ""."""
    dims = t.signature.dims
    if len(dims) > 1 and any(dim.looked_up for dim in dims):
        return "table"
    return "head" if any(dim.role == WRITE and (dim.has("vocab") or dim.has("labels")) for dim in dims) else ""


def _memory(parameters: list[_Parameter], n: int, tied: bool) -> ProcessMemory:
    parts = [-(-p.rows // n) * (p.numbers // max(1, p.rows)) for p in parameters]
    root = [p for p in parameters if p.block is None]
    tables, head = ([p.numbers for p in root if p.kind == kind] for kind in ("table", "head"))
    table, written = sum(tables), max(tables, default=0) if tied else sum(head)
    blocks: dict[str, int] = {}
    for p in parameters:
        if p.block is not None:
            blocks[p.block] = blocks.get(p.block, 0) + p.numbers
    r, b = sum(p.numbers for p in root), max(blocks.values(), default=0)
    flight = max(2 * (r + b), r + written + 4 * b, r + written + table + (written if tied else 0) + b) if n > 1 else 0
    whole = sum(p.numbers for p in parameters)
    loading = whole if any(p.fused for p in parameters) else min(READ_AT_ONCE, max(parts, default=0))
    own = sum(parts)
    return ProcessMemory(*(WIDE * count for count in (own, own, 2 * own, flight, loading)))
