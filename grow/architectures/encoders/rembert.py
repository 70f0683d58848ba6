"""RemBERT: BERT's encoder between narrow embeddings and a wide head of their own sizes, which stay."""

from grow.architectures.encoders.bert import (
    ANSWERS,
    AXES,
    CLASSES,
    DEFAULTS,
    ENCODER_FACTS,
    LAYERS,
    POOLER,
    chain,
    size,
)
from grow.architectures.family import Family

MASKED = "ForMaskedLM|ForCausalLM"
EMBEDDED = """
rembert.embeddings.word_embeddings.weight            vocab -> embed
rembert.embeddings.position_embeddings.weight        positions -> embed
rembert.embeddings.token_type_embeddings.weight      types -> embed
rembert.embeddings.LayerNorm.weight                  embed *
rembert.embeddings.LayerNorm.bias                    embed +
rembert.encoder.embedding_hidden_mapping_in.weight   hidden <- embed
rembert.encoder.embedding_hidden_mapping_in.bias     hidden <-
"""
PREDICTED = f"""
cls.predictions.dense.weight                         head_width <- hidden  ? {MASKED}
cls.predictions.dense.bias                           head_width <-         ? {MASKED}
cls.predictions.LayerNorm.weight                     head_width *          ? {MASKED}
cls.predictions.LayerNorm.bias                       head_width +          ? {MASKED}
cls.predictions.decoder.weight                       vocab <- head_width   ? {MASKED}
cls.predictions.decoder.bias                         vocab <-              ? {MASKED}
"""

REMBERT = Family(
    model_type="rembert",
    class_prefix="RemBert",
    prefix="rembert.",
    chain=chain("rembert."),
    table=EMBEDDED + (LAYERS + POOLER).replace("{base}", "rembert.") + PREDICTED + CLASSES + ANSWERS,
    tie=None,
    defaults={
        **DEFAULTS,
        "tie_word_embeddings": False,
        "input_embedding_size": 256,
        "output_embedding_size": 1664,
    },
    summary="RemBERT",
    sizes={"rembert": size(1152, 18, 4608, 32)},
    **{
        **ENCODER_FACTS,
        "axes": {**AXES, "embed": "input_embedding_size", "head_width": "output_embedding_size"},
        # no class of this family ties the two tables, whatever the config says
        "harmless": ENCODER_FACTS["harmless"] | {"tie_word_embeddings"},
    },
)
