"""RoBERTa-PreLayerNorm: RoBERTa with the norms in front of the branches, on embeddings that a norm wrote."""

from grow.architectures.encoders.bert import ANSWERS, BRANCHES, EMBEDDINGS, POOLER, size
from grow.architectures.encoders.roberta import relative
from grow.architectures.facts import Norm

NORMS = """
{base}encoder.layer.{layers}.attention.LayerNorm.weight             hidden *
{base}encoder.layer.{layers}.attention.LayerNorm.bias               hidden +
{base}encoder.layer.{layers}.intermediate.LayerNorm.weight          hidden *
{base}encoder.layer.{layers}.intermediate.LayerNorm.bias            hidden +
{base}LayerNorm.weight                                              hidden *
{base}LayerNorm.bias                                                hidden +
"""

ROBERTA_PRELAYERNORM = relative(
    "roberta-prelayernorm",
    class_prefix="RobertaPreLayerNorm",
    prefix="roberta_prelayernorm.",
    encoder=EMBEDDINGS + BRANCHES + NORMS + POOLER + ANSWERS,
    norm=Norm("layernorm", bare="always"),
    chain=None,
    summary="RoBERTa-PreLayerNorm",
    sizes={"efficient_mlm": size(1024, 16, 4096, 24)},
)
