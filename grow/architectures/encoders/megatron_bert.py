"""Megatron-BERT: BERT with the norms in front of the branches, and none on the embeddings."""

from grow.architectures.encoders.bert import ANSWERS, BRANCHES, POOLER, TOKENS, TYPES, UNPOOLED, relative, size
from grow.architectures.facts import Norm

NORMS = """
{base}encoder.layer.{layers}.attention.ln.weight                    hidden *
{base}encoder.layer.{layers}.attention.ln.bias                      hidden +
{base}encoder.layer.{layers}.ln.weight                              hidden *
{base}encoder.layer.{layers}.ln.bias                                hidden +
{base}encoder.ln.weight                                             hidden *
{base}encoder.ln.bias                                               hidden +
"""

MEGATRON_BERT = relative(
    "megatron-bert",
    class_prefix="MegatronBert",
    prefix="bert.",
    masked="ForMaskedLM|ForPreTraining|ForCausalLM",
    encoder=TOKENS + TYPES + BRANCHES + NORMS + POOLER + ANSWERS,
    # what the dense layer of the other heads writes goes through an activation
    norm=Norm("layernorm", bare=f"not {UNPOOLED}"),
    chain=None,
    summary="Megatron-BERT",
    sizes={"megatron-bert-345m": size(1024, 16, 4096, 24)},
)
