"""Ministral: Mistral with a kind of attention for each layer."""

from grow.architectures.decoders.llama import BLOCK, rms_decoder, size

MINISTRAL = rms_decoder(
    "ministral",
    table=BLOCK,
    summary="Ministral 8B (2410)",
    harmless={"sliding_window"},
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072},
    sizes={"Ministral-8B": size(4096, 32, 8, 12288, 36, head_dim=128)},
)
