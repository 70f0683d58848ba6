"""XLM-RoBERTa-XL: RoBERTa with the norms in front of the branches, and none on the embeddings."""

from grow.architectures.encoders.bert import ANSWERS, BRANCHES, POOLER, TOKENS, TYPES, UNPOOLED, size
from grow.architectures.encoders.roberta import DEFAULTS, relative
from grow.architectures.facts import Norm

NORMS = """
{base}encoder.layer.{layers}.attention.self_attn_layer_norm.weight  hidden *
{base}encoder.layer.{layers}.attention.self_attn_layer_norm.bias    hidden +
{base}encoder.layer.{layers}.LayerNorm.weight                       hidden *
{base}encoder.layer.{layers}.LayerNorm.bias                         hidden +
{base}encoder.LayerNorm.weight                                      hidden *
{base}encoder.LayerNorm.bias                                        hidden +
"""

XLM_ROBERTA_XL = relative(
    "xlm-roberta-xl",
    class_prefix="XLMRobertaXL",
    encoder=TOKENS + TYPES + BRANCHES + NORMS + POOLER + ANSWERS,
    # what the dense layer of the other heads writes goes through an activation
    norm=Norm("layernorm", bare=f"not {UNPOOLED}"),
    chain=None,
    defaults={**DEFAULTS, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    summary="XLM-RoBERTa-XL",
    sizes={
        "xlm-roberta-xl": size(2560, 32, 10240, 36),
        "xlm-roberta-xxl": size(4096, 32, 16384, 48),
    },
)
