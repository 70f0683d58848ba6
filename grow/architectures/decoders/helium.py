"""Helium: Llama with rotations of neighbours, built for heads that fill hidden."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

HELIUM = rms_decoder(
    "helium",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + MLP_BIAS,
    attention=Attention(rope="pairs"),
    aliases=(),
    summary="Helium 1",
    follows={"head_dim": "hidden / heads"},
    nulls={},
    defaults={"num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096},
    default_theta=1e5,
    sizes={"helium-1-preview": size(2560, 20, 20, 7040, 24)},
)
