"""GPTBigCode, that is SantaCoder and StarCoder: GPT-2 with Linear weights, whose heads may share one k and one v."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.facts import Attention

TABLE = """
transformer.wte.weight                       vocab -> hidden
transformer.wpe.weight                       positions -> hidden
transformer.h.{layers}.ln_1.weight           hidden *
transformer.h.{layers}.ln_1.bias             hidden +
transformer.h.{layers}.attn.c_attn.weight    (heads head_dim.q | head_dim.k | head_dim.v) <- hidden   ? multi_query
transformer.h.{layers}.attn.c_attn.bias      (heads head_dim.q | head_dim.k | head_dim.v) <-          ? multi_query
transformer.h.{layers}.attn.c_attn.weight    (heads (head_dim.q | head_dim.k | head_dim.v)) <- hidden ? not multi_query
transformer.h.{layers}.attn.c_attn.bias      (heads (head_dim.q | head_dim.k | head_dim.v)) <-        ? not multi_query
transformer.h.{layers}.attn.c_proj.weight    hidden <- (heads head_dim.v)
transformer.h.{layers}.attn.c_proj.bias      hidden <-
transformer.h.{layers}.ln_2.weight           hidden *
transformer.h.{layers}.ln_2.bias             hidden +
transformer.h.{layers}.mlp.c_fc.weight       ffn <- hidden
transformer.h.{layers}.mlp.c_fc.bias         ffn <-
transformer.h.{layers}.mlp.c_proj.weight     hidden <- ffn
transformer.h.{layers}.mlp.c_proj.bias       hidden <-
transformer.ln_f.weight                      hidden *
transformer.ln_f.bias                        hidden +
lm_head.weight                               vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                 labels <- hidden  ? ForSequenceClassification
classifier.weight                            labels <- hidden  ? ForTokenClassification
classifier.bias                              labels <-         ? ForTokenClassification
"""

GPT_BIGCODE = replace(
    GPT2,
    model_type="gpt_bigcode",
    class_prefix="GPTBigCode",
    table=TABLE,
    axes={**GPT2.axes, "kv_heads": "num_key_value_heads"},
    computed={"kv_heads": "1 ? multi_query; heads ? not multi_query"},
    attention=Attention(scaled="scale_attn_weights"),
    tie=replace(TIE, when="tie_word_embeddings ForCausalLM"),
    defaults={"tie_word_embeddings": True, "scale_attn_weights": True, "n_positions": 1024, "multi_query": True},
    # in which dtype a softmax is computed changes its rounding only
    harmless=frozenset({"layer_norm_epsilon", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"}),
    stale=(".attn.bias", ".attn.masked_bias", "transformer.bias"),
    summary="SantaCoder, StarCoder",
    sizes={
        name: {"n_embd": n, "n_head": h, "n_inner": 4 * n, "n_layer": layers}
        for name, n, h, layers in (
            ("santacoder", 2048, 16, 24),
            ("starcoderbase-1b", 2048, 16, 24),
            ("starcoderbase-3b", 2816, 22, 36),
            ("starcoderbase-7b", 4096, 32, 42),
            ("starcoder", 6144, 48, 40),
        )
    },
)
