"""OPT: LayerNorm before each branch (behind it in the 350m), learned positions with two extra rows.

The embedding lives in `word_embed_proj_dim`; where that differs from hidden, `project_in` and `project_out`
translate and the head never sees the hidden axis.
"""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Attention, Chain, Norm, Tie
from grow.architectures.family import Family

PROJECTED = "word_embed_proj_dim!=hidden_size"
DIRECT = "word_embed_proj_dim==hidden_size"
FINAL = "do_layer_norm_before not _remove_final_layer_norm"
AFFINE = "layer_norm_elementwise_affine"

OPT = Family(
    model_type="opt",
    class_prefix="OPT",
    prefix="model.",
    eps=1e-5,
    chain=Chain(
        first="model.decoder.layers.{layers}.self_attn_layer_norm",
        reads="model.decoder.layers.{layers}.fc1",
        writes="model.decoder.layers.{layers}.fc2",
        last="model.decoder.layers.{layers}.final_layer_norm",
    ),
    table=f"""
model.decoder.embed_tokens.weight                              vocab -> hidden   ? {DIRECT}
model.decoder.embed_tokens.weight                              vocab -> embed    ? {PROJECTED}
model.decoder.embed_positions.weight                           (2 | positions) -> hidden
model.decoder.project_in.weight                                hidden <- embed   ? {PROJECTED}
model.decoder.layers.{{layers}}.self_attn_layer_norm.weight    hidden *          ? {AFFINE}
model.decoder.layers.{{layers}}.self_attn_layer_norm.bias      hidden +          ? {AFFINE}
model.decoder.layers.{{layers}}.self_attn.q_proj.weight        (heads head_dim.q) <- hidden
model.decoder.layers.{{layers}}.self_attn.q_proj.bias          (heads head_dim.q) <-   ? enable_bias
model.decoder.layers.{{layers}}.self_attn.k_proj.weight        (heads head_dim.k) <- hidden
model.decoder.layers.{{layers}}.self_attn.k_proj.bias          (heads head_dim.k) <-   ? enable_bias
model.decoder.layers.{{layers}}.self_attn.v_proj.weight        (heads head_dim.v) <- hidden
model.decoder.layers.{{layers}}.self_attn.v_proj.bias          (heads head_dim.v) <-   ? enable_bias
model.decoder.layers.{{layers}}.self_attn.out_proj.weight      hidden <- (heads head_dim.v)
model.decoder.layers.{{layers}}.self_attn.out_proj.bias        hidden <-         ? enable_bias
model.decoder.layers.{{layers}}.final_layer_norm.weight        hidden *          ? {AFFINE}
model.decoder.layers.{{layers}}.final_layer_norm.bias          hidden +          ? {AFFINE}
model.decoder.layers.{{layers}}.fc1.weight                     ffn <- hidden
model.decoder.layers.{{layers}}.fc1.bias                       ffn <-            ? enable_bias
model.decoder.layers.{{layers}}.fc2.weight                     hidden <- ffn
model.decoder.layers.{{layers}}.fc2.bias                       hidden <-         ? enable_bias
model.decoder.final_layer_norm.weight                          hidden *          ? {FINAL} {AFFINE}
model.decoder.final_layer_norm.bias                            hidden +          ? {FINAL} {AFFINE}
model.decoder.project_out.weight                               embed <- hidden   ? {PROJECTED}
lm_head.weight               vocab <- hidden   ? ForCausalLM not tie_word_embeddings {DIRECT}
lm_head.weight               vocab <- embed    ? ForCausalLM not tie_word_embeddings {PROJECTED}
score.weight                 labels <- hidden  ? ForSequenceClassification {DIRECT}
score.weight                 labels <- embed   ? ForSequenceClassification {PROJECTED}
qa_outputs.weight            labels <- hidden  ? ForQuestionAnswering {DIRECT}
qa_outputs.weight            labels <- embed   ? ForQuestionAnswering {PROJECTED}
qa_outputs.bias              labels <-         ? ForQuestionAnswering
""",
    axes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "ffn_dim",
        "layers": "num_hidden_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "embed": "word_embed_proj_dim",
    },
    follows={"embed": "hidden"},
    norm=Norm("layernorm", writes_stream="not do_layer_norm_before", affine=AFFINE, bare="_remove_final_layer_norm"),
    attention=Attention(),
    tie=Tie(
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
        ("model.decoder.final_layer_norm.weight", "model.decoder.final_layer_norm.bias"),
        when="tie_word_embeddings ForCausalLM",
        norms_when=f"{FINAL} {AFFINE}",
    ),
    defaults={
        "tie_word_embeddings": True,
        "do_layer_norm_before": True,
        "layer_norm_elementwise_affine": True,
        "enable_bias": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": "=hidden_size",
        "max_position_embeddings": 2048,
        "ffn_dim": 3072,
    },
    derived_head_dim=True,
    divides=True,
    harmless=frozenset("init_std output_projection".split()),
    fixed={"activation_function": ELEMENTWISE},
    summary="OPT",
    sizes={
        name: {
            "hidden_size": n,
            "num_attention_heads": h,
            "ffn_dim": 4 * n,
            "num_hidden_layers": layers,
            "word_embed_proj_dim": embed,
        }
        for name, n, h, layers, embed in (
            ("opt-125m", 768, 12, 12, 768),
            ("opt-350m", 1024, 16, 24, 512),
            ("opt-1.3b", 2048, 32, 24, 2048),
            ("opt-2.7b", 2560, 32, 32, 2560),
            ("opt-6.7b", 4096, 32, 32, 4096),
            ("opt-13b", 5120, 40, 40, 5120),
        )
    },
)
