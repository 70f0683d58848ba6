"""Qwen3-MoE: Qwen3 with experts in some layers and no shared one."""

from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, block, rms_decoder, size
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.experts.qwen2_moe import DENSE, ROUTED, ROUTER_FIELDS, SWITCHED, routed
from grow.architectures.facts import Attention

QWEN3_MOE = rms_decoder(
    "qwen3_moe",
    class_prefix="Qwen3Moe",
    table=block(DENSE + ROUTED) + QK_NORM + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    aliases=("transformer.",),
    attention=Attention(rope="half"),
    summary="Qwen3-MoE",
    axes={"expert_ffn": "moe_intermediate_size", "experts": "num_experts"},
    synonyms={"num_experts": "num_local_experts"},
    experts=routed("expert_ffn", layers=SWITCHED),
    harmless={"sliding_window", "use_sliding_window", "max_window_layers", *ROUTER_FIELDS},
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    sizes={
        "Qwen3-30B-A3B": {
            **size(2048, 32, 4, 6144, 48, head_dim=128),
            "moe_intermediate_size": 768,
            "num_experts": 128,
        },
        "Qwen3-235B-A22B": {
            **size(4096, 64, 4, 12288, 94, head_dim=128),
            "moe_intermediate_size": 1536,
            "num_experts": 128,
        },
    },
)
