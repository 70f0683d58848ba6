"""RoBERTa: BERT's encoder with positions that start after the padding id, and its own heads."""

from typing import Any

from grow.architectures.encoders.bert import DEEP_CLASSES, ENCODER, ENCODER_FACTS, chain, size
from grow.architectures.facts import Tie
from grow.architectures.family import Family

MASKED = "ForMaskedLM|ForCausalLM"

HEADS = f"""
lm_head.dense.weight             hidden <- hidden  ? {MASKED}
lm_head.dense.bias               hidden <-         ? {MASKED}
lm_head.layer_norm.weight        hidden *          ? {MASKED}
lm_head.layer_norm.bias          hidden +          ? {MASKED}
lm_head.bias                     vocab <-          ? {MASKED}
lm_head.decoder.weight           vocab <- hidden   ? {MASKED} not tie_word_embeddings
lm_head.decoder.bias             vocab <-          ? {MASKED} tie_word_embeddings optional
lm_head.decoder.bias             vocab <-          ? {MASKED} not tie_word_embeddings
"""
DEFAULTS = {
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def relative(model_type: str, *, prefix: str = "roberta.", encoder: str = ENCODER, **facts: Any) -> Family:
    """A family of RoBERTa's kind; `facts` say what it is called and which sizes there are, and what else differs."""
    return Family(
        model_type=model_type,
        prefix=prefix,
        positions_from="pad_token_id",
        table=encoder.replace("{base}", prefix) + HEADS + DEEP_CLASSES,
        tie=Tie(
            f"{prefix}embeddings.word_embeddings.weight",
            "lm_head.decoder.weight",
            ("lm_head.layer_norm.weight", "lm_head.layer_norm.bias"),
            when=f"tie_word_embeddings {MASKED}",
            biases=("lm_head.bias", "lm_head.decoder.bias"),
        ),
        **{"chain": chain(prefix), "defaults": DEFAULTS, **ENCODER_FACTS, **facts},
    )


ROBERTA = relative(
    "roberta",
    summary="RoBERTa, CamemBERT-like encoders saved as roberta",
    sizes={
        "roberta-base": size(768, 12, 3072, 12),
        "roberta-large": size(1024, 16, 4096, 24),
    },
)
