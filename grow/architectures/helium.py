"""Helium: Llama with rotations of neighbours; the heads together are as wide as hidden."""

from grow.architectures.family import Attention
from grow.architectures.llama import BLOCK, MLP_BIAS, QKV_BIAS, rms_decoder, size

HELIUM = rms_decoder(
    "helium",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + MLP_BIAS,
    attention=Attention(rope="pairs"),
    aliases=(),
    derived_head_dim=True,
    summary="Helium 1",
    defaults={"num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096},
    nulls={},
    default_theta=1e5,
    sizes={"helium-1-2b": size(2048, 16, 8, 8192, 28, head_dim=128)},
)
