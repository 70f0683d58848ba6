"""gpt-oss: experts with biases and interleaved gate and up, a sink for each head, and layers that take turns."""

from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, block, rms_decoder, size
from grow.architectures.experts.qwen2_moe import MLP, ROUTER_FIELDS
from grow.architectures.facts import Experts
from grow.architectures.layer_lists import Period

SINKS = """
model.layers.{layers}.self_attn.sinks                     heads <-
"""
STACKS = """
model.layers.{layers}.mlp.router.weight                   experts <- hidden
model.layers.{layers}.mlp.router.bias                     experts <-
model.layers.{layers}.mlp.experts.gate_up_proj            [experts] hidden -> (ffn 2)
model.layers.{layers}.mlp.experts.gate_up_proj_bias       experts -> (ffn 2)
model.layers.{layers}.mlp.experts.down_proj               [experts] ffn -> hidden
model.layers.{layers}.mlp.experts.down_proj_bias          experts -> hidden
"""

GPT_OSS = rms_decoder(
    "gpt_oss",
    class_prefix="GptOss",
    table=block(SINKS + STACKS) + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    aliases=("transformer.",),
    summary="gpt-oss 20b, 120b",
    axes={"experts": "num_local_experts"},
    synonyms={"num_local_experts": "num_experts"},
    experts=Experts(width="ffn", top_k="num_experts_per_tok", router=MLP + "router.weight", parts={}),
    layer_lists=(Period("layer_types", ("sliding_attention", "full_attention"), every=2),),
    # a limit holds for each number between two matrices, so none of them may be scaled, and none is
    harmless={"sliding_window", "swiglu_alpha", "swiglu_limit", *ROUTER_FIELDS},
    needs=("rope_parameters|rope_scaling",),
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "attention_bias": True,
    },
    default_theta=1.5e5,
    sizes={
        "gpt-oss-20b": {**size(2880, 64, 8, 2880, 24, head_dim=64), "num_local_experts": 32},
        "gpt-oss-120b": {**size(2880, 64, 8, 2880, 36, head_dim=64), "num_local_experts": 128},
    },
)
