"""Phi-3.5-MoE: Mixtral with LayerNorms, biases, and a router that picks one expert, then a second among the others."""

from dataclasses import replace

from grow.architectures.decoders.llama import LAYERNORM, NORM_BIASES, O_BIAS, QKV_BIAS, block, rms_decoder, size
from grow.architectures.experts.mixtral import EXPERTS, MIXTRAL, MLP
from grow.architectures.experts.qwen2_moe import ROUTER_FIELDS
from grow.architectures.facts import Refusal

HEAD_BIAS = """
lm_head.bias                                              vocab <-   ? ForCausalLM lm_head_bias
"""

assert MIXTRAL.experts is not None
FUSED = {
    MLP + "router.weight" if name == MLP + "gate.weight" else name: rows for name, rows in MIXTRAL.experts.fused.items()
}

PHIMOE = rms_decoder(
    "phimoe",
    table=block(EXPERTS) + NORM_BIASES + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + HEAD_BIAS,
    **LAYERNORM,
    aliases=("transformer.",),
    summary="Phi-3.5-MoE",
    axes={"experts": "num_local_experts"},
    experts=replace(MIXTRAL.experts, fused=FUSED),
    refusals=(
        Refusal(
            "experts",
            "each of a token's two experts is weighed against those of like logits: a copy takes part of its weight",
        ),
    ),
    fixed={"num_experts_per_tok": (2,)},
    harmless={
        "sliding_window",
        "original_max_position_embeddings",  # repeats the one in rope_parameters
        "router_jitter_noise",
        "input_jitter_noise",
        *ROUTER_FIELDS,
    },
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "lm_head_bias": False,
    },
    default_theta=1e6,
    sizes={"Phi-3.5-MoE": {**size(4096, 32, 8, 6400, 32), "num_local_experts": 16}},
)
