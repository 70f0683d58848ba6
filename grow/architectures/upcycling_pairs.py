"""Which dense family can be read as which family with experts.

The tables are in the two families; a dense FFN has the same three rows in all of these. `carried` are the stock
defaults of the source, written out because the target's differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A dense family and one with experts that computes the same when all experts are the old FFN.

    heads     what the names of the stock model classes may end in
    needs     field of the source -> the values with which this is true
    dropped   fields of the source that the target does not have
    carried   field -> its stock value in the source, written unless config.json has it
    sets      field -> its value in the target
    """

    source: str
    target: str
    heads: tuple[str, ...]
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    carried: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)


ALL = ("ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
BARE = ("ForCausalLM", "Model")

STOCK = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
BALANCE = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
NORMED = {**BALANCE, "norm_topk_prob": True}
SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
UNBIASED = {"attention_bias": (False, None), "mlp_bias": (False, None)}
WINDOWED = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
MULTIPLIERS = dict.fromkeys(
    ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier"), 1.0
)

PAIRS = (
    Pair(
        "llama",
        "mixtral",
        ALL,
        needs=UNBIASED,
        dropped=("attention_bias", "mlp_bias", "pretraining_tp", "rope_interleaved", "is_llama_config"),
        carried={**STOCK, **LLAMA_TOKENS},
        sets={**BALANCE, "sliding_window": None, "router_jitter_noise": 0.0},
    ),
    Pair(
        "mistral",
        "mixtral",
        ALL,
        carried={**STOCK, **LLAMA_TOKENS, "sliding_window": 4096},
        sets={**BALANCE, "router_jitter_noise": 0.0},
    ),
    Pair(
        "qwen2",
        "qwen2_moe",
        ALL,
        dropped=("use_mrope",),
        carried={**STOCK, **WINDOWED},
        sets={**NORMED, **SPARSE, "qkv_bias": True},
    ),
    Pair(
        "qwen3",
        "qwen3_moe",
        ALL,
        needs={"use_sliding_window": (False, None)},  # Qwen3-MoE has one window for all layers
        carried={**STOCK, **WINDOWED, "attention_bias": False},
        sets={**NORMED, **SPARSE},
    ),
    Pair(
        "olmo2",
        "flex_olmo",
        BARE,
        carried={
            **STOCK,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 1,
            "eos_token_id": 50279,
            "attention_bias": False,
        },
        sets={**NORMED, "router_aux_loss_coef": 0.01},
    ),
    Pair(
        "granite",
        "granitemoe",
        BARE,
        needs={"mlp_bias": (False, None)},
        dropped=("mlp_bias",),
        carried={**STOCK, **LLAMA_TOKENS, **MULTIPLIERS, "attention_bias": False},
        sets=BALANCE,
    ),
)
