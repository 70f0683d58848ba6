"""OLMo 2: norms behind each branch, and an RMSNorm over all heads of q and of k.

The projections read the residual stream itself, so hidden grows by whole copies.
"""

from grow.architectures.family import Attention, Norm
from grow.architectures.llama import (
    ATTENTION,
    ATTENTION_NORM,
    EMBEDDING,
    FFN,
    HEADS,
    O_BIAS,
    QKV_BIAS,
    rms_decoder,
    size,
)

QK_NORMS = """
model.layers.{layers}.self_attn.q_norm.weight               (kv_heads q_per_kv head_dim.q) *
model.layers.{layers}.self_attn.k_norm.weight               (kv_heads head_dim.k) *
"""
FFN_NORM = """
model.layers.{layers}.post_feedforward_layernorm.weight     hidden *
"""
BRANCH_NORMS = (
    "model.layers.{layers}.post_attention_layernorm.weight",
    "model.layers.{layers}.post_feedforward_layernorm.weight",
)


def behind(ffn: str) -> str:
    """The table of a decoder whose norms are behind the branches."""
    biases = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS
    return EMBEDDING + ATTENTION + biases + QK_NORMS + ATTENTION_NORM + ffn + FFN_NORM + HEADS


FACTS = {
    "norm": Norm("rms", bare="always"),
    "attention": Attention(rope="half", qk_norm=True, whole_norm=True),
    "branch_norms": BRANCH_NORMS,
    "aliases": (),
}

OLMO2 = rms_decoder(
    "olmo2",
    table=behind(FFN),
    summary="OLMo 2",
    **FACTS,
    sizes={
        "OLMo-2-1B": size(2048, 16, 16, 8192, 16),
        "OLMo-2-7B": size(4096, 32, 32, 11008, 32),
        "OLMo-2-13B": size(5120, 40, 40, 13824, 40),
    },
)
