"""RoBERTa: BERT's encoder with positions that start after the padding id, and its own heads."""

from grow.architectures.bert import ENCODER, ENCODER_FACTS, chain
from grow.architectures.family import Family, Tie

MASKED = "ForMaskedLM|ForCausalLM"

ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    chain=chain("roberta."),
    positions_from="pad_token_id",
    table=ENCODER.replace("{base}", "roberta.")
    + f"""
lm_head.dense.weight             hidden <- hidden  ? {MASKED}
lm_head.dense.bias               hidden <-         ? {MASKED}
lm_head.layer_norm.weight        hidden *          ? {MASKED}
lm_head.layer_norm.bias          hidden +          ? {MASKED}
lm_head.bias                     vocab <-          ? {MASKED}
lm_head.decoder.weight           vocab <- hidden   ? {MASKED} not tie_word_embeddings
lm_head.decoder.bias             vocab <-          ? {MASKED} tie_word_embeddings optional
lm_head.decoder.bias             vocab <-          ? {MASKED} not tie_word_embeddings
classifier.dense.weight          hidden <- hidden  ? ForSequenceClassification
classifier.dense.bias            hidden <-         ? ForSequenceClassification
classifier.out_proj.weight       labels <- hidden  ? ForSequenceClassification
classifier.out_proj.bias         labels <-         ? ForSequenceClassification
classifier.weight                labels <- hidden  ? ForTokenClassification|ForMultipleChoice
classifier.bias                  labels <-         ? ForTokenClassification|ForMultipleChoice
""",
    tie=Tie(
        "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.weight",
        ("lm_head.layer_norm.weight", "lm_head.layer_norm.bias"),
        when=f"tie_word_embeddings {MASKED}",
        biases=("lm_head.bias", "lm_head.decoder.bias"),
    ),
    defaults={
        "tie_word_embeddings": True,
        "pad_token_id": 1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    },
    summary="RoBERTa, CamemBERT-like encoders saved as roberta",
    sizes={
        "roberta-base": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
        },
        "roberta-large": {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
        },
    },
    **ENCODER_FACTS,
)
