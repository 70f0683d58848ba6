"""DeBERTa v2 and v3: BERT's encoder, whose queries and keys also meet those of a table of distances.

The convolution of the largest models is not described.
"""

from typing import Any

from grow.architectures.encoders.bert import (
    ANSWERS,
    ATTENTION,
    AXES,
    EMBEDDING_NORM,
    ENCODER_FACTS,
    FFN,
    NORMS,
    QKV_BIAS,
    relative,
    size,
)
from grow.architectures.facts import Attention, Refusal

POOLED = "ForSequenceClassification|ForMultipleChoice"
EMBEDDINGS = """
{base}embeddings.word_embeddings.weight                             vocab -> hidden
{base}embeddings.position_embeddings.weight                         positions -> hidden  ? position_biased_input
"""
NORMED = "relative_attention norm_rel_ebd=='layer_norm'"
OF_POSITIONS = "relative_attention not share_att_key"
DISTANCES = """
{base}encoder.rel_embeddings.weight                                 (2 buckets) -> hidden  ? relative_attention
{base}encoder.LayerNorm.weight                                      hidden *               ? {normed}
{base}encoder.LayerNorm.bias                                        hidden +               ? {normed}
"""
APART = """
{base}encoder.layer.{layers}.attention.self.pos_query_proj.weight   (heads head_dim.q) <- hidden  ? {apart}
{base}encoder.layer.{layers}.attention.self.pos_query_proj.bias     (heads head_dim.q) <-         ? {apart}
{base}encoder.layer.{layers}.attention.self.pos_key_proj.weight     (heads head_dim.k) <- hidden  ? {apart}
{base}encoder.layer.{layers}.attention.self.pos_key_proj.bias       (heads head_dim.k) <-         ? {apart}
"""
POOLER = f"""
pooler.dense.weight                                                 {{pooler}} <- {{pooler}}  ? {POOLED} {{when}}
pooler.dense.bias                                                   {{pooler}} <-           ? {POOLED} {{when}}
"""
# it reads the stream, so that it is as wide wherever stock code runs
POOLERS = POOLER.replace("{pooler}", "hidden").replace("{when}", "pooler_hidden_size==hidden_size")
POOLERS += POOLER.replace("{pooler}", "pooler").replace("{when}", "pooler_hidden_size!=hidden_size")
PROJECTED = (ATTENTION + QKV_BIAS.replace("{biased}", "always")).replace("query.", "query_proj.")
PROJECTED = PROJECTED.replace("key.", "key_proj.").replace("value.", "value_proj.")
BOTH: tuple[Any, ...] = ("p2c|c2p", "c2p|p2c", ["p2c", "c2p"], ["c2p", "p2c"])

DEBERTA_V2 = relative(
    "deberta-v2",
    class_prefix="DebertaV2",
    prefix="deberta.",
    masked="ForMaskedLM",
    encoder=EMBEDDINGS
    + EMBEDDING_NORM
    + DISTANCES.replace("{normed}", NORMED)
    + PROJECTED
    + FFN
    + NORMS
    + APART.replace("{apart}", OF_POSITIONS)
    + POOLERS
    + ANSWERS,
    axes={axis: name for axis, name in AXES.items() if axis != "types"}
    | {"buckets": "position_buckets", "pooler": "pooler_hidden_size"},
    attention=Attention(positional=True),
    follows={"pooler": "hidden"},
    refusals=(
        Refusal(
            "positions",
            "distances fall into buckets by the largest one, which is max_position_embeddings here",
            when="relative_attention max_relative_positions==-1",
        ),
    ),
    defaults={
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-7,
        "position_biased_input": True,
        "norm_rel_ebd": "none",
        "share_att_key": False,
        "relative_attention": False,
        # without buckets each distance has a row, and distances reach as far as positions
        "position_buckets": "=max_position_embeddings",
        "max_relative_positions": -1,
        "pooler_hidden_size": "=hidden_size",
    },
    fixed={
        "hidden_act": ENCODER_FACTS["fixed"]["hidden_act"],
        "pooler_hidden_act": ENCODER_FACTS["fixed"]["hidden_act"],
        "pos_att_type": BOTH,
        "norm_rel_ebd": ("none", "layer_norm"),
        "type_vocab_size": (0,),
        "conv_kernel_size": (0,),
        "legacy": (True,),
        "embedding_size": (None,),
        "attention_head_size": (None,),
        "add_cross_attention": (False,),
    },
    harmless=ENCODER_FACTS["harmless"] - {"embedding_size"} | {"conv_act", "conv_groups"},
    summary="DeBERTa v2 and v3",
    sizes={
        "deberta-v3-xsmall": size(384, 6, 1536, 12),
        "deberta-v3-small": size(768, 12, 3072, 6),
        "deberta-v3-base": size(768, 12, 3072, 12),
        "deberta-v3-large": size(1024, 16, 4096, 24),
    },
)
