"""OLMoE: Llama with experts, and an RMSNorm over all heads of q and of k, so heads grow by whole copies with hidden."""

from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, block, derived_size, rms_decoder
from grow.architectures.decoders.olmo2 import QK_NORMS
from grow.architectures.experts.qwen2_moe import ROUTED, ROUTER_FIELDS, routed
from grow.architectures.facts import Attention

EXPERTS = ROUTED.replace("expert_ffn", "ffn").replace("? sparse", "")

OLMOE = rms_decoder(
    "olmoe",
    table=block(EXPERTS) + QK_NORMS + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    attention=Attention(rope="half", whole_norm=True),
    aliases=(),
    derived_head_dim=True,
    divides=True,
    summary="OLMoE",
    axes={"experts": "num_experts"},
    synonyms={"num_experts": "num_local_experts"},
    experts=routed("ffn"),
    fixed={"clip_qkv": (None,)},
    harmless=ROUTER_FIELDS,
    defaults={
        "max_position_embeddings": 4096,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    sizes={"OLMoE-1B-7B": {**derived_size(2048, 16, 16, 1024, 16), "num_experts": 64}},
)
