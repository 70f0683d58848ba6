"""MiniMax-M2: Mixtral with a sigmoid router, norms over all heads of q and of k, and part of each head turned."""

from dataclasses import replace

from grow.architectures.decoders.llama import block, rms_decoder, size
from grow.architectures.decoders.olmo2 import QK_NORMS
from grow.architectures.experts.mixtral import EXPERTS, MIXTRAL, MOE
from grow.architectures.experts.qwen2_moe import ROUTER_FIELDS
from grow.architectures.facts import Attention

CHOICE = """
model.layers.{layers}.block_sparse_moe.e_score_correction_bias        experts <-
"""

assert MIXTRAL.experts is not None

MINIMAX_M2 = rms_decoder(
    "minimax_m2",
    class_prefix="MiniMaxM2",
    table=block(EXPERTS + CHOICE) + QK_NORMS,
    aliases=(),
    attention=Attention(rope="partial", whole_norm=True),
    summary="MiniMax-M2",
    axes={"experts": "num_local_experts"},
    synonyms={"num_local_experts": "num_experts"},
    experts=replace(MIXTRAL.experts, bias=MOE + "e_score_correction_bias"),
    harmless={"router_jitter_noise", *ROUTER_FIELDS},
    nulls={},
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 196608,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    },
    default_theta=5e6,
    sizes={"MiniMax-M2": {**size(3072, 48, 8, 1536, 62, head_dim=128), "num_local_experts": 256}},
)
