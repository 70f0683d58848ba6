"""ModernBERT: LayerNorms in front of the branches but the first, and layers with a window that turn otherwise."""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.encoders.bert import size
from grow.architectures.facts import Attention, Norm, RopeKind, Tie
from grow.architectures.family import Family
from grow.architectures.layer_lists import Period

LAYERS = """
model.embeddings.tok_embeddings.weight   vocab -> hidden
model.embeddings.norm.weight             hidden *
model.embeddings.norm.bias               hidden +              ? norm_bias
model.layers.{layers}.attn_norm.weight   hidden *              ? not first
model.layers.{layers}.attn_norm.bias     hidden +              ? not first norm_bias
model.layers.{layers}.attn.Wo.weight     hidden <- (heads head_dim.v)
model.layers.{layers}.attn.Wo.bias       hidden <-             ? attention_bias
model.layers.{layers}.mlp_norm.weight    hidden *
model.layers.{layers}.mlp_norm.bias      hidden +              ? norm_bias
model.layers.{layers}.mlp.Wi.weight      (ffn | ffn) <- hidden
model.layers.{layers}.mlp.Wi.bias        (ffn | ffn) <-        ? mlp_bias
model.layers.{layers}.mlp.Wo.weight      hidden <- ffn
model.layers.{layers}.mlp.Wo.bias        hidden <-             ? mlp_bias
model.final_norm.weight                  hidden *
model.final_norm.bias                    hidden +              ? norm_bias
"""
FUSED = """
model.layers.{layers}.attn.Wqkv.weight   (heads head_dim.q | heads head_dim.k | heads head_dim.v) <- hidden
model.layers.{layers}.attn.Wqkv.bias     (heads head_dim.q | heads head_dim.k | heads head_dim.v) <-  ? attention_bias
"""
CLASSIFIED = "ForSequenceClassification|ForTokenClassification|ForQuestionAnswering|ForMultipleChoice"
HEADS = f"""
head.dense.weight                        hidden <- hidden      ? ForMaskedLM|{CLASSIFIED}
head.dense.bias                          hidden <-             ? ForMaskedLM|{CLASSIFIED} classifier_bias
head.norm.weight                         hidden *              ? ForMaskedLM|{CLASSIFIED}
head.norm.bias                           hidden +              ? ForMaskedLM|{CLASSIFIED} norm_bias
decoder.weight                           vocab <- hidden       ? ForMaskedLM not tie_word_embeddings
decoder.bias                             vocab <-              ? ForMaskedLM decoder_bias
classifier.weight                        labels <- hidden      ? {CLASSIFIED}
classifier.bias                          labels <-             ? {CLASSIFIED}
"""


def relative(model_type: str, table: str, tie: Tie, **facts: Any) -> Family:
    """A family of ModernBERT's kind."""
    return Family(
        model_type=model_type,
        prefix="model.",
        table=LAYERS + table,
        tie=tie,
        axes={
            "hidden": "hidden_size",
            "heads": "num_attention_heads",
            "ffn": "intermediate_size",
            "layers": "num_hidden_layers",
            "vocab": "vocab_size",
            "positions": "max_position_embeddings",
        },
        # the norm of the embeddings writes the stream, and the first layer reads it as it is
        norm=Norm("layernorm", bare="always"),
        attention=Attention(rope="half"),
        rope_kinds={
            "full_attention": RopeKind(160_000.0, "global_rope_theta"),
            "sliding_attention": RopeKind(1e4, "local_rope_theta"),
        },
        layer_lists=(
            Period(
                entries=("sliding_attention", "full_attention"), every=3, said="global_attn_every_n_layers", begins=True
            ),
        ),
        eps="norm_eps",
        derived_head_dim=True,
        divides=True,
        defaults={
            "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
            "norm_eps": 1e-5,
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "classifier_bias": False,
            "decoder_bias": True,
        },
        reads=frozenset({"rope_parameters", "rope_scaling", "global_rope_theta", "local_rope_theta"}),
        harmless=frozenset(
            """
            norm_eps local_attention sliding_window classifier_pooling deterministic_flash_attn reference_compile
            initializer_cutoff_factor repad_logits_with_grad sparse_prediction sparse_pred_ignore_index
            position_embedding_type
            """.split()
        ),
        fixed={"hidden_activation": ELEMENTWISE, "classifier_activation": ELEMENTWISE},
        **facts,
    )


TABLE = "model.embeddings.tok_embeddings.weight"
MODERNBERT = relative(
    "modernbert",
    FUSED + HEADS,
    Tie(TABLE, "decoder.weight", ("head.norm.weight", "head.norm.bias"), when="tie_word_embeddings ForMaskedLM"),
    class_prefix="ModernBert",
    summary="ModernBERT",
    sizes={
        "ModernBERT-base": size(768, 12, 1152, 22),
        "ModernBERT-large": size(1024, 16, 2624, 28),
    },
)
