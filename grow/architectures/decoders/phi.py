"""Phi 1 to 2: one LayerNorm in front of attention and FFN side by side, partial RoPE, and a bias on the head."""

from dataclasses import replace

from grow.architectures.decoders.llama import (
    ATTENTION,
    EMBEDDING,
    INPUT_NORM,
    LAYERNORM,
    OUTPUTS,
    QKV_BIAS,
    rms_decoder,
    size,
)
from grow.architectures.facts import Attention

LAYER = """
model.layers.{layers}.input_layernorm.bias                hidden +
model.layers.{layers}.self_attn.dense.bias                hidden <-
model.layers.{layers}.mlp.fc1.weight                      ffn <- hidden
model.layers.{layers}.mlp.fc1.bias                        ffn <-
model.layers.{layers}.mlp.fc2.weight                      hidden <- ffn
model.layers.{layers}.mlp.fc2.bias                        hidden <-
"""
FINAL = """
model.final_layernorm.weight                              hidden *
model.final_layernorm.bias                                hidden +
lm_head.bias                                              vocab <-           ? ForCausalLM
"""
DENSE = ATTENTION.replace(".o_proj.", ".dense.")
NORMS = ("model.final_layernorm.weight", "model.final_layernorm.bias")

PHI = rms_decoder(
    "phi",
    table=EMBEDDING + INPUT_NORM + DENSE + QKV_BIAS.replace("{when}", "always") + LAYER + FINAL + OUTPUTS,
    norm=LAYERNORM["norm"],
    tie=replace(LAYERNORM["tie"], norms=NORMS),
    attention=Attention(rope="partial"),
    aliases=(),
    eps="layer_norm_eps",
    summary="Phi-1, Phi-1.5, Phi-2",
    fixed={"qk_layernorm": (False,)},
    defaults={"partial_rotary_factor": 0.5},
    sizes={
        "phi-1": size(2048, 32, 32, 8192, 24),
        "phi-2": size(2560, 32, 32, 10240, 32),
    },
)
