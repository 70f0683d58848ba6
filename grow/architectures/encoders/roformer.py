"""RoFormer: BERT's encoder whose heads turn by a table in the checkpoint; its embeddings may be narrower."""

from grow.architectures.encoders.bert import ANSWERS, AXES, DEEP_CLASSES, ENCODER_FACTS, LAYERS, chain, size
from grow.architectures.encoders.electra import PROJECTION, either
from grow.architectures.facts import Attention, Tie
from grow.architectures.family import Family

MASKED = "ForMaskedLM|ForCausalLM"
UNTIED = f"{MASKED} not tie_word_embeddings"

EMBEDDED = """
roformer.embeddings.word_embeddings.weight        vocab -> {embed}     ? {when}
roformer.embeddings.token_type_embeddings.weight  types -> {embed}     ? {when}
roformer.embeddings.LayerNorm.weight              {embed} *            ? {when}
roformer.embeddings.LayerNorm.bias                {embed} +            ? {when}
"""
ANGLES = """
{base}encoder.embed_positions.weight               positions -> head_dim.turn
"""
PREDICTED = f"""
cls.predictions.transform.dense.weight            {{embed}} <- hidden  ? {MASKED} {{when}}
cls.predictions.transform.dense.bias              {{embed}} <-         ? {MASKED} {{when}}
cls.predictions.transform.LayerNorm.weight        {{embed}} *          ? {MASKED} {{when}}
cls.predictions.transform.LayerNorm.bias          {{embed}} +          ? {MASKED} {{when}}
cls.predictions.decoder.weight                    vocab <- {{embed}}   ? {UNTIED} {{when}}
"""
HEADS = f"""
cls.predictions.bias                              vocab <-             ? {MASKED}
cls.predictions.decoder.bias                      vocab <-             ? {MASKED} tie_word_embeddings optional
cls.predictions.decoder.bias                      vocab <-             ? {UNTIED}
"""

ROFORMER = Family(
    model_type="roformer",
    class_prefix="RoFormer",
    prefix="roformer.",
    chain=chain("roformer."),
    table=either(EMBEDDED)
    + (PROJECTION + ANGLES + LAYERS).replace("{base}", "roformer.")
    + (either(PREDICTED) + HEADS + DEEP_CLASSES + ANSWERS),
    tie=Tie(
        "roformer.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
        ("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"),
        when=f"tie_word_embeddings {MASKED}",
        biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    follows={"embed": "hidden"},
    defaults={
        "tie_word_embeddings": True,
        "max_position_embeddings": 1536,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "embedding_size": "=hidden_size",
    },
    summary="RoFormer",
    sizes={
        "roformer-base": size(768, 12, 3072, 12),
        "roformer-small": {**size(384, 6, 1536, 6), "embedding_size": 384},
    },
    **{
        **ENCODER_FACTS,
        "axes": {**AXES, "embed": "embedding_size"},
        "attention": Attention(rope="table"),
        # rotary_value turns v as well: its old pairs stay pairs, and nothing reads the new ones yet
        "harmless": ENCODER_FACTS["harmless"] | {"rotary_value"},
    },
)
