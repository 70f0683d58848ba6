"""ViViT: ViT over tubes of a film; its grid of positions is fixed."""

from grow.architectures.encoders.bert import size
from grow.architectures.vision.vit import EMBEDDINGS, FINAL, LAYERS, POOLER, image_encoder

CLASSIFIER = """
classifier.weight                                                   labels <- hidden  ? ForVideoClassification
classifier.bias                                                     labels <-         ? ForVideoClassification
"""

VIVIT = image_encoder(
    "vivit",
    base="vivit.",
    table=EMBEDDINGS.replace("channels, patch, patch", "channels, frames, patch, patch")
    + LAYERS
    + FINAL
    + POOLER
    + CLASSIFIER,
    masked="never",
    defaults={"layer_norm_eps": 1e-6, "pooler_output_size": "=hidden_size"},
    harmless=frozenset("pooler_act num_frames tubelet_size".split()),
    summary="ViViT",
    sizes={"ViViT-B": size(768, 12, 3072, 12)},
)
