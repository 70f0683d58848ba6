"""CLIP's image tower: a LayerNorm writes the stream in front of the first layer, so hidden grows by whole multiples."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.siglip_text_model import AXES, LAYERS, tower
from grow.architectures.facts import Norm

IMAGES = """
{base}embeddings.class_embedding                         hidden <-
{base}embeddings.patch_embedding.weight                  hidden <- channels, patch, patch
{base}embeddings.position_embedding.weight               positions -> hidden
{base}pre_layrnorm.weight                                hidden *
{base}pre_layrnorm.bias                                  hidden +
"""
FINAL = """
{base}post_layernorm.weight                              hidden *
{base}post_layernorm.bias                                hidden +
visual_projection.weight                                 pooled <- hidden  ? ModelWithProjection
"""

CLIP_VISION_MODEL = tower(
    "clip_vision_model",
    base="vision_model.",
    class_prefix="CLIPVision",
    axes=AXES,
    table=IMAGES + LAYERS + FINAL,
    norm=Norm("layernorm", bare="always", last="never", output="never"),
    defaults={"layer_norm_eps": 1e-5, "projection_dim": 512},
    harmless=frozenset("image_size patch_size num_channels".split()),
    summary="CLIP's image tower",
    sizes={"CLIP-B": size(768, 12, 3072, 12), "CLIP-L": size(1024, 16, 4096, 24)},
)
