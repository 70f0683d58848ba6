"""GPT-2: LayerNorm before each branch, learned positions; Conv1D weights are stored (in, out)."""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Attention, Norm, Tie
from grow.architectures.family import Family

TIE = Tie(
    "transformer.wte.weight",
    "lm_head.weight",
    ("transformer.ln_f.weight", "transformer.ln_f.bias"),
    when="tie_word_embeddings LMHeadModel",
)

GPT2 = Family(
    model_type="gpt2",
    class_prefix="GPT2",
    prefix="transformer.",
    eps="layer_norm_epsilon",
    table="""
transformer.wte.weight                       vocab -> hidden
transformer.wpe.weight                       positions -> hidden
transformer.h.{layers}.ln_1.weight           hidden *
transformer.h.{layers}.ln_1.bias             hidden +
transformer.h.{layers}.attn.c_attn.weight    hidden -> (heads head_dim.q | heads head_dim.k | heads head_dim.v)
transformer.h.{layers}.attn.c_attn.bias      (heads head_dim.q | heads head_dim.k | heads head_dim.v) <-
transformer.h.{layers}.attn.c_proj.weight    (heads head_dim.v) -> hidden
transformer.h.{layers}.attn.c_proj.bias      hidden <-
transformer.h.{layers}.ln_2.weight           hidden *
transformer.h.{layers}.ln_2.bias             hidden +
transformer.h.{layers}.mlp.c_fc.weight       hidden -> ffn
transformer.h.{layers}.mlp.c_fc.bias         ffn <-
transformer.h.{layers}.mlp.c_proj.weight     ffn -> hidden
transformer.h.{layers}.mlp.c_proj.bias       hidden <-
transformer.ln_f.weight                      hidden *
transformer.ln_f.bias                        hidden +
lm_head.weight                               vocab <- hidden   ? LMHeadModel not tie_word_embeddings
score.weight                                 labels <- hidden  ? ForSequenceClassification
classifier.weight                            labels <- hidden  ? ForTokenClassification
classifier.bias                              labels <-         ? ForTokenClassification
qa_outputs.weight                            labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                              labels <-         ? ForQuestionAnswering
""",
    axes={
        "hidden": "n_embd",
        "heads": "n_head",
        "ffn": "n_inner",
        "layers": "n_layer",
        "vocab": "vocab_size",
        "positions": "n_positions",
    },
    norm=Norm("layernorm"),
    attention=Attention(scaled="scale_attn_weights", index_scaled="scale_attn_by_inverse_layer_idx"),
    tie=TIE,
    synonyms={
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
    },
    defaults={
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "n_positions": 1024,
        "scale_attn_by_inverse_layer_idx": False,
    },
    derived_head_dim=True,
    divides=True,
    size_defaults={"ffn": "4 hidden"},
    harmless=frozenset(
        """
        layer_norm_epsilon reorder_and_upcast_attn
        summary_activation summary_proj_to_labels summary_type summary_use_proj n_ctx
        """.split()
    ),
    fixed={"add_cross_attention": (False,), "activation_function": ELEMENTWISE},
    stale=(".attn.bias", ".attn.masked_bias"),
    summary="GPT-2",
    sizes={
        name: {"n_embd": n, "n_head": h, "n_inner": 4 * n, "n_layer": layers}
        for name, n, h, layers in (
            ("small", 128, 4, 6),
            ("base", 256, 8, 6),
            ("large", 512, 16, 6),
            ("gpt2", 768, 12, 12),
            ("gpt2-medium", 1024, 16, 24),
            ("gpt2-large", 1280, 20, 36),
            ("gpt2-xl", 1600, 25, 48),
        )
    },
)
