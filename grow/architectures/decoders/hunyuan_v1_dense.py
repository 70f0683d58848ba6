"""Hunyuan (dense): Llama with an RMSNorm over each head of q and k behind the rotation.

A rotation keeps the mean square of a head, and pairs stay pairs, so heads grow as with norms in front of it.
"""

from grow.architectures.decoders.llama import BLOCK, O_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.facts import Attention

QK_NORM = """
model.layers.{layers}.self_attn.query_layernorm.weight    head_dim.q *
model.layers.{layers}.self_attn.key_layernorm.weight      head_dim.k *
"""

HUNYUAN_V1_DENSE = rms_decoder(
    "hunyuan_v1_dense",
    class_prefix="HunYuanDenseV1",
    table=BLOCK + QK_NORM + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    attention=Attention(rope="half", turned_norm=True),
    aliases=(),
    summary="Hunyuan 0.5B to 7B",
    rope_reads=frozenset({"alpha"}),
    harmless={"eod_token_id"},
    fixed={"pretraining_tp": (1, None)},
    sizes={"stock-config": size(4096, 32, 32, 11008, 32)},  # its defaults
)
