"""Cohere (Command R): one LayerNorm without bias in front of both branches, and rotations of neighbours."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    EMBEDDING,
    FFN,
    FINAL_NORM,
    INPUT_NORM,
    O_BIAS,
    QKV_BIAS,
    rms_decoder,
    size,
)
from grow.architectures.facts import Attention, Norm, Refusal

HEAD = """
lm_head.weight                                            vocab <- hidden   ? ForCausalLM not tie_word_embeddings
"""
QK_NORM = """
model.layers.{layers}.self_attn.q_norm.weight             (kv_heads q_per_kv), head_dim.q *   ? use_qk_norm
model.layers.{layers}.self_attn.k_norm.weight             kv_heads, head_dim.k *              ? use_qk_norm
"""
QK_LAYERNORM = "LayerNorms over each head of q and k see its mean, too: only whole copies keep it"
BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS
TABLE = EMBEDDING + INPUT_NORM + ATTENTION + BIASES + FFN + FINAL_NORM + HEAD
FACTS = {
    "norm": Norm("layernorm"),
    "attention": Attention(rope="pairs"),
    "eps": "layer_norm_eps",
    "aliases": (),
}
DEFAULTS = {"tie_word_embeddings": True, "max_position_embeddings": 8192}

COHERE = rms_decoder(
    "cohere",
    table=TABLE + QK_NORM,
    **FACTS,
    summary="Command R, Aya 23",
    defaults={**DEFAULTS, "use_qk_norm": False},
    default_theta=5e5,
    harmless={"logit_scale"},
    refusals=(Refusal("head_dim", QK_LAYERNORM, when="use_qk_norm", multiples=True),),
    sizes={
        "command-r-35b": size(8192, 64, 64, 22528, 40),
        "aya-23-8b": size(4096, 32, 8, 14336, 32),
    },
)
