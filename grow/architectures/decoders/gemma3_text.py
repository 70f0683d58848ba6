"""Gemma 3 (text): Gemma 2 with norms over each head of q and k, and a rotation of its own for sliding layers."""

from grow.architectures.decoders.gemma import DEFAULTS, FACTS, table
from grow.architectures.decoders.gemma2 import CAPPED, NORMS, TURNS
from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.facts import Attention, RopeKind
from grow.architectures.layer_lists import Period

QK_NORM = """
model.layers.{layers}.self_attn.q_norm.weight             head_dim.q 1*
model.layers.{layers}.self_attn.k_norm.weight             head_dim.k 1*
"""

GEMMA3_TEXT = rms_decoder(
    "gemma3_text",
    class_prefix="Gemma3",
    table=table(NORMS + QK_NORM),
    attention=Attention(rope="half", scaled="never"),
    divides=True,
    summary="Gemma 3 (text)",
    layer_lists=(Period("layer_types", TURNS, every=6, said="sliding_window_pattern"),),
    rope_kinds={
        "full_attention": RopeKind(1e6),
        "sliding_attention": RopeKind(1e4, "rope_local_base_freq", scaled=False),
    },
    reads=frozenset({"rope_local_base_freq"}),
    harmless=CAPPED | {"_sliding_window_pattern"},
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
    nulls={},
    **FACTS,
    sizes={
        "gemma-3-270m": size(640, 4, 1, 2048, 18, head_dim=256),
        "gemma-3-1b": size(1152, 4, 1, 6912, 26, head_dim=256),
        "gemma-3-4b": size(2560, 8, 4, 10240, 34, head_dim=256),
        "gemma-3-12b": size(3840, 16, 8, 15360, 48, head_dim=256),
        "gemma-3-27b": size(5376, 32, 16, 21504, 62, head_dim=128),
    },
)
