"""Gemma: Llama with gains that are stored as w for 1 + w, and an embedding that stock code multiplies by √hidden."""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.decoders.llama import ATTENTION, FFN, O_BIAS, OUTPUTS, QKV_BIAS, rms_decoder, size

EMBEDDING = """
model.embed_tokens.weight                                 vocab -> hidden × √hidden
"""
NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden 1*
model.layers.{layers}.post_attention_layernorm.weight     hidden 1*
"""
FINAL_NORM = """
model.norm.weight                                         hidden 1*
"""
BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS


def table(norms: str) -> str:
    """The table of a Gemma whose layers have these norms."""
    return EMBEDDING + norms + ATTENTION + BIASES + FFN + FINAL_NORM + OUTPUTS


FACTS = {
    "aliases": (),
    "fixed": {"hidden_activation": ELEMENTWISE, "use_bidirectional_attention": (False, None)},
}
DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192}

GEMMA = rms_decoder(
    "gemma",
    table=table(NORMS),
    summary="Gemma 1, CodeGemma",
    defaults={**DEFAULTS, "num_key_value_heads": 16},
    nulls={},
    **FACTS,
    sizes={
        "gemma-2b": size(2048, 8, 1, 16384, 18, head_dim=256),
        "gemma-7b": size(3072, 16, 16, 24576, 28, head_dim=256),
    },
)
