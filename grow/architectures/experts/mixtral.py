"""Mixtral: Mistral with experts instead of the FFN; the chosen weights sum to 1."""

from grow.architectures.decoders.llama import block, rms_decoder, size
from grow.architectures.facts import Experts

EXPERTS = """
model.layers.{layers}.block_sparse_moe.gate.weight                    experts <- hidden
model.layers.{layers}.block_sparse_moe.experts.{experts}.w1.weight    ffn <- hidden
model.layers.{layers}.block_sparse_moe.experts.{experts}.w3.weight    ffn <- hidden
model.layers.{layers}.block_sparse_moe.experts.{experts}.w2.weight    hidden <- ffn
"""

MOE = "model.layers.{layers}.block_sparse_moe."
MLP = "model.layers.{layers}.mlp."

MIXTRAL = rms_decoder(
    "mixtral",
    table=block(EXPERTS),
    aliases=(),
    summary="Mixtral 8x7B, 8x22B",
    axes={"experts": "num_local_experts"},
    synonyms={"num_local_experts": "num_experts"},
    experts=Experts(
        width="ffn",
        top_k="num_experts_per_tok",
        router=MOE + "gate.weight",
        parts={
            MOE + "experts.{experts}.w1.weight": (MLP + "gate_proj.weight",),
            MOE + "experts.{experts}.w3.weight": (MLP + "up_proj.weight",),
            MOE + "experts.{experts}.w2.weight": (MLP + "down_proj.weight",),
        },
        fused={
            MLP + "gate.weight": (MOE + "gate.weight",),
            MLP + "experts.gate_up_proj": tuple(MOE + f"experts.{{experts}}.{name}.weight" for name in ("w1", "w3")),
            MLP + "experts.down_proj": (MOE + "experts.{experts}.w2.weight",),
        },
    ),
    harmless={"sliding_window", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"},
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    default_theta=1e6,
    sizes={
        "Mixtral-8x7B": {**size(4096, 32, 8, 14336, 32), "num_local_experts": 8},
        "Mixtral-8x22B": {**size(6144, 48, 8, 16384, 56), "num_local_experts": 8},
    },
)
