"""ViT: LayerNorm before each branch over patches of an image; its grid of positions is fixed."""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.encoders.bert import size
from grow.architectures.facts import Attention, Norm
from grow.architectures.family import Family

AXES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
}

EMBEDDINGS = """
{base}embeddings.cls_token                                          1, 1 -> hidden
{base}embeddings.mask_token                                         1, 1 -> hidden  ? {masked}
{base}embeddings.position_embeddings                                1, positions -> hidden
{base}embeddings.patch_embeddings.projection.weight                 hidden <- channels, patch, patch
{base}embeddings.patch_embeddings.projection.bias                   hidden <-
"""
LAYERS = """
{base}encoder.layer.{layers}.layernorm_before.weight                hidden *
{base}encoder.layer.{layers}.layernorm_before.bias                  hidden +
{base}encoder.layer.{layers}.attention.attention.query.weight       (heads head_dim.q) <- hidden
{base}encoder.layer.{layers}.attention.attention.query.bias         (heads head_dim.q) <-  ? qkv_bias
{base}encoder.layer.{layers}.attention.attention.key.weight         (heads head_dim.k) <- hidden
{base}encoder.layer.{layers}.attention.attention.key.bias           (heads head_dim.k) <-  ? qkv_bias
{base}encoder.layer.{layers}.attention.attention.value.weight       (heads head_dim.v) <- hidden
{base}encoder.layer.{layers}.attention.attention.value.bias         (heads head_dim.v) <-  ? qkv_bias
{base}encoder.layer.{layers}.attention.output.dense.weight          hidden <- (heads head_dim.v)
{base}encoder.layer.{layers}.attention.output.dense.bias            hidden <-
{base}encoder.layer.{layers}.layernorm_after.weight                 hidden *
{base}encoder.layer.{layers}.layernorm_after.bias                   hidden +
{base}encoder.layer.{layers}.intermediate.dense.weight              ffn <- hidden
{base}encoder.layer.{layers}.intermediate.dense.bias                ffn <-
{base}encoder.layer.{layers}.output.dense.weight                    hidden <- ffn
{base}encoder.layer.{layers}.output.dense.bias                      hidden <-
"""
FINAL = """
{base}layernorm.weight                                              hidden *
{base}layernorm.bias                                                hidden +
"""
POOLER = """
{base}pooler.dense.weight                                           pooled <- hidden  ? optional
{base}pooler.dense.bias                                             pooled <-         ? optional
"""
CLASSIFIER = """
classifier.weight                                                   labels <- hidden  ? ForImageClassification
classifier.bias                                                     labels <-         ? ForImageClassification
"""
PIXELS = """
decoder.0.weight                                                    pixels <- hidden, 1, 1  ? ForMaskedImageModeling
decoder.0.bias                                                      pixels <-               ? ForMaskedImageModeling
"""


def image_encoder(
    model_type: str, *, table: str, base: str, masked: str = "ForMaskedImageModeling", **facts: Any
) -> Family:
    """A family of ViT's kind; `masked` says when it has a token that stands for hidden patches."""
    usual: dict[str, Any] = dict(
        prefix=base,
        axes=AXES,
        norm=Norm("layernorm", last="never"),
        attention=Attention(),
        tie=None,
        eps="layer_norm_eps",
        defaults={"layer_norm_eps": 1e-12, "qkv_bias": True},
        fixed={"hidden_act": ELEMENTWISE},
        harmless=frozenset("image_size patch_size num_channels layer_norm_eps encoder_stride".split()),
    )
    for fact in ("defaults", "fixed", "harmless"):
        if fact in facts:
            facts[fact] = usual[fact] | facts[fact]
    return Family(model_type, table.replace("{base}", base).replace("{masked}", masked), **usual | facts)


VIT = image_encoder(
    "vit",
    base="vit.",
    class_prefix="ViT",
    table=EMBEDDINGS + LAYERS + FINAL + POOLER + CLASSIFIER + PIXELS,
    defaults={"pooler_output_size": "=hidden_size"},
    harmless=frozenset({"pooler_act"}),
    summary="ViT, image classifiers",
    sizes={
        "ViT-Ti": size(192, 3, 768, 12),
        "ViT-S": size(384, 6, 1536, 12),
        "ViT-B": size(768, 12, 3072, 12),
        "ViT-L": size(1024, 16, 4096, 24),
        "ViT-H": size(1280, 16, 5120, 32),
    },
)
