"""CLIP's text tower: LayerNorm before each branch, from left to right; what it hands on is the end token."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.siglip_text_model import FINAL, LAYERS, TEXT_AXES, WORDS, tower

PROJECTION = """
text_projection.weight                                   pooled <- hidden  ? ModelWithProjection
"""

CLIP_TEXT_MODEL = tower(
    "clip_text_model",
    base="text_model.",
    class_prefix="CLIPText",
    axes=TEXT_AXES,
    table=WORDS + LAYERS + FINAL + PROJECTION,
    defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 512},
    summary="CLIP's text tower",
    sizes={"CLIP-B": size(512, 8, 2048, 12), "CLIP-L": size(768, 12, 3072, 12)},
)
