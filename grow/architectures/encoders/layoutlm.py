"""LayoutLM: BERT with four tables of places on a page."""

from grow.architectures.encoders.bert import (
    ANSWERS,
    AXES,
    DEFAULTS,
    EMBEDDING_NORM,
    LAYERS,
    POOLER,
    TOKENS,
    TYPES,
    relative,
    size,
)

BOXES = """
{base}embeddings.x_position_embeddings.weight                       places -> hidden
{base}embeddings.y_position_embeddings.weight                       places -> hidden
{base}embeddings.h_position_embeddings.weight                       places -> hidden
{base}embeddings.w_position_embeddings.weight                       places -> hidden
"""

LAYOUTLM = relative(
    "layoutlm",
    class_prefix="LayoutLM",
    masked="ForMaskedLM",
    encoder=TOKENS + BOXES + TYPES + EMBEDDING_NORM + LAYERS + POOLER + ANSWERS,
    axes={**AXES, "places": "max_2d_position_embeddings"},
    defaults={**DEFAULTS, "max_2d_position_embeddings": 1024},
    summary="LayoutLM",
    sizes={
        "layoutlm-base": size(768, 12, 3072, 12),
        "layoutlm-large": size(1024, 16, 4096, 24),
    },
)
