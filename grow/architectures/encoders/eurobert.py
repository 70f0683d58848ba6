"""EuroBERT: Llama's layers read in both directions, with a masked head."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    ATTENTION_NORM,
    EMBEDDING,
    FFN,
    FINAL_NORM,
    INPUT_NORM,
    MLP_BIAS,
    O_BIAS,
    QKV_BIAS,
    rms_decoder,
    size,
)
from grow.architectures.facts import Norm, Tie

BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + MLP_BIAS
SEQUENCE = "ForSequenceClassification"
HEADS = f"""
lm_head.weight       vocab <- hidden   ? ForMaskedLM not tie_word_embeddings
lm_head.bias         vocab <-          ? ForMaskedLM mlp_bias
dense.weight         hidden <- hidden  ? {SEQUENCE}
dense.bias           hidden <-         ? {SEQUENCE}
classifier.weight    labels <- hidden  ? {SEQUENCE}|ForTokenClassification
classifier.bias      labels <-         ? {SEQUENCE}|ForTokenClassification
"""

EUROBERT = rms_decoder(
    "eurobert",
    class_prefix="EuroBert",
    table=EMBEDDING + INPUT_NORM + ATTENTION + ATTENTION_NORM + FFN + FINAL_NORM + BIASES + HEADS,
    # what the dense layer of this head writes goes through an activation and no norm
    norm=Norm("rms", bare=SEQUENCE),
    tie=Tie(
        "model.embed_tokens.weight", "lm_head.weight", ("model.norm.weight",), when="tie_word_embeddings ForMaskedLM"
    ),
    aliases=(),
    divides=True,
    summary="EuroBERT",
    harmless={"classifier_pooling"},
    fixed={"pretraining_tp": (1, None)},
    defaults={"max_position_embeddings": 8192},
    sizes={
        "EuroBERT-210m": size(768, 12, 12, 3072, 12),
        "EuroBERT-610m": size(1152, 18, 6, 4096, 26),
        "EuroBERT-2.1B": size(2304, 18, 6, 6144, 32),
    },
)
