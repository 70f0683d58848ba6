"""Gemma 2: Gemma with a norm behind each branch too, scores divided by a field, and layers that take turns."""

from grow.architectures.decoders.gemma import DEFAULTS, FACTS, table
from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Period

NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden 1*
model.layers.{layers}.post_attention_layernorm.weight     hidden 1*>
model.layers.{layers}.pre_feedforward_layernorm.weight    hidden 1*
model.layers.{layers}.post_feedforward_layernorm.weight   hidden 1*>
"""
TURNS = ("sliding_attention", "full_attention")
CAPPED = frozenset({"query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping", "sliding_window"})

GEMMA2 = rms_decoder(
    "gemma2",
    table=table(NORMS),
    attention=Attention(rope="half", scaled="never"),
    divides=True,
    summary="Gemma 2",
    layer_lists=(Period("layer_types", TURNS, every=2),),
    harmless=CAPPED,
    defaults={**DEFAULTS, "num_key_value_heads": 4},
    nulls={},
    **FACTS,
    sizes={
        "gemma-2-2b": size(2304, 8, 4, 9216, 26, head_dim=256),
        "gemma-2-9b": size(3584, 16, 8, 14336, 42, head_dim=256),
        "gemma-2-27b": size(4608, 32, 16, 36864, 46, head_dim=128),
    },
)
