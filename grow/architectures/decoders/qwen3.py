"""Qwen3: Llama with an RMSNorm over each head of q and k, and its own head_dim."""

from grow.architectures.decoders.llama import BLOCK, O_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Window

QK_NORM = """
model.layers.{layers}.self_attn.q_norm.weight             head_dim.q *
model.layers.{layers}.self_attn.k_norm.weight             head_dim.k *
"""

QWEN3 = rms_decoder(
    "qwen3",
    table=BLOCK + QK_NORM + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    attention=Attention(rope="half"),
    summary="Qwen3 dense",
    layer_lists=(Window(),),
    harmless={"sliding_window", "use_sliding_window"},
    defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "max_window_layers": 28},
    sizes={
        "qwen3-0.6b": size(1024, 16, 8, 3072, 28, head_dim=128),
        "qwen3-1.7b": size(2048, 16, 8, 6144, 28, head_dim=128),
        "qwen3-4b": size(2560, 32, 8, 9728, 36, head_dim=128),
        "qwen3-8b": size(4096, 32, 8, 12288, 36, head_dim=128),
        "qwen3-14b": size(5120, 40, 8, 17408, 40, head_dim=128),
    },
)
