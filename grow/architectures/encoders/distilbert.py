"""DistilBERT: BERT's encoder with half the layers, no token types and a hard-coded eps of 1e-12."""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.encoders.bert import CLASSIFIED
from grow.architectures.facts import Attention, Chain, Norm, Tie
from grow.architectures.family import Family

POOLED = "ForSequenceClassification|ForMultipleChoice"

DISTILBERT = Family(
    model_type="distilbert",
    class_prefix="DistilBert",
    prefix="distilbert.",
    eps=1e-12,
    chain=Chain(
        first="distilbert.transformer.layer.{layers}.sa_layer_norm",
        reads="distilbert.transformer.layer.{layers}.ffn.lin1",
        writes="distilbert.transformer.layer.{layers}.ffn.lin2",
        last="distilbert.transformer.layer.{layers}.output_layer_norm",
    ),
    table=f"""
distilbert.embeddings.word_embeddings.weight                    vocab -> hidden
distilbert.embeddings.position_embeddings.weight                positions -> hidden
distilbert.embeddings.LayerNorm.weight                          hidden *
distilbert.embeddings.LayerNorm.bias                            hidden +
distilbert.transformer.layer.{{layers}}.attention.q_lin.weight    (heads head_dim.q) <- hidden
distilbert.transformer.layer.{{layers}}.attention.q_lin.bias      (heads head_dim.q) <-
distilbert.transformer.layer.{{layers}}.attention.k_lin.weight    (heads head_dim.k) <- hidden
distilbert.transformer.layer.{{layers}}.attention.k_lin.bias      (heads head_dim.k) <-
distilbert.transformer.layer.{{layers}}.attention.v_lin.weight    (heads head_dim.v) <- hidden
distilbert.transformer.layer.{{layers}}.attention.v_lin.bias      (heads head_dim.v) <-
distilbert.transformer.layer.{{layers}}.attention.out_lin.weight  hidden <- (heads head_dim.v)
distilbert.transformer.layer.{{layers}}.attention.out_lin.bias    hidden <-
distilbert.transformer.layer.{{layers}}.sa_layer_norm.weight      hidden *
distilbert.transformer.layer.{{layers}}.sa_layer_norm.bias        hidden +
distilbert.transformer.layer.{{layers}}.ffn.lin1.weight           ffn <- hidden
distilbert.transformer.layer.{{layers}}.ffn.lin1.bias             ffn <-
distilbert.transformer.layer.{{layers}}.ffn.lin2.weight           hidden <- ffn
distilbert.transformer.layer.{{layers}}.ffn.lin2.bias             hidden <-
distilbert.transformer.layer.{{layers}}.output_layer_norm.weight  hidden *
distilbert.transformer.layer.{{layers}}.output_layer_norm.bias    hidden +
vocab_transform.weight                                          hidden <- hidden  ? ForMaskedLM
vocab_transform.bias                                            hidden <-         ? ForMaskedLM
vocab_layer_norm.weight                                         hidden *          ? ForMaskedLM
vocab_layer_norm.bias                                           hidden +          ? ForMaskedLM
vocab_projector.weight                                          vocab <- hidden   ? ForMaskedLM not tie_word_embeddings
vocab_projector.bias                                            vocab <-          ? ForMaskedLM
pre_classifier.weight                                           hidden <- hidden  ? {POOLED}
pre_classifier.bias                                             hidden <-         ? {POOLED}
classifier.weight                                               labels <- hidden  ? {CLASSIFIED}
classifier.bias                                                 labels <-         ? {CLASSIFIED}
qa_outputs.weight                                               labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                                 labels <-         ? ForQuestionAnswering
""",
    axes={
        "hidden": "dim",
        "heads": "n_heads",
        "ffn": "hidden_dim",
        "layers": "n_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    },
    norm=Norm("layernorm", writes_stream="always"),
    attention=Attention(),
    tie=Tie(
        "distilbert.embeddings.word_embeddings.weight",
        "vocab_projector.weight",
        ("vocab_layer_norm.weight", "vocab_layer_norm.bias"),
        when="tie_word_embeddings ForMaskedLM",
    ),
    synonyms={"dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"},
    defaults={"tie_word_embeddings": True, "max_position_embeddings": 512},
    derived_head_dim=True,
    divides=True,
    harmless=frozenset({"sinusoidal_pos_embds"}),
    fixed={"activation": ELEMENTWISE},
    stale=("embeddings.position_ids",),
    summary="DistilBERT",
    sizes={
        "distilbert-base": {"dim": 768, "n_heads": 12, "hidden_dim": 3072, "n_layers": 6},
    },
)
