"""OLMo 2: norms behind each branch, and an RMSNorm over all heads of q and of k.

The branches read the residual stream itself.
"""

from grow.architectures.decoders.llama import EMBEDDING, HEADS, O_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

ATTENTION = """
model.layers.{layers}.self_attn.q_proj.weight               (kv_heads q_per_kv head_dim.q) <- hidden.raw
model.layers.{layers}.self_attn.k_proj.weight               (kv_heads head_dim.k) <- hidden.raw
model.layers.{layers}.self_attn.v_proj.weight               (kv_heads head_dim.v) <- hidden.raw
model.layers.{layers}.self_attn.o_proj.weight               hidden <- (kv_heads q_per_kv head_dim.v)
"""
QK_NORMS = """
model.layers.{layers}.self_attn.q_norm.weight               (kv_heads q_per_kv head_dim.q) *
model.layers.{layers}.self_attn.k_norm.weight               (kv_heads head_dim.k) *
"""
FFN = """
model.layers.{layers}.mlp.gate_proj.weight                  ffn <- hidden.raw
model.layers.{layers}.mlp.up_proj.weight                    ffn <- hidden.raw
model.layers.{layers}.mlp.down_proj.weight                  hidden <- ffn
"""
NORMS = """
model.layers.{layers}.post_attention_layernorm.weight       hidden *>
model.layers.{layers}.post_feedforward_layernorm.weight     hidden *>
"""
BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS


def behind(ffn: str) -> str:
    """The table of a decoder whose norms are behind the branches."""
    return EMBEDDING + ATTENTION + QK_NORMS + BIASES + NORMS + ffn + HEADS


FACTS = {
    "attention": Attention(rope="half", whole_norm=True),
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
