"""K-EXAONE: Qwen3 with DeepSeek-V3's experts; layers with full attention have no RoPE."""

from grow.architectures.decoders.llama import block, rms_decoder, size
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.experts.glm4_moe import CHOSEN_FIELDS, FFN, GROUPS, chosen
from grow.architectures.facts import Attention, SparseLayers
from grow.architectures.layer_lists import LayerList

EXAONE_MOE = rms_decoder(
    "exaone_moe",
    class_prefix="ExaoneMoe",
    table=block(FFN) + QK_NORM,
    aliases=(),
    attention=Attention(rope="half"),
    summary="K-EXAONE",
    axes={
        "expert_ffn": "moe_intermediate_size",
        "shared_experts": "num_shared_experts",
        "experts": "num_experts",
    },
    experts=chosen(SparseLayers(listed="mlp_layer_types", first="first_k_dense_replace")),
    layer_lists=(LayerList(needed=True), LayerList("mlp_layer_types", ("dense", "sparse"))),
    spelling=((".mlp.e_score_correction_bias", ".mlp.gate.e_score_correction_bias"),),
    harmless={"sliding_window", "sliding_window_pattern", *CHOSEN_FIELDS},
    nulls={},
    defaults={
        "num_key_value_heads": 32,
        "intermediate_size": 16384,
        "moe_intermediate_size": 1024,
        "num_shared_experts": 1,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "first_k_dense_replace": 1,
        **GROUPS,
    },
    sizes={
        "K-EXAONE-236B-A23B": {
            **size(6144, 64, 8, 18432, 48, head_dim=128),
            "moe_intermediate_size": 2048,
            "num_shared_experts": 1,
            "num_experts": 128,
        },
    },
)
