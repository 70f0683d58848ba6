"""HyperCLOVA X: Granite whose branches may have a norm behind them."""

from grow.architectures.decoders.granite import BIASES, MULTIPLIERS
from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

NORMS = """
model.layers.{layers}.post_norm1.weight                   hidden *>   ? use_post_norm
model.layers.{layers}.post_norm2.weight                   hidden *>   ? use_post_norm
"""

HYPERCLOVAX = rms_decoder(
    "hyperclovax",
    class_prefix="HyperCLOVAX",
    table=BLOCK + BIASES + MLP_BIAS + NORMS,
    aliases=(),
    # what is not given is 1/√head_dim
    attention=Attention(rope="half", scaled="attention_multiplier==none"),
    divides=True,
    summary="HyperCLOVA X SEED",
    harmless=MULTIPLIERS,
    defaults={"use_post_norm": True},
    sizes={"stock-config": size(4096, 32, 32, 11008, 32)},  # its defaults
)
