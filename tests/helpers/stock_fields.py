"""Config fields of small stock models, and how a variant is made of them.

Sizes differ from each other, and eps is large where the config has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
MPNET = {k: v for k, v in BERT.items() if k != "type_vocab_size"}
DISTIL = dict(vocab_size=41, dim=12, hidden_dim=22, n_layers=2, n_heads=3, max_position_embeddings=64)

MAMBA = dict(
    vocab_size=41, hidden_size=18, state_size=5, num_hidden_layers=2, time_step_rank=3, layer_norm_epsilon=0.05,
    expand=2, pad_token_id=0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
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
_LONG = {
    "rope_type": "longrope", "rope_theta": 500.0, "original_max_position_embeddings": 32, "short_mscale": 1.1,
    "long_mscale": 1.3, "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 1.5, 2.5, 4.0],
}  # fmt: skip
GPT_OSS = {**LOCAL, "num_hidden_layers": 3, "sliding_window": 5, "swiglu_limit": 1.5, "rope_parameters": _YARN}
_FULL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}
_SLOWER = {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 6}
_LONGROPE = {
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.75, "factor": 2.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 1.5, 2.5],
    },
}  # fmt: skip


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
