"""DeepSeek-V3 and R1: multi-head latent attention, and experts whose choice has a bias and is made in groups."""

from grow.architectures.decoders.llama import rms_decoder
from grow.architectures.decoders.youtu import DEFAULTS, FACTS, RANKS, latent_block
from grow.architectures.experts.glm4_moe import AHEAD, AXES, CHOSEN_FIELDS, FFN, chosen

DEEPSEEK_V3 = rms_decoder(
    "deepseek_v3",
    class_prefix="DeepseekV3",
    table=latent_block(FFN),
    **FACTS,
    summary="DeepSeek-V3, R1, Kimi K2, Moonlight",
    axes=RANKS | AXES,
    synonyms={"n_routed_experts": "num_local_experts", **AHEAD},
    experts=chosen(),
    harmless={*AHEAD, "pretraining_tp", *CHOSEN_FIELDS},
    defaults={
        "num_key_value_heads": 128,
        "max_position_embeddings": 4096,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "topk_group": 4,
        **DEFAULTS,
    },
    sizes={
        "DeepSeek-V3": {
            "hidden_size": 7168,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "n_shared_experts": 1,
            "n_routed_experts": 256,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
    },
)
