"""StableLM: Llama with LayerNorms and partial RoPE; attention and FFN may read one norm side by side."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    EMBEDDING,
    FFN,
    HEADS,
    INPUT_NORM,
    LAYERNORM,
    QKV_BIAS,
    derived_size,
    rms_decoder,
)
from grow.architectures.facts import Attention

NORMS = """
model.layers.{layers}.input_layernorm.bias                hidden +
model.layers.{layers}.post_attention_layernorm.weight     hidden *           ? not use_parallel_residual
model.layers.{layers}.post_attention_layernorm.bias       hidden +           ? not use_parallel_residual
model.norm.bias                                           hidden +
"""

STABLELM = rms_decoder(
    "stablelm",
    class_prefix="StableLm",
    table=EMBEDDING + INPUT_NORM + ATTENTION + QKV_BIAS.replace("{when}", "use_qkv_bias") + FFN + HEADS + NORMS,
    **LAYERNORM,
    attention=Attention(rope="partial"),
    aliases=(),
    eps="layer_norm_eps",
    derived_head_dim=True,
    divides=True,
    summary="StableLM 3B, StableLM 2 1.6B",
    fixed={"qk_layernorm": (False,)},
    nulls={},
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "partial_rotary_factor": 0.25,
        "use_qkv_bias": False,
        "use_parallel_residual": False,
    },
    sizes={
        "stablelm-2-1.6b": derived_size(2048, 32, 32, 5632, 24),
        "stablelm-3b": derived_size(2560, 32, 32, 6912, 32),
    },
)
