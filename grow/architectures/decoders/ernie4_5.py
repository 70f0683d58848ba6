"""ERNIE 4.5 (dense): Llama with rotations of neighbours and one switch for all biases."""

from grow.architectures.decoders.llama import BLOCK, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

BIASES = (
    QKV_BIAS.replace("{when}", "use_bias")
    + """
model.layers.{layers}.self_attn.o_proj.bias               hidden <-                           ? use_bias
model.layers.{layers}.mlp.gate_proj.bias                  ffn <-                              ? use_bias
model.layers.{layers}.mlp.up_proj.bias                    ffn <-                              ? use_bias
model.layers.{layers}.mlp.down_proj.bias                  hidden <-                           ? use_bias
"""
)

ERNIE4_5 = rms_decoder(
    "ernie4_5",
    class_prefix="Ernie4_5",
    table=BLOCK + BIASES,
    attention=Attention(rope="pairs"),
    aliases=(),
    summary="ERNIE 4.5 0.3B",
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "use_bias": False,
    },
    default_theta=5e5,
    sizes={"ERNIE-4.5-0.3B": size(1024, 16, 2, 3072, 18, head_dim=128)},
)
