"""FlexOlmo: OLMo 2 with experts instead of the FFN."""

from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.decoders.olmo2 import FACTS, behind
from grow.architectures.experts.qwen2_moe import ROUTER_FIELDS, routed

ROUTED = """
model.layers.{layers}.mlp.gate.weight                                experts <- hidden.raw
model.layers.{layers}.mlp.experts.{experts}.gate_proj.weight         ffn <- hidden.raw
model.layers.{layers}.mlp.experts.{experts}.up_proj.weight           ffn <- hidden.raw
model.layers.{layers}.mlp.experts.{experts}.down_proj.weight         hidden <- ffn
"""

FLEX_OLMO = rms_decoder(
    "flex_olmo",
    class_prefix="FlexOlmo",
    table=behind(ROUTED),
    summary="FlexOlmo",
    **FACTS,
    axes={"experts": "num_experts"},
    synonyms={"num_experts": "num_local_experts"},
    experts=routed("ffn"),
    harmless=ROUTER_FIELDS,
    defaults={
        "max_position_embeddings": 4096,
        "num_experts": 7,
        "num_experts_per_tok": 5,
        "norm_topk_prob": False,
    },
    default_theta=5e5,
    sizes={"FlexOlmo-7x7B": {**size(4096, 32, 32, 11008, 32), "num_experts": 7}},
)
