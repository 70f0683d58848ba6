"""ELECTRA: BERT's encoder, whose embeddings may be narrower than the stream; a generator's and a discriminator's head.

Where `embedding_size` differs from hidden, `embeddings_project` translates and stays as wide as it is on one side.
"""

from grow.architectures.encoders.bert import ANSWERS, AXES, DEEP_CLASSES, ENCODER_FACTS, LAYERS, chain, size
from grow.architectures.facts import Tie
from grow.architectures.family import Family

GENERATOR = "ForMaskedLM|ForCausalLM"
UNTIED = f"{GENERATOR} not tie_word_embeddings"
PROJECTED = "embedding_size!=hidden_size"
DIRECT = "embedding_size==hidden_size"


def either(table: str) -> str:
    """Rows with `{embed}`, once for embeddings as wide as the stream and once for others."""
    return table.replace("{embed}", "hidden").replace("{when}", DIRECT) + table.replace("{embed}", "embed").replace(
        "{when}", PROJECTED
    )


EMBEDDED = """
electra.embeddings.word_embeddings.weight              vocab -> {embed}      ? {when}
electra.embeddings.position_embeddings.weight          positions -> {embed}  ? {when}
electra.embeddings.token_type_embeddings.weight        types -> {embed}      ? {when}
electra.embeddings.LayerNorm.weight                    {embed} *             ? {when}
electra.embeddings.LayerNorm.bias                      {embed} +             ? {when}
"""
GENERATED = f"""
generator_predictions.dense.weight                     {{embed}} <- hidden     ? {GENERATOR} {{when}}
generator_predictions.dense.bias                       {{embed}} <-            ? {GENERATOR} {{when}}
generator_predictions.LayerNorm.weight                 {{embed}} *             ? {GENERATOR} {{when}}
generator_predictions.LayerNorm.bias                   {{embed}} +             ? {GENERATOR} {{when}}
generator_lm_head.weight                               vocab <- {{embed}}      ? {UNTIED} {{when}}
"""
PROJECTION = f"""
{{base}}embeddings_project.weight                        hidden <- embed       ? {PROJECTED}
{{base}}embeddings_project.bias                          hidden <-             ? {PROJECTED}
"""
HEADS = f"""
generator_lm_head.bias                                 vocab <-              ? {GENERATOR}
discriminator_predictions.dense.weight                 hidden <- hidden      ? ForPreTraining
discriminator_predictions.dense.bias                   hidden <-             ? ForPreTraining
discriminator_predictions.dense_prediction.weight      labels <- hidden      ? ForPreTraining
discriminator_predictions.dense_prediction.bias        labels <-             ? ForPreTraining
sequence_summary.summary.weight                        hidden <- hidden      ? ForMultipleChoice summary_use_proj
sequence_summary.summary.bias                          hidden <-             ? ForMultipleChoice summary_use_proj
"""

ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    chain=chain("electra."),
    table=either(EMBEDDED)
    + (LAYERS.replace("{base}", "electra.") + either(GENERATED))
    + (PROJECTION.replace("{base}", "electra.") + HEADS + DEEP_CLASSES + ANSWERS),
    tie=Tie(
        "electra.embeddings.word_embeddings.weight",
        "generator_lm_head.weight",
        ("generator_predictions.LayerNorm.weight", "generator_predictions.LayerNorm.bias"),
        when=f"tie_word_embeddings {GENERATOR}",
    ),
    follows={"embed": "hidden"},
    defaults={
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "embedding_size": 128,
        "summary_use_proj": True,
    },
    summary="ELECTRA",
    sizes={
        "electra-small": {**size(256, 4, 1024, 12), "embedding_size": 128},
        "electra-base": {**size(768, 12, 3072, 12), "embedding_size": 768},
        "electra-large": {**size(1024, 16, 4096, 24), "embedding_size": 1024},
    },
    **{
        **ENCODER_FACTS,
        "axes": {**AXES, "embed": "embedding_size"},
        "harmless": ENCODER_FACTS["harmless"] | {"summary_type", "summary_activation"},
    },
)
