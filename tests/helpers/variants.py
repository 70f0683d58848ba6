"""The stock configs of every family and variant that tests grow; `models` makes models of them.

Sizes differ from each other, and eps is large where the config has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from choices_of_experts import choices
from state_spaces import STATE_SPACES

# Ids start at 4, so no family takes one for padding.
LLAMA = dict(
    vocab_size=41, hidden_size=18, intermediate_size=28, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, rms_norm_eps=0.05,
)  # fmt: skip
DERIVED = {k: v for k, v in LLAMA.items() if k != "head_dim"} | {"hidden_size": 24}
GPT2 = dict(
    vocab_size=41, n_embd=12, n_layer=2, n_head=3, n_positions=64, layer_norm_epsilon=0.05,
    bos_token_id=0, eos_token_id=0,
)  # fmt: skip
NEO = dict(
    vocab_size=41, hidden_size=12, num_layers=2, num_heads=3, max_position_embeddings=64, layer_norm_epsilon=0.05,
    attention_types=[[["local", "global"], 1]], window_size=5, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
NEOX = dict(
    vocab_size=41, hidden_size=24, intermediate_size=30, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=64, layer_norm_eps=0.05, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
OPT = dict(
    vocab_size=41, hidden_size=12, ffn_dim=22, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=64, word_embed_proj_dim=12,
)  # fmt: skip
BERT = dict(
    vocab_size=41, hidden_size=12, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=0.05,
)  # fmt: skip
DISTIL = dict(vocab_size=41, dim=12, hidden_dim=22, n_layers=2, n_heads=3, max_position_embeddings=64)

VIT = dict(
    hidden_size=12, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=4,
    layer_norm_eps=0.05,
)  # fmt: skip

EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 14, "norm_topk_prob": True}
SHARED = {k: v for k, v in EXPERTS.items() if k != "head_dim"} | {
    "hidden_size": 24, "shared_expert_intermediate_size": 22, "num_hidden_layers": 3,
}  # fmt: skip
ROUTED = {k: v for k, v in EXPERTS.items() if k not in ("head_dim", "moe_intermediate_size", "norm_topk_prob")} | {
    "hidden_size": 24,
}  # fmt: skip
UNSCALED = {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"}
FLEX = {k: v for k, v in EXPERTS.items() if k != "moe_intermediate_size"}
LOCAL = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
MULTIPLIERS = dict(attention_multiplier=0.3, embedding_multiplier=2.0, logits_scaling=1.5, residual_multiplier=0.5)
BIASES = {"attention_bias": True, "mlp_bias": True}
MIXED = {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}


def _with_eps(name: str, fields: dict) -> dict:
    """The fields with eps under another name."""
    return {name if k == "rms_norm_eps" else k: v for k, v in fields.items()}


NO_PADDING = {"pad_token_id": 0, "eos_token_id": 2}
UNPADDED = {**LLAMA, **NO_PADDING, "bos_token_id": 1}
NORMED = {k: v for k, v in UNPADDED.items() if k != "rms_norm_eps"}
COHERE = {**NORMED, "layer_norm_eps": 0.05, "logit_scale": 0.7}
TURNS = {"query_pre_attn_scalar": 7, "sliding_window": 5}
TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
}

LM, MLM, BASE = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel"
SEQUENCE, TOKEN = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
QA, PRETRAINING = "AutoModelForQuestionAnswering", "AutoModelForPreTraining"
IMAGE, PIXELS = "AutoModelForImageClassification", "AutoModelForMaskedImageModeling"
LABELS = {"id2label": {i: str(i) for i in range(5)}, "label2id": {str(i): i for i in range(5)}}


_YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 40,
}  # fmt: skip


_FULL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}


class Variant(NamedTuple):
    """A stock class and its config; `lengths` of the inputs it is compared on."""

    model_type: str
    auto: str
    fields: dict[str, Any]
    lengths: tuple[int, ...] = (17,)


def _rope(kind: str, lengths=(17,), **parameters) -> Variant:
    rope = {"rope_type": kind, "rope_theta": 500.0, **parameters}
    return Variant("llama", LM, {**LLAMA, "rope_parameters": rope}, lengths)


def _heads(model_type: str, fields: dict, **autos: str) -> dict[str, Variant]:
    classes = {"base": BASE, "sequence": SEQUENCE, "token": TOKEN, "qa": QA, **autos}
    labels = LABELS | {"pad_token_id": 0}
    return {
        f"{model_type}-{name}": Variant(model_type, auto, fields | (labels if auto in (SEQUENCE, TOKEN) else {}))
        for name, auto in classes.items()
    }


def _only(variants: dict[str, Variant], *names: str) -> dict[str, Variant]:
    return {name: variant for name, variant in variants.items() if name.endswith(names)}


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
    "opt-post-base": Variant("opt", BASE, {**OPT, "do_layer_norm_before": False}),
    **{name: Variant(*fields) for name, fields in STATE_SPACES.items()},
    "vit-image": Variant("vit", IMAGE, {**VIT, **LABELS, "qkv_bias": False}),
    "vit-base": Variant("vit", BASE, {**VIT, "head_dim": 6, "pooler_output_size": 7}),
    "vit-pixels": Variant("vit", PIXELS, {**VIT, "encoder_stride": 4}),
}  # fmt: skip

# One of each family with a head, for what does not depend on the variant.
ONE_EACH = (
    "llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "bert-mlm", "roberta-mlm", "distilbert-mlm",
    "gpt_bigcode", "gpt_neo", "gptj",
    "gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "glm", "glm4", "ernie4_5", "nemotron",
    "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe", "olmoe",
    "ministral", "seed_oss", "arcee", "smollm3", "cwm", "exaone4", "olmo", "starcoder2", "jais2", "phi", "stablelm",
    "phi3", "olmo3", "helium", "hunyuan_v1_dense", "ministral3",
    "gpt_oss", "phimoe",
    "glm4_moe", "dots1", "exaone_moe", "minimax_m2", "hunyuan_v1_moe",
    "youtu", "deepseek_v3", "deepseek_v2", "glm4_moe_lite",
    "xlm-roberta-mlm", "camembert-mlm", "data2vec-text-mlm", "ernie-mlm", "electra-mlm", "eurobert-mlm",
    "vit-image",
    "xlm-roberta-mlm", "camembert-mlm", "data2vec-text-mlm", "ernie-mlm", "electra-mlm", "eurobert-mlm",
    "vit-image",
    "mamba", "falcon_mamba", "lfm2",
    "roformer-mlm", "mpnet-mlm", "albert-mlm",
    "gpt_bigcode", "gpt_neo", "gptj", "gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "glm", "glm4",
    "ernie4_5", "nemotron", "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe",
    "olmoe", "ministral", "seed_oss", "arcee", "smollm3", "cwm", "exaone4", "olmo", "starcoder2", "jais2", "phi",
    "stablelm", "phi3", "olmo3", "helium", "hunyuan_v1_dense", "ministral3",
    "nanochat", "vaultgemma", "hyperclovax", "internlm3", "iquestcoder", "apertus",
    "gpt_oss", "phimoe", "xlm-roberta-mlm",
    "camembert-mlm", "data2vec-text-mlm", "ernie-mlm", "electra-mlm", "eurobert-mlm", "roformer-mlm", "mpnet-mlm",
    "albert-mlm", "layoutlm-mlm", "big_bird-mlm", "longformer-mlm", "roberta-prelayernorm-mlm", "xlm-roberta-xl-mlm",
    "megatron-bert-mlm", "rembert-mlm", "modernbert-mlm", "deberta-v2-mlm", "modernbert-decoder", "vit-image",
    "mamba",
)  # fmt: skip

RELATIVES = (
    *("ministral", "seed_oss", "arcee", "cwm", "jais2", "ministral3", "internlm3", "iquestcoder"),
    *("xlm-roberta-mlm", "camembert-mlm", "data2vec-text-mlm", "ernie-mlm", "layoutlm-mlm", "big_bird-mlm"),
    *("longformer-mlm", "xlm-roberta-xl-mlm", "megatron-bert-mlm", "modernbert-decoder"),
    *("ministral", "seed_oss", "arcee", "cwm", "jais2", "ministral3"),
    "dots1",
    *("xlm-roberta-mlm", "camembert-mlm", "data2vec-text-mlm", "ernie-mlm"),
)
"""Of these every row and fact is another family's, some under other names."""

