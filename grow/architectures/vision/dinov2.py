"""DINOv2: ViT with a gain behind each branch; its FFN is a whole multiple of hidden."""

from typing import Any

from grow.architectures.family import Family
from grow.architectures.vision.vit import AXES, EMBEDDINGS, FINAL, attention, image_encoder

TOKENS = EMBEDDINGS.replace("1, 1 -> hidden  ? {masked}", "1 -> hidden  ? {masked}")
LAYERS = (
    """
{base}encoder.layer.{layers}.norm1.weight        hidden *
{base}encoder.layer.{layers}.norm1.bias        hidden +
"""
    + attention("qkv_bias")
    + """
{base}encoder.layer.{layers}.layer_scale1.lambda1                   hidden *>
{base}encoder.layer.{layers}.norm2.weight        hidden *
{base}encoder.layer.{layers}.norm2.bias        hidden +
{base}encoder.layer.{layers}.mlp.fc1.weight                         ffn <- hidden
{base}encoder.layer.{layers}.mlp.fc1.bias                           ffn <-
{base}encoder.layer.{layers}.mlp.fc2.weight                         hidden <- ffn
{base}encoder.layer.{layers}.mlp.fc2.bias                           hidden <-
{base}encoder.layer.{layers}.layer_scale2.lambda1                   hidden *>
"""
)
CLASSIFIER = """
classifier.weight        labels <- (hidden | hidden)  ? ForImageClassification
classifier.bias        labels <-                    ? ForImageClassification
"""
REGISTERS = """
{base}embeddings.register_tokens                                    1, registers -> hidden
"""


def size(hidden: int, heads: int, layers: int) -> dict[str, int]:
    return {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers}


def dino(model_type: str, *, table: str, masked: str, defaults: dict[str, Any], **facts: Any) -> Family:
    """A family of DINOv2's kind."""
    return image_encoder(
        model_type,
        base=f"{model_type}.",
        table=table,
        masked=masked,
        axes={**{axis: name for axis, name in AXES.items() if axis != "ffn"}, "ratio": "mlp_ratio"},
        computed={"ffn": "ratio hidden"},
        defaults={"layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False, **defaults},
        fixed={"use_swiglu_ffn": (False,)},
        harmless=frozenset(
            """
            layerscale_value drop_path_rate apply_layernorm reshape_hidden_states num_register_tokens
            out_features out_indices stage_names _out_features _out_indices
            """.split()
        ),
        sizes={
            "DINOv2-S": size(384, 6, 12),
            "DINOv2-B": size(768, 12, 12),
            "DINOv2-L": size(1024, 16, 24),
        },
        **facts,
    )


DINOV2 = dino(
    "dinov2",
    table=TOKENS + LAYERS + FINAL + CLASSIFIER,
    masked="use_mask_token",
    defaults={"use_mask_token": True},
    summary="DINOv2 without SwiGLU",
)
