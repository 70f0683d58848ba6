"""Nemotron, Minitron: LayerNorms whose gain is stored as w for 1 + w, no gate, half of each head turned."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    EMBEDDING,
    LAYERNORM,
    O_BIAS,
    OUTPUTS,
    QKV_BIAS,
    UNGATED,
    UNGATED_BIAS,
    rms_decoder,
    size,
)
from grow.architectures.facts import Attention

NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden 1*
model.layers.{layers}.input_layernorm.bias                hidden +
model.layers.{layers}.post_attention_layernorm.weight     hidden 1*
model.layers.{layers}.post_attention_layernorm.bias       hidden +
model.norm.weight                                         hidden 1*
model.norm.bias                                           hidden +
"""
NEMOTRON = rms_decoder(
    "nemotron",
    table=EMBEDDING
    + NORMS
    + ATTENTION
    + QKV_BIAS.replace("{when}", "attention_bias")
    + O_BIAS
    + UNGATED
    + UNGATED_BIAS
    + OUTPUTS,
    **LAYERNORM,
    attention=Attention(rope="partial"),
    eps="norm_eps",
    summary="Nemotron-4, Minitron",
    defaults={"max_position_embeddings": 4096, "partial_rotary_factor": 0.5},
    nulls={},
    needs=("num_key_value_heads",),
    sizes={
        "Minitron-4B": size(3072, 24, 8, 9216, 32, head_dim=128),
        "Minitron-8B": size(4096, 48, 8, 16384, 32, head_dim=128),
        "nemotron-4-15b": size(6144, 48, 8, 24576, 32, head_dim=128),
    },
)
