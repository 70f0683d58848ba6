"""GLM-4: Llama with gate and up in one tensor, biases on q, k and v, and half of each head turned."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    ATTENTION_NORM,
    EMBEDDING,
    HEADS,
    INPUT_NORM,
    QKV_BIAS,
    rms_decoder,
    size,
)
from grow.architectures.facts import Attention

FFN = """
model.layers.{layers}.mlp.gate_up_proj.weight             (ffn | ffn) <- hidden
model.layers.{layers}.mlp.down_proj.weight                hidden <- ffn
"""
BLOCK = EMBEDDING + ATTENTION + QKV_BIAS.replace("{when}", "attention_bias") + FFN + HEADS
FACTS = {"attention": Attention(rope="partial"), "aliases": ()}
DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
}

GLM = rms_decoder(
    "glm",
    table=BLOCK + INPUT_NORM + ATTENTION_NORM,
    **FACTS,
    summary="GLM-4 9B",
    defaults=DEFAULTS,
    nulls={},
    sizes={"glm-4-9b": size(4096, 32, 2, 13696, 40, head_dim=128)},
)
