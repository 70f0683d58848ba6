"""EXAONE 4: OLMo 2 with an RMSNorm over each head of q and k; layers with full attention may have no RoPE.

q and k keep their order within a head, so a head grows in the same way with RoPE and without.
"""

from grow.architectures.decoders.llama import EMBEDDING, HEADS, rms_decoder, size
from grow.architectures.decoders.olmo2 import ATTENTION, FFN, NORMS
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import LayerList

EXAONE4 = rms_decoder(
    "exaone4",
    table=EMBEDDING + ATTENTION + QK_NORM + NORMS + FFN + HEADS,
    attention=Attention(rope="half"),
    summary="EXAONE 4.0",
    layer_lists=(LayerList(needed=True),),
    harmless={"sliding_window", "sliding_window_pattern"},
    nulls={},
    defaults={"num_key_value_heads": 32},
    sizes={
        "EXAONE-4.0-1.2B": size(2048, 32, 8, 4096, 30),
        "EXAONE-4.0-32B": size(5120, 40, 8, 27392, 64),
    },
)
