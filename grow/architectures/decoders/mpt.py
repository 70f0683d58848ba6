"""MPT: LayerNorms without bias, ALiBi, no bias anywhere and an FFN of 4 hidden units."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.facts import Attention, Refusal

TABLE = """
transformer.wte.weight                            vocab -> hidden
transformer.blocks.{layers}.norm_1.weight         hidden *
transformer.blocks.{layers}.attn.Wqkv.weight      (heads head_dim.q | heads head_dim.k | heads head_dim.v) <- hidden
transformer.blocks.{layers}.attn.out_proj.weight  hidden <- (heads head_dim.v)
transformer.blocks.{layers}.norm_2.weight         hidden *
transformer.blocks.{layers}.ffn.up_proj.weight    ffn <- hidden
transformer.blocks.{layers}.ffn.down_proj.weight  hidden <- ffn
transformer.norm_f.weight                         hidden *
lm_head.weight                                    vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                      labels <- hidden  ? ForSequenceClassification
classifier.weight                                 labels <- hidden  ? ForTokenClassification
classifier.bias                                   labels <-         ? ForTokenClassification
qa_outputs.weight                                 labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                   labels <-         ? ForQuestionAnswering
"""

MPT = replace(
    GPT2,
    model_type="mpt",
    class_prefix="Mpt",
    table=TABLE,
    axes={
        "hidden": "d_model",
        "heads": "n_heads",
        "layers": "n_layers",
        "vocab": "vocab_size",
        "positions": "max_seq_len",
    },
    computed={"ffn": "4 hidden"},
    refusals=(
        Refusal(
            "head_dim",
            "q would be multiplied by √(head_dim'/head_dim) before stock code clips it",
            when="attn_config.clip_qkv not attn_config.softmax_scale",
        ),
    ),
    attention=Attention(alibi="always", scaled="not attn_config.softmax_scale"),
    tie=replace(TIE, norms=("transformer.norm_f.weight",), when="tie_word_embeddings ForCausalLM"),
    synonyms={"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"},
    defaults={
        "tie_word_embeddings": True,
        "max_seq_len": 2048,
        "attn_config.clip_qkv": None,
        "attn_config.softmax_scale": None,
    },
    reads=frozenset({"attn_config"}),
    # stock code reads the first alone
    harmless=frozenset(
        """
        layer_norm_epsilon
        expansion_ratio learned_pos_emb init_device logit_scale no_bias embedding_fraction norm_type
        """.split()
    ),
    fixed={},
    stale=(),
    summary="MPT",
    sizes={
        "mpt-1b": {"d_model": 2048, "n_heads": 16, "n_layers": 24},
        "mpt-7b": {"d_model": 4096, "n_heads": 32, "n_layers": 32},
        "mpt-30b": {"d_model": 7168, "n_heads": 64, "n_layers": 48},
    },
)
