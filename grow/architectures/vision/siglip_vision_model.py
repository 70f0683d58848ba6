"""SigLIP's image tower: LayerNorm before each branch; its head attends with a vector of its own, and reads it bare."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.siglip_text_model import AXES, LAYERS, tower
from grow.architectures.facts import Norm

IMAGES = """
{base}embeddings.patch_embedding.weight                  hidden <- channels, patch, patch
{base}embeddings.patch_embedding.bias                    hidden <-
{base}embeddings.position_embedding.weight               positions -> hidden
"""
FINAL = """
{base}post_layernorm.weight                              hidden *
{base}post_layernorm.bias                                hidden +
"""
HEAD = """
{base}head.probe                      1, 1 -> hidden                                                         {head}
{base}head.attention.in_proj_weight   (heads head_dim.q | heads head_dim.k | heads head_dim.v) <- hidden     {head}
{base}head.attention.in_proj_bias     (heads head_dim.q | heads head_dim.k | heads head_dim.v) <-            {head}
{base}head.attention.out_proj.weight  hidden <- (heads head_dim.v)                                           {head}
{base}head.attention.out_proj.bias    hidden <-                                                              {head}
{base}head.layernorm.weight           hidden *                                                               {head}
{base}head.layernorm.bias             hidden +                                                               {head}
{base}head.mlp.fc1.weight             ffn <- hidden                                                          {head}
{base}head.mlp.fc1.bias               ffn <-                                                                 {head}
{base}head.mlp.fc2.weight             hidden <- ffn                                                          {head}
{base}head.mlp.fc2.bias               hidden <-                                                              {head}
"""

SIGLIP_VISION_MODEL = tower(
    "siglip_vision_model",
    base="vision_model.",
    class_prefix="SiglipVision",
    axes=AXES,
    table=IMAGES + LAYERS + FINAL + HEAD.replace("{head}", "? vision_use_head"),
    norm=Norm("layernorm", bare="vision_use_head", last="never"),
    defaults={"layer_norm_eps": 1e-6, "vision_use_head": True},
    harmless=frozenset("image_size patch_size num_channels".split()),
    summary="SigLIP's image tower",
    sizes={
        "SigLIP-B": size(768, 12, 3072, 12),
        "SigLIP-L": size(1024, 16, 4096, 24),
        "SigLIP-So400m": size(1152, 16, 4304, 27),
    },
)
