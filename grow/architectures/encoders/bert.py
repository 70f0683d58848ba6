"""BERT: an encoder with LayerNorm behind each branch; hidden grows by whole multiples."""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Attention, Chain, Norm, Tie
from grow.architectures.family import Family

AXES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
}


def chain(base: str) -> Chain:
    layer = f"{base}encoder.layer.{{layers}}."
    return Chain(
        first=f"{layer}attention.output.LayerNorm",
        reads=f"{layer}intermediate.dense",
        writes=f"{layer}output.dense",
        last=f"{layer}output.LayerNorm",
    )


# `{base}` is the base model's prefix; roberta has the same encoder.
TOKENS = """
{base}embeddings.word_embeddings.weight                             vocab -> hidden
{base}embeddings.position_embeddings.weight                         positions -> hidden
"""
TYPES = """
{base}embeddings.token_type_embeddings.weight                       types -> hidden
"""
EMBEDDING_NORM = """
{base}embeddings.LayerNorm.weight                                   hidden *
{base}embeddings.LayerNorm.bias                                     hidden +
"""
EMBEDDINGS = TOKENS + TYPES + EMBEDDING_NORM
ATTENTION = """
{base}encoder.layer.{layers}.attention.self.query.weight            (heads head_dim.q) <- hidden
{base}encoder.layer.{layers}.attention.self.key.weight              (heads head_dim.k) <- hidden
{base}encoder.layer.{layers}.attention.self.value.weight            (heads head_dim.v) <- hidden
{base}encoder.layer.{layers}.attention.output.dense.weight          hidden <- (heads head_dim.v)
{base}encoder.layer.{layers}.attention.output.dense.bias            hidden <-
"""
QKV_BIAS = """
{base}encoder.layer.{layers}.attention.self.query.bias              (heads head_dim.q) <-  ? {biased}
{base}encoder.layer.{layers}.attention.self.key.bias                (heads head_dim.k) <-  ? {biased}
{base}encoder.layer.{layers}.attention.self.value.bias              (heads head_dim.v) <-  ? {biased}
"""
FFN = """
{base}encoder.layer.{layers}.intermediate.dense.weight              ffn <- hidden
{base}encoder.layer.{layers}.intermediate.dense.bias                ffn <-
{base}encoder.layer.{layers}.output.dense.weight                    hidden <- ffn
{base}encoder.layer.{layers}.output.dense.bias                      hidden <-
"""
NORMS = """
{base}encoder.layer.{layers}.attention.output.LayerNorm.weight      hidden *
{base}encoder.layer.{layers}.attention.output.LayerNorm.bias        hidden +
{base}encoder.layer.{layers}.output.LayerNorm.weight                hidden *
{base}encoder.layer.{layers}.output.LayerNorm.bias                  hidden +
"""
BRANCHES = ATTENTION + QKV_BIAS.replace("{biased}", "always") + FFN
LAYERS = BRANCHES + NORMS
POOLER = """
{base}pooler.dense.weight                                           hidden <- hidden  ? optional
{base}pooler.dense.bias                                             hidden <-         ? optional
"""
ANSWERS = """
qa_outputs.weight                                                   labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                                     labels <-         ? ForQuestionAnswering
"""
ENCODER = EMBEDDINGS + LAYERS + POOLER + ANSWERS

ENCODER_FACTS: dict[str, Any] = dict(
    axes=AXES,
    norm=Norm("layernorm", writes_stream="always"),
    attention=Attention(),
    eps="layer_norm_eps",
    derived_head_dim=True,
    divides=True,
    # embedding_size only keeps stock code from asking for hidden % heads == 0, which holds here in any case
    harmless=frozenset(
        """
        layer_norm_eps embedding_size directionality
        pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
        """.split()
    ),
    fixed={
        "hidden_act": ELEMENTWISE,
        "position_embedding_type": ("absolute",),
        "add_cross_attention": (False,),
    },
    # the first releases called a LayerNorm's weight gamma and its bias beta
    spelling=((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
    stale=("embeddings.position_ids", "embeddings.token_type_ids"),
)

UNPOOLED = "ForTokenClassification|ForQuestionAnswering"
CLASSIFIED = "ForSequenceClassification|ForTokenClassification|ForMultipleChoice"

# `{masked}` are the classes with a head over the vocabulary.
PREDICTED = """
cls.predictions.transform.dense.weight        hidden <- hidden  ? {masked}
cls.predictions.transform.dense.bias          hidden <-         ? {masked}
cls.predictions.transform.LayerNorm.weight    hidden *          ? {masked}
cls.predictions.transform.LayerNorm.bias      hidden +          ? {masked}
cls.predictions.bias                          vocab <-          ? {masked}
cls.predictions.decoder.weight                vocab <- hidden   ? {masked} not tie_word_embeddings
cls.predictions.decoder.bias                  vocab <-          ? {masked} tie_word_embeddings optional
cls.predictions.decoder.bias                  vocab <-          ? {masked} not tie_word_embeddings
cls.seq_relationship.weight                   labels <- hidden  ? optional
cls.seq_relationship.bias                     labels <-         ? optional
"""
CLASSES = f"""
classifier.weight                             labels <- hidden  ? {CLASSIFIED}
classifier.bias                               labels <-         ? {CLASSIFIED}
"""
# of families that classify a whole text by two layers, and tokens by one
DEEP_CLASSES = """
classifier.dense.weight                       hidden <- hidden  ? ForSequenceClassification
classifier.dense.bias                         hidden <-         ? ForSequenceClassification
classifier.out_proj.weight                    labels <- hidden  ? ForSequenceClassification
classifier.out_proj.bias                      labels <-         ? ForSequenceClassification
classifier.weight                             labels <- hidden  ? ForTokenClassification|ForMultipleChoice
classifier.bias                               labels <-         ? ForTokenClassification|ForMultipleChoice
"""
DEFAULTS = {
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def relative(
    model_type: str, *, masked: str, prefix: str = "", encoder: str = ENCODER, classes: str = CLASSES, **facts: Any
) -> Family:
    """A family of BERT's kind.

    masked  its classes with a head over the vocabulary
    facts   override what differs
    """
    prefix = prefix or f"{model_type}."
    return Family(
        model_type=model_type,
        prefix=prefix,
        table=encoder.replace("{base}", prefix) + PREDICTED.replace("{masked}", masked) + classes,
        tie=Tie(
            f"{prefix}embeddings.word_embeddings.weight",
            "cls.predictions.decoder.weight",
            ("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"),
            when=f"tie_word_embeddings {masked}",
            biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ),
        **{"chain": chain(prefix), "defaults": DEFAULTS, **ENCODER_FACTS, **facts},
    )


def size(hidden: int, heads: int, ffn: int, layers: int) -> dict[str, int]:
    """A size of BERT's kind as config fields."""
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
    }


BERT = relative(
    "bert",
    masked="ForMaskedLM|ForPreTraining|LMHeadModel",
    summary="BERT, sentence-transformers encoders",
    sizes={
        name: size(n, h, 4 * n, layers)
        for name, n, h, layers in (
            ("small", 128, 4, 4),
            ("base", 256, 8, 4),
            ("large", 512, 16, 4),
            ("bert-tiny", 128, 2, 2),
            ("bert-mini", 256, 4, 4),
            ("bert-small", 512, 8, 4),
            ("bert-medium", 512, 8, 8),
            ("bert-base", 768, 12, 12),
            ("bert-large", 1024, 16, 24),
            ("MiniLM-L6", 384, 12, 6),
        )
    },
)
