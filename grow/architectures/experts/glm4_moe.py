"""GLM-4.5: experts behind a sigmoid router with a bias on the choice, and experts that every token gets."""

from dataclasses import replace
from typing import Any

from grow.architectures.decoders.llama import QKV_BIAS, block, rms_decoder, size
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.experts.qwen2_moe import DENSE, MLP, ROUTED, ROUTER_FIELDS, routed
from grow.architectures.facts import Attention, Experts, SparseLayers

# Shared by all families whose router is DeepSeek-V3's.
CHOICE = """
model.layers.{layers}.mlp.gate.e_score_correction_bias               experts <-              ? sparse
"""
SHARED = """
model.layers.{layers}.mlp.shared_experts.gate_proj.weight    (shared_experts expert_ffn) <- hidden    ? sparse
model.layers.{layers}.mlp.shared_experts.up_proj.weight      (shared_experts expert_ffn) <- hidden    ? sparse
model.layers.{layers}.mlp.shared_experts.down_proj.weight    hidden <- (shared_experts expert_ffn)    ? sparse
"""
FFN = DENSE + ROUTED + CHOICE + SHARED
SHARES = {
    MLP + f"shared_experts.{name}.weight": MLP + f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")
}
AXES = {
    "expert_ffn": "moe_intermediate_size",
    "shared_experts": "n_shared_experts",
    "experts": "n_routed_experts",
}
AHEAD = {"num_nextn_predict_layers": "num_mtp_layers"}  # layers that guess tokens ahead: the stock model has none
GROUPS = {"n_group": 1, "topk_group": 1}
FIRST = SparseLayers(first="first_k_dense_replace")
CHOSEN_FIELDS = {"routed_scaling_factor", "topk_group", *ROUTER_FIELDS}


def chosen(layers: SparseLayers | None = FIRST, **facts: Any) -> Experts:
    """Experts whose choice has a bias and may be made in groups, by the sum of the best two of each."""
    base = routed("expert_ffn", shared=SHARES, shared_width="expert_ffn", layers=layers)
    bias = MLP + "gate.e_score_correction_bias"
    return replace(base, **{"bias": bias, "copies": "norm_topk_prob n_group==1", "groups": "n_group", **facts})


NORMS = "".join(f"{line}  ? use_qk_norm\n" for line in QK_NORM.strip().splitlines())

GLM4_MOE = rms_decoder(
    "glm4_moe",
    class_prefix="Glm4Moe",
    table=block(FFN) + QKV_BIAS.replace("{when}", "attention_bias") + NORMS,
    aliases=(),
    attention=Attention(rope="partial"),
    summary="GLM-4.5, GLM-4.5-Air, GLM-4.6",
    axes=AXES,
    synonyms={"n_routed_experts": "num_local_experts", **AHEAD},
    experts=chosen(),
    harmless={*AHEAD, *CHOSEN_FIELDS},
    nulls={},
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "first_k_dense_replace": 1,
        "use_qk_norm": False,
        "partial_rotary_factor": 0.5,
        **GROUPS,
    },
    sizes={
        "GLM-4.5-Air": {
            **size(4096, 96, 8, 10944, 46, head_dim=128),
            "moe_intermediate_size": 1408,
            "n_shared_experts": 1,
            "n_routed_experts": 128,
        },
        "GLM-4.5": {
            **size(5120, 96, 8, 12288, 92, head_dim=128),
            "moe_intermediate_size": 1536,
            "n_shared_experts": 1,
            "n_routed_experts": 160,
        },
    },
)
