"""ViT-MAE: the encoder of a masked autoencoder, which is ViT; its positions are sinusoids that are stored."""

from grow.architectures.encoders.bert import size
from grow.architectures.vision.vit import EMBEDDINGS, FINAL, LAYERS, image_encoder

VIT_MAE = image_encoder(
    "vit_mae",
    base="vit.",
    class_prefix="ViTMAE",
    table=EMBEDDINGS + LAYERS + FINAL,
    masked="never",
    harmless=frozenset(
        """
        mask_ratio norm_pix_loss decoder_num_attention_heads decoder_hidden_size decoder_num_hidden_layers
        decoder_intermediate_size
        """.split()
    ),
    summary="ViT-MAE, its encoder",
    sizes={
        "ViT-MAE-B": size(768, 12, 3072, 12),
        "ViT-MAE-L": size(1024, 16, 4096, 24),
        "ViT-MAE-H": size(1280, 16, 5120, 32),
    },
)
