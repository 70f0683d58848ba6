"""BLOOM: GPT-2 with fused qkv rows per head, ALiBi, a LayerNorm behind the embedding and an FFN of 4 hidden units."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.facts import Attention, Norm

TABLE = """
transformer.word_embeddings.weight                          vocab -> hidden
transformer.word_embeddings_layernorm.weight                hidden *
transformer.word_embeddings_layernorm.bias                  hidden +
transformer.h.{layers}.input_layernorm.weight               hidden *
transformer.h.{layers}.input_layernorm.bias                 hidden +
transformer.h.{layers}.self_attention.query_key_value.weight  (heads (head_dim.q | head_dim.k | head_dim.v)) <- hidden
transformer.h.{layers}.self_attention.query_key_value.bias  (heads (head_dim.q | head_dim.k | head_dim.v)) <-
transformer.h.{layers}.self_attention.dense.weight          hidden <- (heads head_dim.v)
transformer.h.{layers}.self_attention.dense.bias            hidden <-
transformer.h.{layers}.post_attention_layernorm.weight      hidden *
transformer.h.{layers}.post_attention_layernorm.bias        hidden +
transformer.h.{layers}.mlp.dense_h_to_4h.weight             ffn <- hidden
transformer.h.{layers}.mlp.dense_h_to_4h.bias               ffn <-
transformer.h.{layers}.mlp.dense_4h_to_h.weight             hidden <- ffn
transformer.h.{layers}.mlp.dense_4h_to_h.bias               hidden <-
transformer.ln_f.weight                                     hidden *
transformer.ln_f.bias                                       hidden +
lm_head.weight                                              vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                                labels <- hidden  ? ForSequenceClassification
classifier.weight                                           labels <- hidden  ? ForTokenClassification
classifier.bias                                             labels <-         ? ForTokenClassification
qa_outputs.weight                                           labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                             labels <-         ? ForQuestionAnswering
"""

BLOOM = replace(
    GPT2,
    model_type="bloom",
    class_prefix="Bloom",
    table=TABLE,
    axes={"hidden": "hidden_size", "heads": "n_head", "layers": "n_layer", "vocab": "vocab_size"},
    computed={"ffn": "4 hidden"},
    norm=Norm("layernorm", begins="always"),
    attention=Attention(alibi="always"),
    tie=replace(TIE, table="transformer.word_embeddings.weight", when="tie_word_embeddings ForCausalLM"),
    synonyms={"n_head": "num_attention_heads", "n_layer": "num_hidden_layers"},
    defaults={"tie_word_embeddings": True},
    reads=frozenset(),
    # what these two change is the order in which the same products are summed
    harmless=frozenset({"layer_norm_epsilon", "pretraining_tp", "slow_but_exact"}),
    # else a layer passes on its input behind a LayerNorm, and none that is inserted passes on its input alone
    fixed={"apply_residual_connection_post_layernorm": (False,)},
    stale=(),
    summary="BLOOM, BLOOMZ",
    sizes={
        name: {"hidden_size": n, "n_head": h, "n_layer": layers}
        for name, n, h, layers in (
            ("bloom-560m", 1024, 16, 24),
            ("bloom-1b1", 1536, 16, 24),
            ("bloom-1b7", 2048, 16, 24),
            ("bloom-3b", 2560, 32, 30),
            ("bloom-7b1", 4096, 32, 30),
            ("bloom", 14336, 112, 70),
        )
    },
)
