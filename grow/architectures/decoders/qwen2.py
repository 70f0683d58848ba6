"""Qwen2 and Qwen2.5: Llama with biases on q, k and v."""

from grow.architectures.decoders.llama import BLOCK, QKV_BIAS, rms_decoder, size
from grow.architectures.layer_lists import Window

QWEN2 = rms_decoder(
    "qwen2",
    table=BLOCK + QKV_BIAS.replace("{when}", "always"),
    summary="Qwen1.5, Qwen2, Qwen2.5",
    layer_lists=(Window(),),
    harmless={"sliding_window", "use_sliding_window"},
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "max_window_layers": 28},
    fixed={"use_mrope": (False,)},
    sizes={
        "qwen2-0.5b": size(896, 14, 2, 4864, 24),
        "qwen2-1.5b": size(1536, 12, 2, 8960, 28),
        "qwen2.5-3b": size(2048, 16, 2, 11008, 36),
        "qwen2-7b": size(3584, 28, 4, 18944, 28),
        "qwen2.5-14b": size(5120, 40, 8, 13824, 48),
    },
)
