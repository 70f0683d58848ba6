"""GLM-4-0414: GLM with a norm behind each branch, too."""

from grow.architectures.decoders.glm import BLOCK, DEFAULTS, FACTS
from grow.architectures.decoders.llama import rms_decoder, size

NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden *
model.layers.{layers}.post_self_attn_layernorm.weight     hidden *>
model.layers.{layers}.post_attention_layernorm.weight     hidden *
model.layers.{layers}.post_mlp_layernorm.weight           hidden *>
"""

GLM4 = rms_decoder(
    "glm4",
    table=BLOCK + NORMS,
    **FACTS,
    summary="GLM-4-0414 9B, 32B",
    defaults=DEFAULTS,
    nulls={},
    sizes={
        "GLM-4-9B-0414": size(4096, 32, 2, 13696, 40, head_dim=128),
        "GLM-4-32B-0414": size(6144, 48, 2, 23040, 61, head_dim=128),
    },
)
