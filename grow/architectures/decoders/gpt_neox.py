"""GPT-NeoX and Pythia: LayerNorm before each branch, fused qkv rows per head, partial RoPE."""

from grow.architectures.common_fields import ELEMENTWISE, OLDER_ROPE
from grow.architectures.facts import Attention, Norm, Tie
from grow.architectures.family import Family

GPT_NEOX = Family(
    model_type="gpt_neox",
    class_prefix="GPTNeoX",
    prefix="gpt_neox.",
    eps="layer_norm_eps",
    table="""
gpt_neox.embed_in.weight                                    vocab -> hidden
gpt_neox.layers.{layers}.input_layernorm.weight             hidden *
gpt_neox.layers.{layers}.input_layernorm.bias               hidden +
gpt_neox.layers.{layers}.attention.query_key_value.weight   (heads (head_dim.q | head_dim.k | head_dim.v)) <- hidden
gpt_neox.layers.{layers}.attention.query_key_value.bias     (heads (head_dim.q | head_dim.k | head_dim.v)) <-   ? attention_bias
gpt_neox.layers.{layers}.attention.dense.weight             hidden <- (heads head_dim.v)
gpt_neox.layers.{layers}.attention.dense.bias               hidden <-                         ? attention_bias
gpt_neox.layers.{layers}.post_attention_layernorm.weight    hidden *
gpt_neox.layers.{layers}.post_attention_layernorm.bias      hidden +
gpt_neox.layers.{layers}.mlp.dense_h_to_4h.weight           ffn <- hidden
gpt_neox.layers.{layers}.mlp.dense_h_to_4h.bias             ffn <-
gpt_neox.layers.{layers}.mlp.dense_4h_to_h.weight           hidden <- ffn
gpt_neox.layers.{layers}.mlp.dense_4h_to_h.bias             hidden <-
gpt_neox.final_layer_norm.weight                            hidden *
gpt_neox.final_layer_norm.bias                              hidden +
embed_out.weight                                            vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                                labels <- hidden  ? ForSequenceClassification
classifier.weight                                           labels <- hidden  ? ForTokenClassification
classifier.bias                                             labels <-         ? ForTokenClassification
qa_outputs.weight                                           labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                             labels <-         ? ForQuestionAnswering
""",  # noqa: E501
    axes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "layers": "num_hidden_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    },
    norm=Norm("layernorm"),
    attention=Attention(rope="partial"),
    tie=Tie(
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        ("gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"),
        when="tie_word_embeddings ForCausalLM",
    ),
    defaults={
        "tie_word_embeddings": False,
        "attention_bias": True,
        "max_position_embeddings": 2048,
        "partial_rotary_factor": 0.25,
    },
    rope_spelling=OLDER_ROPE,
    derived_head_dim=True,
    divides=True,
    reads=frozenset({"rope_parameters", "rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base"}),
    harmless=frozenset("layer_norm_eps use_parallel_residual".split()),
    fixed={"hidden_act": ELEMENTWISE},
    spelling=(("lm_head.weight", "embed_out.weight"),),
    stale=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
    summary="GPT-NeoX, Pythia",
    sizes={
        name: {
            "hidden_size": n,
            "num_attention_heads": h,
            "intermediate_size": 4 * n,
            "num_hidden_layers": layers,
        }
        for name, n, h, layers in (
            ("pythia-14m", 128, 4, 6),
            ("pythia-31m", 256, 8, 6),
            ("pythia-70m", 512, 8, 6),
            ("pythia-160m", 768, 12, 12),
            ("pythia-410m", 1024, 16, 24),
            ("pythia-1b", 2048, 8, 16),
            ("pythia-1.4b", 2048, 16, 24),
            ("pythia-2.8b", 2560, 32, 32),
            ("pythia-6.9b", 4096, 32, 32),
            ("pythia-12b", 5120, 40, 36),
        )
    },
)
