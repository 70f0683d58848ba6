"""Cohere 2 (Command R7B): Cohere with sliding windows, and no rotation in the layers that see everything."""

from grow.architectures.decoders.cohere import DEFAULTS, FACTS, TABLE
from grow.architectures.decoders.gemma2 import TURNS
from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.layer_lists import Period

COHERE2 = rms_decoder(
    "cohere2",
    table=TABLE,
    **FACTS,
    summary="Command R7B, Command A",
    layer_lists=(Period("layer_types", TURNS, every=4, said="sliding_window_pattern"),),
    defaults=DEFAULTS,
    harmless={"logit_scale", "sliding_window"},
    sizes={
        "command-r7b": size(4096, 32, 8, 14336, 32),
        "command-a": size(12288, 96, 8, 36864, 64),
    },
)
