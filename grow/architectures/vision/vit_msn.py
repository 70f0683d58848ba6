"""ViT-MSN: ViT that was trained to give masked images the same answers; without a pooler."""

from grow.architectures.encoders.bert import size
from grow.architectures.vision.vit import CLASSIFIER, EMBEDDINGS, FINAL, LAYERS, image_encoder

VIT_MSN = image_encoder(
    "vit_msn",
    base="vit.",
    class_prefix="ViTMSN",
    table=EMBEDDINGS + LAYERS + FINAL + CLASSIFIER,
    masked="never",
    defaults={"layer_norm_eps": 1e-6},
    summary="ViT-MSN",
    sizes={
        "ViT-MSN-S": size(384, 6, 1536, 12),
        "ViT-MSN-B": size(768, 12, 3072, 12),
        "ViT-MSN-L": size(1024, 16, 4096, 24),
    },
)
