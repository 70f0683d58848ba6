"""Ministral 3: Mistral whose queries also grow with the logarithm of their position."""

from grow.architectures.decoders.llama import BLOCK, rms_decoder, size

MINISTRAL3 = rms_decoder(
    "ministral3",
    table=BLOCK,
    summary="Ministral 3 (text)",
    rope_reads=frozenset({"llama_4_scaling_beta", "max_position_embeddings"}),
    harmless={"sliding_window"},
    needs=("rope_parameters|rope_scaling",),
    defaults={"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144},
    sizes={"Ministral-3-8B": size(4096, 32, 8, 14336, 34, head_dim=128)},
)
