"""ModernBERT decoder, Ettin: ModernBERT with q, k and v apart, which reads to the left."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.modernbert import TABLE, relative
from grow.architectures.facts import Tie

APART = """
model.layers.{layers}.attn.q_proj.weight  (heads head_dim.q) <- hidden
model.layers.{layers}.attn.k_proj.weight  (heads head_dim.k) <- hidden
model.layers.{layers}.attn.v_proj.weight  (heads head_dim.v) <- hidden
model.layers.{layers}.attn.q_proj.bias    (heads head_dim.q) <-  ? attention_bias
model.layers.{layers}.attn.k_proj.bias    (heads head_dim.k) <-  ? attention_bias
model.layers.{layers}.attn.v_proj.bias    (heads head_dim.v) <-  ? attention_bias
"""
SEQUENCE = "ForSequenceClassification"
HEADS = f"""
lm_head.dense.weight                      hidden <- hidden       ? ForCausalLM
lm_head.dense.bias                        hidden <-              ? ForCausalLM classifier_bias
lm_head.norm.weight                       hidden *               ? ForCausalLM
lm_head.norm.bias                         hidden +               ? ForCausalLM norm_bias
decoder.weight                            vocab <- hidden        ? ForCausalLM not tie_word_embeddings
decoder.bias                              vocab <-               ? ForCausalLM decoder_bias
head.dense.weight                         hidden <- hidden       ? {SEQUENCE}
head.dense.bias                           hidden <-              ? {SEQUENCE} classifier_bias
head.norm.weight                          hidden *               ? {SEQUENCE}
head.norm.bias                            hidden +               ? {SEQUENCE} norm_bias
classifier.weight                         labels <- hidden       ? {SEQUENCE}
classifier.bias                           labels <-              ? {SEQUENCE} classifier_bias
"""

MODERNBERT_DECODER = relative(
    "modernbert-decoder",
    APART + HEADS,
    Tie(TABLE, "decoder.weight", ("lm_head.norm.weight", "lm_head.norm.bias"), when="tie_word_embeddings ForCausalLM"),
    class_prefix="ModernBertDecoder",
    summary="Ettin decoders",
    sizes={
        "ettin-decoder-150m": size(768, 12, 1152, 22),
        "ettin-decoder-400m": size(1024, 16, 2624, 28),
    },
)
