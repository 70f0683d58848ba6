"""ALBERT: BERT's encoder whose layers share their weights in groups, mostly in one; narrow embeddings.

Layers are inserted only where each has a group of its own.
"""

from grow.architectures.encoders.bert import ANSWERS, AXES, CLASSIFIED, ENCODER_FACTS, size
from grow.architectures.facts import Chain, Refusal, Tie
from grow.architectures.family import Family

LAYER = "albert.encoder.albert_layer_groups.{layers}.albert_layers.0."
EMBEDDED = """
albert.embeddings.word_embeddings.weight               vocab -> embed
albert.embeddings.position_embeddings.weight           positions -> embed
albert.embeddings.token_type_embeddings.weight         types -> embed
albert.embeddings.LayerNorm.weight                     embed *
albert.embeddings.LayerNorm.bias                       embed +
albert.encoder.embedding_hidden_mapping_in.weight      hidden <- embed
albert.encoder.embedding_hidden_mapping_in.bias        hidden <-
"""
LAYERS = """
{layer}attention.query.weight                          (heads head_dim.q) <- hidden
{layer}attention.query.bias                            (heads head_dim.q) <-
{layer}attention.key.weight                            (heads head_dim.k) <- hidden
{layer}attention.key.bias                              (heads head_dim.k) <-
{layer}attention.value.weight                          (heads head_dim.v) <- hidden
{layer}attention.value.bias                            (heads head_dim.v) <-
{layer}attention.dense.weight                          hidden <- (heads head_dim.v)
{layer}attention.dense.bias                            hidden <-
{layer}attention.LayerNorm.weight                      hidden *
{layer}attention.LayerNorm.bias                        hidden +
{layer}ffn.weight                                      ffn <- hidden
{layer}ffn.bias                                        ffn <-
{layer}ffn_output.weight                               hidden <- ffn
{layer}ffn_output.bias                                 hidden <-
{layer}full_layer_layer_norm.weight                    hidden *
{layer}full_layer_layer_norm.bias                      hidden +
"""
MASKED = "ForMaskedLM|ForPreTraining"
HEADS = f"""
albert.pooler.weight                                   hidden <- hidden  ? optional
albert.pooler.bias                                     hidden <-         ? optional
predictions.dense.weight                               embed <- hidden   ? {MASKED}
predictions.dense.bias                                 embed <-          ? {MASKED}
predictions.LayerNorm.weight                           embed *           ? {MASKED}
predictions.LayerNorm.bias                             embed +           ? {MASKED}
predictions.bias                                       vocab <-          ? {MASKED}
predictions.decoder.weight                             vocab <- embed    ? {MASKED} not tie_word_embeddings
predictions.decoder.bias                               vocab <-          ? {MASKED} tie_word_embeddings optional
predictions.decoder.bias                               vocab <-          ? {MASKED} not tie_word_embeddings
sop_classifier.classifier.weight                       labels <- hidden  ? ForPreTraining
sop_classifier.classifier.bias                         labels <-         ? ForPreTraining
classifier.weight                                      labels <- hidden  ? {CLASSIFIED}
classifier.bias                                        labels <-         ? {CLASSIFIED}
"""

ALBERT = Family(
    model_type="albert",
    prefix="albert.",
    chain=Chain(
        first=f"{LAYER}attention.LayerNorm",
        reads=f"{LAYER}ffn",
        writes=f"{LAYER}ffn_output",
        last=f"{LAYER}full_layer_layer_norm",
    ),
    table=EMBEDDED + LAYERS.replace("{layer}", LAYER) + HEADS + ANSWERS,
    tie=Tie(
        "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.weight",
        ("predictions.LayerNorm.weight", "predictions.LayerNorm.bias"),
        when=f"tie_word_embeddings {MASKED}",
        biases=("predictions.bias", "predictions.decoder.bias"),
    ),
    follows={"layer_groups": "layers"},
    refusals=(
        Refusal(
            "layers",
            "layers share their weights, so one more would compute once more what the others do, and no identity",
            when="num_hidden_groups!=num_hidden_layers",
        ),
    ),
    defaults={
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "embedding_size": 128,
        "num_hidden_groups": 1,
    },
    summary="ALBERT",
    sizes={
        "albert-base": size(768, 12, 3072, 12),
        "albert-large": size(1024, 16, 4096, 24),
        "albert-xlarge": size(2048, 16, 8192, 24),
        "albert-xxlarge": size(4096, 64, 16384, 12),
    },
    **{
        **ENCODER_FACTS,
        "axes": {**AXES, "embed": "embedding_size", "layer_groups": "num_hidden_groups"},
        "fixed": {**ENCODER_FACTS["fixed"], "inner_group_num": (1,)},
        # of the first releases; stock code reads none of them
        "harmless": ENCODER_FACTS["harmless"]
        | {"down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"},
    },
)
