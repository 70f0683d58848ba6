"""MPNet: RoBERTa without token types, and a bias on the scores from a table of distances that all layers share."""

from grow.architectures.encoders.bert import ANSWERS, AXES, EMBEDDING_NORM, ENCODER_FACTS, POOLER, TOKENS, size
from grow.architectures.encoders.roberta import relative
from grow.architectures.facts import Chain

LAYERS = """
{base}encoder.layer.{layers}.attention.attn.q.weight                (heads head_dim.q) <- hidden
{base}encoder.layer.{layers}.attention.attn.q.bias                  (heads head_dim.q) <-
{base}encoder.layer.{layers}.attention.attn.k.weight                (heads head_dim.k) <- hidden
{base}encoder.layer.{layers}.attention.attn.k.bias                  (heads head_dim.k) <-
{base}encoder.layer.{layers}.attention.attn.v.weight                (heads head_dim.v) <- hidden
{base}encoder.layer.{layers}.attention.attn.v.bias                  (heads head_dim.v) <-
{base}encoder.layer.{layers}.attention.attn.o.weight                hidden <- (heads head_dim.v)
{base}encoder.layer.{layers}.attention.attn.o.bias                  hidden <-
{base}encoder.layer.{layers}.attention.LayerNorm.weight             hidden *
{base}encoder.layer.{layers}.attention.LayerNorm.bias               hidden +
{base}encoder.layer.{layers}.intermediate.dense.weight              ffn <- hidden
{base}encoder.layer.{layers}.intermediate.dense.bias                ffn <-
{base}encoder.layer.{layers}.output.dense.weight                    hidden <- ffn
{base}encoder.layer.{layers}.output.dense.bias                      hidden <-
{base}encoder.layer.{layers}.output.LayerNorm.weight                hidden *
{base}encoder.layer.{layers}.output.LayerNorm.bias                  hidden +
"""
DISTANCES = """
{base}encoder.relative_attention_bias.weight                        buckets -> heads
"""
LAYER = "mpnet.encoder.layer.{layers}."

MPNET = relative(
    "mpnet",
    class_prefix="MPNet",
    prefix="mpnet.",
    encoder=TOKENS + EMBEDDING_NORM + LAYERS + DISTANCES + POOLER + ANSWERS,
    chain=Chain(
        first=f"{LAYER}attention.LayerNorm",
        reads=f"{LAYER}intermediate.dense",
        writes=f"{LAYER}output.dense",
        last=f"{LAYER}output.LayerNorm",
    ),
    axes={axis: name for axis, name in AXES.items() if axis != "types"} | {"buckets": "relative_attention_num_buckets"},
    fixed={"hidden_act": ENCODER_FACTS["fixed"]["hidden_act"]},
    defaults={
        "tie_word_embeddings": True,
        "pad_token_id": 1,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "relative_attention_num_buckets": 32,
    },
    summary="MPNet, all-mpnet-base",
    sizes={"mpnet-base": size(768, 12, 3072, 12)},
)
