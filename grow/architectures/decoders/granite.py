"""Granite: Llama with four multipliers; the one of the scores replaces 1/√head_dim."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, O_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

MULTIPLIERS = {"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"}
BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS
UNSCALED = Attention(rope="half", scaled="never")

GRANITE = rms_decoder(
    "granite",
    table=BLOCK + BIASES + MLP_BIAS,
    aliases=(),
    attention=UNSCALED,
    summary="Granite 3 dense",
    harmless=MULTIPLIERS,
    sizes={
        "granite-3.0-2b": size(2048, 32, 8, 8192, 40),
        "granite-3.0-8b": size(4096, 32, 8, 12800, 40),
    },
)
