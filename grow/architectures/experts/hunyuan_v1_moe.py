"""Hunyuan-A13B: Hunyuan with experts, and one of their width that every token gets."""

from dataclasses import replace

from grow.architectures.decoders.hunyuan_v1_dense import QK_NORM
from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, block, rms_decoder, size
from grow.architectures.experts.qwen2_moe import MLP, ROUTER_FIELDS, routed
from grow.architectures.facts import Attention

FFN = """
model.layers.{layers}.mlp.gate.wg.weight                     experts <- hidden
model.layers.{layers}.mlp.experts.{experts}.gate_proj.weight ffn <- hidden
model.layers.{layers}.mlp.experts.{experts}.up_proj.weight   ffn <- hidden
model.layers.{layers}.mlp.experts.{experts}.down_proj.weight hidden <- ffn
model.layers.{layers}.mlp.shared_mlp.gate_proj.weight        ffn <- hidden
model.layers.{layers}.mlp.shared_mlp.up_proj.weight          ffn <- hidden
model.layers.{layers}.mlp.shared_mlp.down_proj.weight        hidden <- ffn
"""
SHARES = {MLP + f"shared_mlp.{name}.weight": MLP + f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}

HUNYUAN_V1_MOE = rms_decoder(
    "hunyuan_v1_moe",
    class_prefix="HunYuanMoEV1",
    table=block(FFN) + QK_NORM + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS,
    attention=Attention(rope="half", turned_norm=True),
    aliases=(),
    summary="Hunyuan-A13B",
    axes={"experts": "num_experts"},
    synonyms={"num_experts": "num_local_experts", "moe_topk": "num_experts_per_tok"},
    experts=replace(
        routed("ffn", shared=SHARES, shared_width="ffn"),
        router=MLP + "gate.wg.weight",
        top_k="moe_topk",
        normed="always",
        switch="",
    ),
    rope_reads=frozenset({"alpha"}),
    harmless={"eod_token_id", *ROUTER_FIELDS},
    fixed={"pretraining_tp": (1, None)},
    defaults={"num_experts": 1, "moe_topk": 1},
    sizes={"Hunyuan-A13B": {**size(4096, 32, 8, 3072, 32, head_dim=128), "num_experts": 64}},
)