KINDS = tuple(variant for variant in ONE_EACH if variant not in RELATIVES)
"""One of each kind, for what takes long."""

LONG = (
    "glm4_moe", "exaone_moe", "youtu", "deepseek_v3", "glm4_moe_lite", "hunyuan_v1_moe", "llama", "qwen2", "qwen3",
    "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "flex_olmo", "olmoe", "gemma3_text",
    "cohere2", "glm4", "nemotron", "olmo", "smollm3", "phi3", "helium", "hunyuan_v1_dense", "gpt2", "gpt_neox", "opt",
    "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm", "roformer-mlm", "mpnet-mlm", "albert-mlm", "gpt_oss",
    "phimoe", "gpt_bigcode", "gpt_neo", "gptj", "vit-image", "mamba",
    "llama", "qwen2", "qwen3", "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "flex_olmo",
    "olmoe", "gemma3_text", "cohere2", "glm4", "nemotron", "olmo", "smollm3", "phi3", "helium", "hunyuan_v1_dense",
    "nanochat",
    "gpt2", "gpt_neox", "opt", "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm", "roformer-mlm",
    "mpnet-mlm", "albert-mlm", "gpt_oss", "phimoe",
    "olmoe", "gemma3_text", "cohere2", "glm4", "nemotron", "olmo", "smollm3", "gpt2", "gpt_neox", "opt",
    "gpt_bigcode", "gpt_neo", "gptj",
    "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm",
    "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm", "vit-image",
    "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm", "roformer-mlm", "mpnet-mlm", "albert-mlm",
    "olmoe", "gpt_oss", "phimoe", "gemma3_text", "cohere2", "glm4", "nemotron", "olmo", "smollm3", "gpt2", "gpt_neox",
    "opt", "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm",
    "mamba", "lfm2",
    "mpnet-mlm", "albert-mlm", "gpt_oss", "phimoe", "gpt_bigcode", "gpt_neo", "gptj", "vit-image", "modernbert-mlm",
    "deberta-v2-mlm", "mamba",
)  # fmt: skip
"""One of each construction, for what takes a second and more: together they have every fact that a table can state."""
