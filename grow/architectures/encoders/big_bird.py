"""BigBird: BERT whose queries see some blocks of a long text; only while a model trains are some of them random."""

from grow.architectures.encoders.bert import (
    ATTENTION,
    DEEP_CLASSES,
    DEFAULTS,
    EMBEDDINGS,
    ENCODER_FACTS,
    FFN,
    NORMS,
    QKV_BIAS,
    relative,
    size,
)

POOLER = """
{base}pooler.weight                             hidden <- hidden  ? optional
{base}pooler.bias                               hidden <-         ? optional
"""
ANSWERS = """
qa_classifier.intermediate.dense.weight         ffn <- hidden     ? ForQuestionAnswering
qa_classifier.intermediate.dense.bias           ffn <-            ? ForQuestionAnswering
qa_classifier.output.dense.weight               hidden <- ffn     ? ForQuestionAnswering
qa_classifier.output.dense.bias                 hidden <-         ? ForQuestionAnswering
qa_classifier.output.LayerNorm.weight           hidden *          ? ForQuestionAnswering
qa_classifier.output.LayerNorm.bias             hidden +          ? ForQuestionAnswering
qa_classifier.qa_outputs.weight                 labels <- hidden  ? ForQuestionAnswering
qa_classifier.qa_outputs.bias                   labels <-         ? ForQuestionAnswering
"""
ENCODER = EMBEDDINGS + ATTENTION + QKV_BIAS.replace("{biased}", "use_bias") + FFN + NORMS + POOLER + ANSWERS

BIG_BIRD = relative(
    "big_bird",
    class_prefix="BigBird",
    prefix="bert.",
    masked="ForMaskedLM|ForPreTraining|ForCausalLM",
    encoder=ENCODER,
    classes=DEEP_CLASSES,
    defaults={**DEFAULTS, "max_position_embeddings": 4096, "use_bias": True, "rescale_embeddings": False},
    fixed={**ENCODER_FACTS["fixed"], "rescale_embeddings": (False,)},
    harmless=ENCODER_FACTS["harmless"] | {"attention_type", "block_size", "num_random_blocks"},
    summary="BigBird",
    sizes={
        "bigbird-roberta-base": size(768, 12, 3072, 12),
        "bigbird-roberta-large": size(1024, 16, 4096, 24),
    },
)
