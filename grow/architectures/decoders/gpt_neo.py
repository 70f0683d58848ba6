"""GPT-Neo: GPT-2 with Linear weights, scores that nothing divides, and layers that see everything or a window."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Runs

TABLE = """
transformer.wte.weight                                vocab -> hidden
transformer.wpe.weight                                positions -> hidden
transformer.h.{layers}.ln_1.weight                    hidden *
transformer.h.{layers}.ln_1.bias                      hidden +
transformer.h.{layers}.attn.attention.k_proj.weight   (heads head_dim.k) <- hidden
transformer.h.{layers}.attn.attention.v_proj.weight   (heads head_dim.v) <- hidden
transformer.h.{layers}.attn.attention.q_proj.weight   (heads head_dim.q) <- hidden
transformer.h.{layers}.attn.attention.out_proj.weight hidden <- (heads head_dim.v)
transformer.h.{layers}.attn.attention.out_proj.bias   hidden <-
transformer.h.{layers}.ln_2.weight                    hidden *
transformer.h.{layers}.ln_2.bias                      hidden +
transformer.h.{layers}.mlp.c_fc.weight                ffn <- hidden
transformer.h.{layers}.mlp.c_fc.bias                  ffn <-
transformer.h.{layers}.mlp.c_proj.weight              hidden <- ffn
transformer.h.{layers}.mlp.c_proj.bias                hidden <-
transformer.ln_f.weight                               hidden *
transformer.ln_f.bias                                 hidden +
lm_head.weight                                        vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                          labels <- hidden  ? ForSequenceClassification
classifier.weight                                     labels <- hidden  ? ForTokenClassification
classifier.bias                                       labels <-         ? ForTokenClassification
qa_outputs.weight                                     labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                       labels <-         ? ForQuestionAnswering
"""
KINDS = ("global", "local")

GPT_NEO = replace(
    GPT2,
    model_type="gpt_neo",
    class_prefix="GPTNeo",
    table=TABLE,
    axes={
        "hidden": "hidden_size",
        "heads": "num_heads",
        "ffn": "intermediate_size",
        "layers": "num_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    },
    attention=Attention(scaled="never"),
    tie=replace(TIE, when="tie_word_embeddings ForCausalLM"),
    synonyms={"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"},
    defaults={
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        "attention_types": [[list(KINDS), 12]],
        "attention_layers": list(KINDS) * 12,
    },
    needs=("attention_types",),
    reads=frozenset({"intermediate_size"}),
    harmless=frozenset({"layer_norm_epsilon", "window_size"}),
    fixed={"activation_function": GPT2.fixed["activation_function"]},
    layer_lists=(Runs("attention_layers", KINDS, runs="attention_types"),),
    spelling=(("embed_out.weight", "lm_head.weight"),),
    stale=(".attn.attention.bias", ".attn.attention.masked_bias"),
    summary="GPT-Neo",
    sizes={
        name: {"hidden_size": n, "num_heads": h, "intermediate_size": 4 * n, "num_layers": layers}
        for name, n, h, layers in (
            ("gpt-neo-125m", 768, 12, 12),
            ("gpt-neo-1.3B", 2048, 16, 24),
            ("gpt-neo-2.7B", 2560, 20, 32),
        )
    },
)
