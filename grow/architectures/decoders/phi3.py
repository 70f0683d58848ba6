"""Phi-3 to Phi-4: Llama with q, k and v in one tensor, gate and up in another, and a part of each head turned.

Under longrope stock code counts the factors of its pairs by hidden / heads, whatever head_dim is.
"""

from grow.architectures.decoders.glm import FFN
from grow.architectures.decoders.llama import ATTENTION_NORM, EMBEDDING, HEADS, INPUT_NORM, rms_decoder, size
from grow.architectures.facts import Attention

ATTENTION = """
model.layers.{layers}.self_attn.qkv_proj.weight \
(kv_heads q_per_kv head_dim.q | kv_heads head_dim.k | kv_heads head_dim.v) <- hidden
model.layers.{layers}.self_attn.o_proj.weight             hidden <- (kv_heads q_per_kv head_dim.v)
"""

PHI3 = rms_decoder(
    "phi3",
    table=EMBEDDING + INPUT_NORM + ATTENTION + ATTENTION_NORM + FFN + HEADS,
    attention=Attention(rope="partial"),
    aliases=(),
    summary="Phi-3, Phi-3.5, Phi-4",
    follows={"head_dim": "hidden / heads ? not rope:default"},
    # the attention factor of longrope follows from it, and it stays
    harmless={"sliding_window", "original_max_position_embeddings"},
    defaults={"max_position_embeddings": 4096, "partial_rotary_factor": 1.0},
    sizes={
        "Phi-3-mini": size(3072, 32, 32, 8192, 32),
        "Phi-3-medium": size(5120, 40, 10, 17920, 40),
        "Phi-4": size(5120, 40, 10, 17920, 40),
        "Phi-4-mini": size(3072, 24, 8, 8192, 32),
    },
)
