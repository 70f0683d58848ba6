"""Granite MoE: Granite with experts that are stacked in one tensor."""

from grow.architectures.decoders.granite import BIASES, MULTIPLIERS, UNSCALED
from grow.architectures.decoders.llama import block, rms_decoder, size
from grow.architectures.experts.qwen2_moe import ROUTER_FIELDS
from grow.architectures.facts import Experts

STACKS = """
model.layers.{layers}.block_sparse_moe.router.layer.weight     experts <- hidden
model.layers.{layers}.block_sparse_moe.input_linear.weight     [experts] (ffn | ffn) <- hidden
model.layers.{layers}.block_sparse_moe.output_linear.weight    [experts] hidden <- ffn
"""

MOE = "model.layers.{layers}.block_sparse_moe."
MLP = "model.layers.{layers}.mlp."

GRANITEMOE = rms_decoder(
    "granitemoe",
    class_prefix="GraniteMoe",
    table=block(STACKS) + BIASES,
    aliases=(),
    attention=UNSCALED,
    summary="Granite 3 MoE",
    axes={"experts": "num_local_experts"},
    experts=Experts(
        width="ffn",
        top_k="num_experts_per_tok",
        router=MOE + "router.layer.weight",
        parts={
            MOE + "input_linear.weight": (MLP + "gate_proj.weight", MLP + "up_proj.weight"),
            MOE + "output_linear.weight": (MLP + "down_proj.weight",),
        },
        fused={
            MOE + "router.weight": (MOE + "router.layer.weight",),
            MOE + "experts.gate_up_proj": (MOE + "input_linear.weight",),
            MOE + "experts.down_proj": (MOE + "output_linear.weight",),
        },
    ),
    harmless={*MULTIPLIERS, *ROUTER_FIELDS},
    defaults={"num_local_experts": 8, "num_experts_per_tok": 2},
    sizes={
        "granite-3.0-1b-a400m": {**size(1024, 16, 8, 512, 24), "num_local_experts": 32},
        "granite-3.0-3b-a800m": {**size(1536, 24, 8, 512, 32), "num_local_experts": 40},
    },
)
