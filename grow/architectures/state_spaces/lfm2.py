"""LFM 2: short gated convolutions in most layers, attention in the others; an RMSNorm over each head of q and k."""

from dataclasses import replace

from grow.architectures.decoders.llama import EMBEDDING, OUTPUTS, TIE, rms_decoder, size
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Numbered

ATTENTION = """
model.layers.{layers}.self_attn.q_proj.weight       (kv_heads q_per_kv head_dim.q) <- hidden
model.layers.{layers}.self_attn.k_proj.weight       (kv_heads head_dim.k) <- hidden
model.layers.{layers}.self_attn.v_proj.weight       (kv_heads head_dim.v) <- hidden
model.layers.{layers}.self_attn.out_proj.weight     hidden <- (kv_heads q_per_kv head_dim.v)
model.layers.{layers}.self_attn.q_layernorm.weight  head_dim.q *
model.layers.{layers}.self_attn.k_layernorm.weight  head_dim.k *
"""
# Two gates and what they gate, channel by channel; there are as many channels as coordinates of the stream.
CONVOLUTION = """
model.layers.{layers}.conv.conv.weight              inner <- 1, kernel
model.layers.{layers}.conv.conv.bias                inner <-                    ? conv_bias
model.layers.{layers}.conv.in_proj.weight           (inner | inner | inner) <- hidden
model.layers.{layers}.conv.in_proj.bias             (inner | inner | inner) <-  ? conv_bias
model.layers.{layers}.conv.out_proj.weight          hidden <- inner
model.layers.{layers}.conv.out_proj.bias            hidden <-                   ? conv_bias
"""
REST = """
model.layers.{layers}.operator_norm.weight          hidden *
model.layers.{layers}.ffn_norm.weight               hidden *
model.layers.{layers}.feed_forward.w1.weight        ffn <- hidden
model.layers.{layers}.feed_forward.w3.weight        ffn <- hidden
model.layers.{layers}.feed_forward.w2.weight        hidden <- ffn
model.embedding_norm.weight                         hidden *
"""


def rows_of(kind: str, rows: str) -> str:
    """The same rows in layers of one kind alone."""
    lines = (line for line in rows.splitlines() if line)
    return "\n".join(f"{line} {'' if '?' in line else '?'} layer_types=='{kind}'" for line in lines) + "\n"


LFM2 = rms_decoder(
    "lfm2",
    table=EMBEDDING + rows_of("full_attention", ATTENTION) + rows_of("conv", CONVOLUTION) + REST + OUTPUTS,
    attention=Attention(rope="half"),
    tie=replace(TIE, norms=("model.embedding_norm.weight",)),
    eps="norm_eps",
    layer_lists=(Numbered(entries=("full_attention", "conv"), numbers="full_attn_idxs"),),
    computed={"inner": "hidden"},
    default_theta=1e6,
    summary="LFM2, with intermediate_size as it is",
    harmless={
        *("conv_L_cache", "block_multiple_of", "block_ffn_dim_multiplier"),
        *("conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads"),  # published beside what is read
    },
    # what says other sizes, or says them under other names that win
    fixed={
        "block_auto_adjust_ff_dim": (False,),
        "block_ff_dim": (None,),
        "tie_embedding": (None,),
        "hidden_act": (None, "silu"),
    },
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 128_000,
        "tie_word_embeddings": True,
        "conv_bias": False,
        "block_auto_adjust_ff_dim": True,
    },
    nulls={},
    sizes={"LFM2-1.2B": size(2048, 32, 8, 8192, 16)},
)
