"""Mistral: Llama without biases, with one sliding window for all layers."""

from grow.architectures.decoders.llama import BLOCK, rms_decoder, size

MISTRAL = rms_decoder(
    "mistral",
    table=BLOCK,
    aliases=(),
    summary="Mistral 7B, Nemo",
    harmless={"sliding_window"},
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072},
    sizes={
        "Mistral-7B": size(4096, 32, 8, 14336, 32),
        "Mistral-Nemo": size(5120, 32, 8, 14336, 40, head_dim=128),
    },
)
