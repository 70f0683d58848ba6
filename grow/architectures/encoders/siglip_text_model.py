"""SigLIP's text tower: LayerNorm before each branch, in both directions; a linear head on the last token."""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.encoders.bert import size
from grow.architectures.facts import Attention, Norm
from grow.architectures.family import Family

AXES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
}
TEXT_AXES = {**AXES, "vocab": "vocab_size", "positions": "max_position_embeddings"}
WORDS = """
{base}embeddings.token_embedding.weight                  vocab -> hidden
{base}embeddings.position_embedding.weight               positions -> hidden
"""
LAYERS = """
{base}encoder.layers.{layers}.layer_norm1.weight         hidden *
{base}encoder.layers.{layers}.layer_norm1.bias           hidden +
{base}encoder.layers.{layers}.self_attn.q_proj.weight    (heads head_dim.q) <- hidden
{base}encoder.layers.{layers}.self_attn.q_proj.bias      (heads head_dim.q) <-
{base}encoder.layers.{layers}.self_attn.k_proj.weight    (heads head_dim.k) <- hidden
{base}encoder.layers.{layers}.self_attn.k_proj.bias      (heads head_dim.k) <-
{base}encoder.layers.{layers}.self_attn.v_proj.weight    (heads head_dim.v) <- hidden
{base}encoder.layers.{layers}.self_attn.v_proj.bias      (heads head_dim.v) <-
{base}encoder.layers.{layers}.self_attn.out_proj.weight  hidden <- (heads head_dim.v)
{base}encoder.layers.{layers}.self_attn.out_proj.bias    hidden <-
{base}encoder.layers.{layers}.layer_norm2.weight         hidden *
{base}encoder.layers.{layers}.layer_norm2.bias           hidden +
{base}encoder.layers.{layers}.mlp.fc1.weight             ffn <- hidden
{base}encoder.layers.{layers}.mlp.fc1.bias               ffn <-
{base}encoder.layers.{layers}.mlp.fc2.weight             hidden <- ffn
{base}encoder.layers.{layers}.mlp.fc2.bias               hidden <-
"""
FINAL = """
{base}final_layer_norm.weight                            hidden *
{base}final_layer_norm.bias                              hidden +
"""
HEAD = """
{base}head.weight                                        pooled <- hidden
{base}head.bias                                          pooled <-
"""


def tower(model_type: str, *, base: str, table: str, axes: dict[str, str], **facts: Any) -> Family:
    """One of the two towers of a model of images and texts."""
    usual: dict[str, Any] = dict(
        prefix=base,
        axes=axes,
        norm=Norm("layernorm", last="never"),
        attention=Attention(),
        tie=None,
        eps="layer_norm_eps",
        derived_head_dim=True,
        divides=True,
        defaults={},
        fixed={"hidden_act": ELEMENTWISE},
        harmless=frozenset("layer_norm_eps initializer_factor".split()),
        stale=("embeddings.position_ids",),
    )
    for fact in ("defaults", "harmless"):
        if fact in facts:
            facts[fact] = usual[fact] | facts[fact]
    return Family(model_type, table.replace("{base}", base), **usual | facts)


SIGLIP_TEXT_MODEL = tower(
    "siglip_text_model",
    base="text_model.",
    class_prefix="SiglipText",
    axes=TEXT_AXES,
    table=WORDS + LAYERS + FINAL + HEAD,
    defaults={
        "projection_size": "=hidden_size",
        "layer_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        "vocab_size": 32000,
    },
    summary="SigLIP's text tower",
    sizes={"SigLIP-B": size(768, 12, 3072, 12), "SigLIP-L": size(1024, 16, 4096, 24)},
)
