"""DeiT: ViT with a second token and a second head, which learned from a teacher."""

from grow.architectures.encoders.bert import size
from grow.architectures.vision.vit import CLASSIFIER, EMBEDDINGS, FINAL, LAYERS, PIXELS, POOLER, image_encoder

DISTILLED = """
{base}embeddings.distillation_token                                 1, 1 -> hidden
"""
HEADS = """
cls_classifier.weight        labels <- hidden  ? ForImageClassificationWithTeacher
cls_classifier.bias        labels <-         ? ForImageClassificationWithTeacher
distillation_classifier.weight        labels <- hidden  ? ForImageClassificationWithTeacher
distillation_classifier.bias        labels <-         ? ForImageClassificationWithTeacher
"""

DEIT = image_encoder(
    "deit",
    base="deit.",
    class_prefix="DeiT",
    table=EMBEDDINGS + DISTILLED + LAYERS + FINAL + POOLER + CLASSIFIER + HEADS + PIXELS,
    defaults={"pooler_output_size": "=hidden_size"},
    harmless=frozenset({"pooler_act"}),
    summary="DeiT",
    sizes={
        "DeiT-Ti": size(192, 3, 768, 12),
        "DeiT-S": size(384, 6, 1536, 12),
        "DeiT-B": size(768, 12, 3072, 12),
    },
)
