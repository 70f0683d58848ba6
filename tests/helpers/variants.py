"""The stock configs of every family and variant that tests grow; `models` makes models of them.

Sizes differ from each other, and eps is large where the config has it.
"""

from __future__ import annotations

from choices_of_experts import choices
from seen_and_heard import SEEN_AND_HEARD
from seq2seq_configs import APART, GATED, T5
from state_spaces import STATE_SPACES
from stock_fields import (
    _FULL,
    _YARN,
    BASE,
    BERT,
    BIASES,
    COHERE,
    DERIVED,
    DISTIL,
    EXPERTS,
    FLEX,
    GPT2,
    LLAMA,
    LM,
    LOCAL,
    MIXED,
    MLM,
    MULTIPLIERS,
    NEO,
    NEOX,
    NO_PADDING,
    NORMED,
    OPT,
    PRETRAINING,
    ROUTED,
    SHARED,
    TURNS,
    TWO_ROPES,
    UNPADDED,
    UNSCALED,
    Variant,
    _heads,
    _only,
    _rope,
    _with_eps,
)  # fmt: skip

# Ids start at 4, so no family takes one for padding.


BLOOM = dict(
    vocab_size=41, hidden_size=12, n_layer=2, n_head=3, layer_norm_epsilon=0.05, pad_token_id=0,
)  # fmt: skip
FALCON = dict(
    vocab_size=41, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, layer_norm_epsilon=0.05,
    max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip


SEQ2SEQ, ENCODES = "AutoModelForSeq2SeqLM", "AutoModelForTextEncoding"


VARIANTS: dict[str, Variant] = {
    **{name: Variant(*row) for name, row in choices(LLAMA, NO_PADDING, _YARN).items()},
    "llama": Variant("llama", LM, LLAMA),
    "llama-tied": Variant("llama", LM, {**LLAMA, "tie_word_embeddings": True}),
    "llama-biases": Variant("llama", LM, {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-mha": Variant("llama", LM, {**DERIVED, "num_attention_heads": 3, "num_key_value_heads": 3}),
    "llama-mqa": Variant("llama", LM, {**LLAMA, "num_key_value_heads": 1}),
    "llama-linear": _rope("linear", factor=3.0),
    "llama-llama3": _rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=40
    ),
    "llama-yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=40, truncate=False),
    # beyond its original length longrope changes factors, and dynamic changes θ with every length
    "llama-longrope": _rope(
        "longrope", (17, 50), factor=2.0, original_max_position_embeddings=32,
        short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 1.5, 2.5, 4.0],
    ),
    "llama-dynamic": _rope("dynamic", (17, 80), factor=2.0),
    "mistral": Variant("mistral", LM, {**LLAMA, "sliding_window": 7}),
    "mistral-tied": Variant("mistral", LM, {**LLAMA, "sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": Variant("qwen2", LM, DERIVED),
    "qwen2-window": Variant(
        "qwen2", LM,
        {**DERIVED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2-tied": Variant("qwen2", LM, {**DERIVED, "tie_word_embeddings": True}),
    "qwen3": Variant("qwen3", LM, LLAMA),
    "qwen3-biases": Variant("qwen3", LM, {**LLAMA, "attention_bias": True, "tie_word_embeddings": True}),
    "olmo2": Variant("olmo2", LM, {**LLAMA, **NO_PADDING}),
    "olmo2-biases": Variant("olmo2", LM, {**LLAMA, **NO_PADDING, "attention_bias": True, "tie_word_embeddings": True}),
    "granite": Variant("granite", LM, {**LLAMA, **MULTIPLIERS}),
    "granite-biases": Variant(
        "granite", LM,
        {**LLAMA, **MULTIPLIERS, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "mixtral": Variant("mixtral", LM, {**LOCAL, "sliding_window": 7}),
    "mixtral-tied": Variant("mixtral", LM, {**LOCAL, "num_experts_per_tok": 1, "tie_word_embeddings": True}),
    "qwen2_moe": Variant("qwen2_moe", LM, {**SHARED, "decoder_sparse_step": 2}),
    "qwen2_moe-plain": Variant("qwen2_moe", LM, {**SHARED, "norm_topk_prob": False, "mlp_only_layers": [1]}),
    "qwen3_moe": Variant("qwen3_moe", LM, EXPERTS),
    "qwen3_moe-plain": Variant(
        "qwen3_moe", LM, {**EXPERTS, "norm_topk_prob": False, "attention_bias": True, "tie_word_embeddings": True}
    ),
    "flex_olmo": Variant("flex_olmo", LM, {**FLEX, **NO_PADDING}),
    "flex_olmo-plain": Variant("flex_olmo", LM, {**FLEX, **NO_PADDING, "norm_topk_prob": False}),
    "granitemoe": Variant("granitemoe", LM, {**LOCAL, **MULTIPLIERS}),
    "granitemoe-tied": Variant(
        "granitemoe", LM, {**LOCAL, **MULTIPLIERS, "attention_bias": True, "tie_word_embeddings": True}
    ),
    "gemma": Variant("gemma", LM, UNPADDED),
    "gemma-biases": Variant("gemma", LM, {**UNPADDED, "tie_word_embeddings": False, "attention_bias": True}),
    "gemma2": Variant("gemma2", LM, {**UNPADDED, **TURNS, "num_hidden_layers": 3}),
    "gemma3_text": Variant(
        "gemma3_text", LM, {**UNPADDED, **TURNS, "num_hidden_layers": 4, "sliding_window_pattern": 3}
    ),
    "gemma3_text-ropes": Variant(
        "gemma3_text", LM,
        {**UNPADDED, **TURNS, "rope_parameters": TWO_ROPES, "sliding_window_pattern": 2, "tie_word_embeddings": False},
    ),
    "cohere": Variant("cohere", LM, COHERE),
    "cohere-biases": Variant("cohere", LM, {**COHERE, "tie_word_embeddings": False, "attention_bias": True}),
    "cohere2": Variant("cohere2", LM, {**COHERE, "num_hidden_layers": 5, "sliding_window": 5}),
    "glm": Variant("glm", LM, UNPADDED),
    "glm4": Variant("glm4", LM, {**UNPADDED, "attention_bias": False, "tie_word_embeddings": True}),
    "ernie4_5": Variant("ernie4_5", LM, {**UNPADDED, "use_bias": True}),
    "nemotron": Variant("nemotron", LM, {**NORMED, "norm_eps": 0.05}),
    "nemotron-biases": Variant(
        "nemotron", LM,
        {**NORMED, "norm_eps": 0.05, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "olmoe": Variant("olmoe", LM, {**ROUTED, **NO_PADDING, "norm_topk_prob": True}),
    "olmoe-plain": Variant("olmoe", LM, {**ROUTED, **NO_PADDING, "attention_bias": True, "tie_word_embeddings": True}),
    "ministral": Variant("ministral", LM, {**LLAMA, **MIXED}),
    "seed_oss": Variant("seed_oss", LM, LLAMA),
    "seed_oss-biases": Variant(
        "seed_oss", LM, {**LLAMA, **BIASES, "attention_out_bias": True, "tie_word_embeddings": True}
    ),
    "arcee": Variant("arcee", LM, LLAMA),
    "arcee-biases": Variant("arcee", LM, {**LLAMA, **BIASES, "tie_word_embeddings": True}),
    "smollm3": Variant(
        "smollm3", LM, {**LLAMA, **MIXED, **NO_PADDING, "use_sliding_window": True, "no_rope_layers": [1, 0]}
    ),
    "smollm3-biases": Variant(
        "smollm3", LM, {**LLAMA, **BIASES, **NO_PADDING, "no_rope_layers": [1, 1], "tie_word_embeddings": False}
    ),
    "cwm": Variant("cwm", LM, {**LLAMA, **MIXED, **NO_PADDING, "rope_parameters": _FULL}),
    "exaone4": Variant("exaone4", LM, {**LLAMA, **MIXED}),
    "exaone4-tied": Variant(
        "exaone4", LM,
        {**LLAMA, "sliding_window": None, "layer_types": ["full_attention"] * 2, "tie_word_embeddings": True},
    ),
    "olmo": Variant("olmo", LM, {**UNSCALED, **NO_PADDING}),
    "olmo-biases": Variant("olmo", LM, {**UNSCALED, **NO_PADDING, "attention_bias": True, "tie_word_embeddings": True}),
    "starcoder2": Variant("starcoder2", LM, {**_with_eps("norm_epsilon", LLAMA), **NO_PADDING, "sliding_window": 7}),
    "starcoder2-untied": Variant(
        "starcoder2", LM,
        {**_with_eps("norm_epsilon", LLAMA), **NO_PADDING, "use_bias": False, "tie_word_embeddings": False},
    ),
    "jais2": Variant("jais2", LM, {**_with_eps("layer_norm_eps", LLAMA), **NO_PADDING}),
    "phi": Variant("phi", LM, _with_eps("layer_norm_eps", LLAMA)),
    "phi-tied": Variant("phi", LM, {**_with_eps("layer_norm_eps", LLAMA), "tie_word_embeddings": True}),
    "stablelm": Variant("stablelm", LM, {**_with_eps("layer_norm_eps", DERIVED), "use_qkv_bias": True}),
    "stablelm-parallel": Variant(
        "stablelm", LM,
        {**_with_eps("layer_norm_eps", DERIVED), "use_parallel_residual": True, "tie_word_embeddings": True},
    ),
    "gpt2": Variant("gpt2", LM, GPT2),
    "gpt2-untied": Variant("gpt2", LM, {**GPT2, "tie_word_embeddings": False, "n_inner": 22}),
    "gpt2-unscaled": Variant("gpt2", LM, {**GPT2, "scale_attn_weights": False}),
    "gpt2-inverse": Variant("gpt2", LM, {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode": Variant("gpt_bigcode", LM, GPT2),
    "gpt_bigcode-heads": Variant(
        "gpt_bigcode", LM, {**GPT2, "multi_query": False, "tie_word_embeddings": False, "n_inner": 22}
    ),
    "gpt_bigcode-unscaled": Variant("gpt_bigcode", LM, {**GPT2, "scale_attn_weights": False}),
    "gpt_neo": Variant("gpt_neo", LM, NEO),
    "gpt_neo-untied": Variant("gpt_neo", LM, {**NEO, "tie_word_embeddings": False, "intermediate_size": 22}),
    "gptj": Variant("gptj", LM, {**GPT2, "n_embd": 18, "rotary_dim": 4}),
    "gptj-tied": Variant("gptj", LM, {**GPT2, "rotary_dim": 4, "tie_word_embeddings": True, "n_inner": 22}),
    "bloom": Variant("bloom", LM, BLOOM),
    "bloom-untied": Variant("bloom", LM, {**BLOOM, "tie_word_embeddings": False, "n_head": 4, "hidden_size": 16}),
    "falcon": Variant("falcon", LM, FALCON),
    "falcon-groups": Variant(
        "falcon", LM,
        {**FALCON, "hidden_size": 48, "num_attention_heads": 6, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "falcon-one-norm": Variant(
        "falcon", LM,
        {**FALCON, "num_kv_heads": 1, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "bias": True},
    ),
    "falcon-alibi": Variant(
        "falcon", LM,
        {
            **FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True,
            "tie_word_embeddings": False, "ffn_hidden_size": 26,
        },
    ),
    "codegen": Variant("codegen", LM, {**GPT2, "n_head": 8, "n_embd": 48, "rotary_dim": 4}),
    "gpt_neox": Variant("gpt_neox", LM, NEOX),
    "gpt_neox-sequential": Variant("gpt_neox", LM, {**NEOX, "use_parallel_residual": False}),
    "gpt_neox-no-bias": Variant("gpt_neox", LM, {**NEOX, "attention_bias": False, "tie_word_embeddings": True}),
    "gpt_neox-full": Variant("gpt_neox", LM, {**NEOX, "rope_parameters": _FULL}),
    "opt": Variant("opt", LM, OPT),
    "opt-untied": Variant("opt", LM, {**OPT, "tie_word_embeddings": False}),
    "opt-projected": Variant("opt", LM, {**OPT, "word_embed_proj_dim": 10}),
    "opt-post": Variant("opt", LM, {**OPT, "do_layer_norm_before": False}),
    "opt-post-projected": Variant("opt", LM, {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 10}),
    "opt-no-affine": Variant("opt", LM, {**OPT, "layer_norm_elementwise_affine": False}),
    "opt-no-bias": Variant("opt", LM, {**OPT, "enable_bias": False}),
    "opt-no-final-norm": Variant("opt", LM, {**OPT, "_remove_final_layer_norm": True}),
    "bert-mlm": Variant("bert", MLM, BERT),
    "bert-mlm-untied": Variant("bert", MLM, {**BERT, "tie_word_embeddings": False}),
    "roberta-mlm": Variant("roberta", MLM, BERT),
    "roberta-mlm-untied": Variant("roberta", MLM, {**BERT, "tie_word_embeddings": False}),
    "xlm-roberta-mlm": Variant("xlm-roberta", MLM, BERT),
    "camembert-mlm": Variant("camembert", MLM, BERT),
    "data2vec-text-mlm": Variant("data2vec-text", MLM, BERT),
    "ernie-mlm": Variant("ernie", MLM, BERT),
    "electra-mlm": Variant("electra", MLM, {**BERT, "embedding_size": 12}),
    "electra-mlm-projected": Variant("electra", MLM, {**BERT, "embedding_size": 10}),
    "eurobert-mlm": Variant("eurobert", MLM, {**LLAMA, **NO_PADDING, **BIASES}),
    "eurobert-mlm-tied": Variant("eurobert", MLM, {**LLAMA, **NO_PADDING, "tie_word_embeddings": True}),
    "distilbert-mlm": Variant("distilbert", MLM, DISTIL),
    "distilbert-mlm-untied": Variant("distilbert", MLM, {**DISTIL, "tie_word_embeddings": False}),
    **_heads("bert", BERT, pretraining=PRETRAINING),
    **_heads("roberta", BERT),
    **_heads("distilbert", DISTIL),
    **_heads("llama", LLAMA),
    **_heads("gpt2", GPT2),
    **_only(_heads("gpt_bigcode", GPT2), "sequence", "token"),
    **_only(_heads("falcon", FALCON), "sequence", "token", "qa"),
    **_only(_heads("bloom", BLOOM), "sequence", "token", "qa"),
    **_only(_heads("gpt_neo", NEO), "sequence", "token", "qa"),
    **_only(_heads("gptj", {**GPT2, "rotary_dim": 4}), "sequence", "qa"),
    **_heads("gpt_neox", NEOX),
    **{k: v for k, v in _heads("opt", OPT).items() if k != "opt-token"},  # stock OPT has no such class
    **_only(_heads("ernie", BERT, pretraining=PRETRAINING), "pretraining"),
    **_only(_heads("electra", {**BERT, "embedding_size": 10}, pretraining=PRETRAINING), "pretraining"),
    **_only(_heads("electra", {**BERT, "embedding_size": 12}), "sequence"),
    **_only(_heads("xlm-roberta", BERT), "sequence"),
    **_only(_heads("data2vec-text", BERT), "token"),
    **_only(_heads("eurobert", {**LLAMA, **NO_PADDING, "classifier_pooling": "mean"}), "sequence", "token"),
    "mistral-base": Variant("mistral", BASE, LLAMA),
    "qwen2-base": Variant("qwen2", BASE, DERIVED),
    "qwen3-base": Variant("qwen3", BASE, LLAMA),
    "olmo2-base": Variant("olmo2", BASE, {**LLAMA, **NO_PADDING}),
    "granitemoe-base": Variant("granitemoe", BASE, {**LOCAL, **MULTIPLIERS}),
    "mixtral-base": Variant("mixtral", BASE, LOCAL),
    "qwen2_moe-base": Variant("qwen2_moe", BASE, SHARED),
    "t5": Variant("t5", SEQ2SEQ, {**GATED, "num_layers": 2}), "t5-relu": Variant("t5", SEQ2SEQ, T5),
    "t5-untied": Variant("t5", SEQ2SEQ, {**GATED, **APART}),
    "t5-scaled": Variant("t5", SEQ2SEQ, {**T5, "d_model": 4, **APART, "scale_decoder_outputs": True}),
    **_only(_heads("t5", T5, encoder=ENCODES), "base", "token", "qa", "encoder"),
    "mt5-untied": Variant("mt5", SEQ2SEQ, {**T5, "feed_forward_proj": "relu", **APART}),
    "mt5": Variant("mt5", SEQ2SEQ, GATED), "umt5": Variant("umt5", SEQ2SEQ, GATED),
    "umt5-untied": Variant("umt5", SEQ2SEQ, {**GATED, "d_model": 4, **APART}),
    "umt5-encoder": Variant("umt5", ENCODES, GATED),
    "umt5-relu": Variant("umt5", SEQ2SEQ, {**T5, "feed_forward_proj": "relu"}),
    "opt-post-base": Variant("opt", BASE, {**OPT, "do_layer_norm_before": False}),
    **SEEN_AND_HEARD,
    **{name: Variant(*fields) for name, fields in STATE_SPACES.items()},
}  # fmt: skip

# One of each family with a head, for what does not depend on the variant.
