"""What a model of given sizes costs: parameters, FLOPs, KV cache, training memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from grow.architectures.match import Match, numberless
from grow.notation.axes import READ, WRITE
from grow.notation.dtypes import ITEMSIZE
from grow.planning.assemble import assemble
from grow.planning.change import Change, no_maps
from grow.planning.layers import unchanged
from grow.planning.plan import Plan
from grow.planning.tensor import TensorPlan

# Per parameter with AdamW: weight, gradient and two moments in float32, or bfloat16 weight and gradient with a float32
# master weight and moments; both come to 16 bytes.
TRAIN_BYTES = 16


@dataclass(frozen=True)
class Cost:
    """What one model costs.

    flops     component -> FLOPs per token of a forward pass over `context` tokens (2 per multiply-add)
    kv_bytes  bytes of the KV cache per token of context; 0 for encoders
    """

    parameters: int
    context: int
    flops: dict[str, float]
    kv_bytes: int
    disk_bytes: int

    @property
    def flops_per_token(self) -> float:
        return sum(self.flops.values())

    @property
    def train_bytes(self) -> int:
        """Bytes of weights, gradients and AdamW's optimizer state, without activations."""
        return TRAIN_BYTES * self.parameters


def cost_of(plan: Plan) -> tuple[Cost, Cost]:
    """(the source's cost, the result's cost)."""
    old = _cost(plan, plan.sizes, [(t, t.shape) for t in plan.read], False)
    new = _cost(plan, plan.new_sizes, [(t, t.new_shape) for t in plan.tensors], True)
    return old, new


def _cost(plan: Plan, sizes: Mapping[str, int], tensors: list[tuple[TensorPlan, tuple[int, ...]]], grown: bool) -> Cost:
    causal = plan.config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel")) and not _encoder(plan)
    context = min(sizes.get("positions", 2048), 2048)
    flops = {"attention projections": 0.0, "attention scores": 0.0, "ffn": 0.0, "head": 0.0}
    tables = set()
    for tensor, shape in tensors:
        if len(shape) < 2:
            continue
        dims = tensor.signature.dims
        if any(dim.looked_up for dim in dims):
            tables.add((tensor.name, shape))
            continue
        reads = {label.axis for dim in dims if dim.role == READ for label in dim.labels}
        writes = {label.axis for dim in dims if dim.role == WRITE for label in dim.labels}
        axes = reads | writes
        ffn = axes & {*plan.family.units, "experts"} and not axes & {"heads", "kv_heads"}
        part = "head" if writes & {"vocab", "labels"} else "ffn" if ffn else "attention projections"
        flops[part] += 2.0 * math.prod(shape) * _used(plan, tensor, grown)
    if tie := (plan.grown if grown else plan.source).tie:
        flops["head"] += sum(2.0 * math.prod(shape) for t, shape in tensors if t.canonical == tie.table)
    seen = context / 2 if causal else context  # a causal mask halves the pairs
    wide = sizes["heads"] * sizes["head_dim"] if plan.family.attends else 0
    flops["attention scores"] = 4.0 * sizes["layers"] * wide * seen
    item = max((ITEMSIZE[t.dtype if grown else t.old.dtype] for t, _ in tensors), default=2)
    kv = 2 * sizes["layers"] * sizes["kv_heads"] * sizes["head_dim"] * item if causal and wide else 0
    disk = sum(math.prod(shape) * ITEMSIZE[t.dtype if grown else t.old.dtype] for t, shape in tensors)
    return Cost(sum(math.prod(shape) for _, shape in tensors), context, flops, kv, disk)


def _used(plan: Plan, t: TensorPlan, grown: bool) -> float:
    """How often one token uses a tensor: some of all experts, and what layers share once in each of them."""
    experts, sizes = plan.family.experts, plan.new_sizes if grown else plan.sizes
    if (counted := plan.source.counting("layers")) != "layers" and numberless(t.canonical) != t.canonical:
        return sizes["layers"] / sizes[counted]
    if experts is None or not (t.signature.stacked or EXPERT.search(t.name)):
        return 1.0
    return (plan.grown if grown else plan.source).top_k / sizes["experts"]


EXPERT = re.compile(r"\.experts\.\d+\.|\[\d+\.\d+\]$")  # an expert has a tensor of its own, or a matrix in a stack


def _encoder(plan: Plan) -> bool:
    return plan.source.norm_writes_stream and "types" in plan.sizes


def forward_flops(matched: Match, context: int) -> float:
    """The FLOPs per token of a forward pass over `context` tokens."""
    source, sizes = matched.architecture, matched.architecture.sizes
    change = Change(no_maps(sizes), unchanged(sizes["layers"]))
    tensors, _ = assemble(matched, change, {t.name: t.dtype for t in matched.tensors})
    plan = Plan(source, dict(source.config), dict(sizes), change, {}, tensors, "even", 0, ())
    cost = cost_of(plan)[0]
    scores = cost.flops["attention scores"]
    return cost.flops_per_token - scores + scores * context / cost.context
