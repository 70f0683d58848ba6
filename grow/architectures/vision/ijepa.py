"""I-JEPA: ViT without a first token; its classifier reads the mean of all patches."""

from grow.architectures.encoders.bert import size
from grow.architectures.vision.vit import CLASSIFIER, FINAL, LAYERS, PATCHES, POSITIONS, image_encoder

IJEPA = image_encoder(
    "ijepa",
    base="ijepa.",
    class_prefix="IJepa",
    table=POSITIONS + PATCHES + LAYERS + FINAL + CLASSIFIER,
    defaults={"pooler_output_size": "=hidden_size"},
    harmless=frozenset({"pooler_act"}),
    summary="I-JEPA",
    sizes={"I-JEPA-H": size(1280, 16, 5120, 32)},
)
