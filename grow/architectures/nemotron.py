"""Nemotron, Minitron: LayerNorms whose gain is stored as w for 1 + w, no gate, half of each head turned."""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.family import Attention, Norm
from grow.architectures.llama import ATTENTION, EMBEDDING, HEAD_ROWS, O_BIAS, QKV_BIAS, rms_decoder, size

NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden 1*
model.layers.{layers}.input_layernorm.bias                hidden +
model.layers.{layers}.post_attention_layernorm.weight     hidden 1*
model.layers.{layers}.post_attention_layernorm.bias       hidden +
model.norm.weight                                         hidden 1*
model.norm.bias                                           hidden +
"""
FFN = """
model.layers.{layers}.mlp.up_proj.weight                  ffn <- hidden
model.layers.{layers}.mlp.up_proj.bias                    ffn <-                              ? mlp_bias
model.layers.{layers}.mlp.down_proj.weight                hidden <- ffn
model.layers.{layers}.mlp.down_proj.bias                  hidden <-                           ? mlp_bias
"""

NEMOTRON = rms_decoder(
    "nemotron",
    table=EMBEDDING + NORMS + ATTENTION + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + FFN + HEAD_ROWS,
    norm=Norm("layernorm"),
    attention=Attention(rope="partial"),
    eps="norm_eps",
    tied_norm=("model.norm.weight", "model.norm.bias"),
    summary="Nemotron-4, Minitron",
    harmless={"norm_eps"},
    fixed={"hidden_act": ELEMENTWISE},
    defaults={"max_position_embeddings": 4096, "partial_rotary_factor": 0.5, "num_key_value_heads": None},
    nulls={},
    sizes={
        "Minitron-4B": size(3072, 24, 8, 9216, 32, head_dim=128),
        "Minitron-8B": size(4096, 48, 8, 16384, 32, head_dim=128),
        "nemotron-4-15b": size(6144, 48, 8, 24576, 32, head_dim=128),
    },
)
