"""dots.llm1: Qwen3 with DeepSeek-V3's experts."""

from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, block, rms_decoder, size
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.experts.glm4_moe import AXES, CHOSEN_FIELDS, FFN, GROUPS, chosen
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Window

DOTS1 = rms_decoder(
    "dots1",
    table=block(FFN) + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + QK_NORM,
    aliases=(),
    attention=Attention(rope="half"),
    summary="dots.llm1",
    axes=AXES,
    synonyms={"n_routed_experts": "num_local_experts"},
    experts=chosen(),
    layer_lists=(Window(switch=""),),
    harmless={"sliding_window", *CHOSEN_FIELDS},
    needs=("n_routed_experts|num_local_experts", "n_shared_experts", "num_experts_per_tok"),
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": False,
        "first_k_dense_replace": 0,
        "max_window_layers": 62,
        **GROUPS,
    },
    sizes={
        "dots.llm1": {
            **size(4096, 32, 32, 10944, 62),
            "moe_intermediate_size": 1408,
            "n_shared_experts": 2,
            "n_routed_experts": 128,
        },
    },
)
