"""GLM-4.7-Flash: GLM-4.5's experts with multi-head latent attention."""

from grow.architectures.decoders.llama import rms_decoder
from grow.architectures.decoders.youtu import DEFAULTS, FACTS, RANKS, latent_block
from grow.architectures.experts.glm4_moe import AXES, CHOSEN_FIELDS, FFN, GROUPS, chosen
from grow.architectures.facts import SparseLayers
from grow.architectures.layer_lists import LayerList

GLM4_MOE_LITE = rms_decoder(
    "glm4_moe_lite",
    class_prefix="Glm4MoeLite",
    table=latent_block(FFN),
    **FACTS,
    summary="GLM-4.7-Flash",
    axes=RANKS | AXES,
    synonyms={"qk_rope_head_dim": "head_dim", "n_routed_experts": "num_local_experts"},
    experts=chosen(SparseLayers(listed="mlp_layer_types")),
    layer_lists=(LayerList("mlp_layer_types", ("dense", "sparse"), needed=True),),
    harmless={"pretraining_tp", *CHOSEN_FIELDS},
    defaults={
        "num_key_value_heads": 20,
        "max_position_embeddings": 202752,
        "intermediate_size": 10240,
        "moe_intermediate_size": 1536,
        "n_shared_experts": 1,
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        **DEFAULTS,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        **GROUPS,
    },
    sizes={
        "GLM-4.7-Flash": {
            "hidden_size": 2048,
            "num_attention_heads": 20,
            "num_key_value_heads": 20,
            "intermediate_size": 10240,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 47,
            "n_shared_experts": 1,
            "n_routed_experts": 64,
            "q_lora_rank": 768,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64,
            "v_head_dim": 256,
        },
    },
)
