"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts and a shared expert in some layers."""

from typing import Any

from grow.architectures.decoders.llama import FFN, QKV_BIAS, block, rms_decoder, size
from grow.architectures.facts import Experts, SparseLayers
from grow.architectures.layer_lists import Window

MLP = "model.layers.{layers}.mlp."
DENSE = FFN.replace("hidden\n", "hidden  ? dense\n").replace("<- ffn\n", "<- ffn  ? dense\n")
ROUTED = """
model.layers.{layers}.mlp.gate.weight                                experts <- hidden       ? sparse
model.layers.{layers}.mlp.experts.{experts}.gate_proj.weight         expert_ffn <- hidden    ? sparse
model.layers.{layers}.mlp.experts.{experts}.up_proj.weight           expert_ffn <- hidden    ? sparse
model.layers.{layers}.mlp.experts.{experts}.down_proj.weight         hidden <- expert_ffn    ? sparse
"""
SHARED = """
model.layers.{layers}.mlp.shared_expert.gate_proj.weight             shared_ffn <- hidden    ? sparse
model.layers.{layers}.mlp.shared_expert.up_proj.weight               shared_ffn <- hidden    ? sparse
model.layers.{layers}.mlp.shared_expert.down_proj.weight             hidden <- shared_ffn    ? sparse
model.layers.{layers}.mlp.shared_expert_gate.weight                  1 <- hidden              ? sparse
"""
PARTS = {
    MLP + f"experts.{{experts}}.{name}.weight": (MLP + f"{name}.weight",)
    for name in ("gate_proj", "up_proj", "down_proj")
}
SHARES = {
    MLP + f"shared_expert.{name}.weight": MLP + f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")
}
SWITCHED = SparseLayers(only="mlp_only_layers", step="decoder_sparse_step")
ROUTER_FIELDS = {"output_router_logits", "router_aux_loss_coef"}


def routed(width: str, **facts: Any) -> Experts:
    """Experts as Qwen2-MoE's relatives store them."""
    return Experts(
        width=width,
        top_k="num_experts_per_tok",
        router=MLP + "gate.weight",
        parts=PARTS,
        normed="norm_topk_prob",
        switch="norm_topk_prob",
        fused={
            MLP + "experts.gate_up_proj": tuple(
                MLP + f"experts.{{experts}}.{n}.weight" for n in ("gate_proj", "up_proj")
            ),
            MLP + "experts.down_proj": (MLP + "experts.{experts}.down_proj.weight",),
        },
        **facts,
    )


QWEN2_MOE = rms_decoder(
    "qwen2_moe",
    class_prefix="Qwen2Moe",
    table=block(DENSE + ROUTED + SHARED) + QKV_BIAS.replace("{when}", "qkv_bias"),
    aliases=(),
    summary="Qwen1.5-MoE, Qwen2-MoE",
    axes={
        "expert_ffn": "moe_intermediate_size",
        "shared_ffn": "shared_expert_intermediate_size",
        "experts": "num_experts",
    },
    layer_lists=(Window(even=True),),
    nulls={},  # its class alone puts nothing in the place of null
    experts=routed(
        "expert_ffn",
        shared=SHARES,
        shared_width="shared_ffn",
        shared_gate=MLP + "shared_expert_gate.weight",
        layers=SWITCHED,
    ),
    harmless={"sliding_window", "use_sliding_window", *ROUTER_FIELDS},
    defaults={
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": True,
    },
    sizes={
        "Qwen1.5-MoE-A2.7B": {
            **size(2048, 16, 16, 5632, 24),
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
        },
        "Qwen2-57B-A14B": {
            **size(3584, 28, 4, 18944, 28),
            "moe_intermediate_size": 2560,
            "shared_expert_intermediate_size": 20480,
            "num_experts": 64,
        },
    },
)
