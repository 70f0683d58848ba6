"""DeepSeek-V2: multi-head latent attention, and experts whose weights are never normalised."""

from dataclasses import replace

from grow.architectures.decoders.llama import MLP_BIAS, rms_decoder
from grow.architectures.decoders.youtu import DEFAULTS, FACTS, RANKS, latent_block
from grow.architectures.experts.glm4_moe import AXES, CHOSEN_FIELDS, SHARED, chosen
from grow.architectures.experts.qwen2_moe import DENSE, ROUTED

DENSE_BIAS = "".join(f"{line} dense\n" for line in MLP_BIAS.strip().splitlines() if line)
SHARED_BIAS = """
model.layers.{layers}.mlp.shared_experts.gate_proj.bias      (shared_experts expert_ffn) <-    ? sparse mlp_bias
model.layers.{layers}.mlp.shared_experts.up_proj.bias        (shared_experts expert_ffn) <-    ? sparse mlp_bias
model.layers.{layers}.mlp.shared_experts.down_proj.bias      hidden <-                         ? sparse mlp_bias
"""

DEEPSEEK_V2 = rms_decoder(
    "deepseek_v2",
    class_prefix="DeepseekV2",
    table=latent_block(DENSE + ROUTED + SHARED) + DENSE_BIAS + SHARED_BIAS,
    **{name: fact for name, fact in FACTS.items() if name != "fixed"},
    divides=True,
    summary="DeepSeek-V2, V2-Lite",
    axes=RANKS | AXES,
    synonyms={"n_routed_experts": "num_experts"},
    experts=replace(chosen(), bias="", copies="always", normed="never", switch=""),
    harmless={"pretraining_tp", "topk_method", "norm_topk_prob", *CHOSEN_FIELDS},
    needs=("num_experts_per_tok",),
    defaults={
        "max_position_embeddings": 2048,
        "intermediate_size": 11008,
        "moe_intermediate_size": 1407,
        "n_shared_experts": 2,
        "n_routed_experts": 64,
        "first_k_dense_replace": 0,
        "n_group": None,
        **DEFAULTS,
    },
    sizes={
        "DeepSeek-V2-Lite": {
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "n_shared_experts": 2,
            "n_routed_experts": 64,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
    },
)
