"""Variants of the families whose layers keep a state, for `variants`: name -> model type, auto class, fields."""

from __future__ import annotations

from typing import Any

LM, BASE = "AutoModelForCausalLM", "AutoModel"
MAMBA = dict(
    vocab_size=41, hidden_size=18, state_size=5, num_hidden_layers=2, time_step_rank=3, layer_norm_epsilon=0.05,
    expand=2, pad_token_id=0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
UNTIED = {"tie_word_embeddings": False}
BIASES = {"use_bias": True, "use_conv_bias": False, "intermediate_size": 28}
LFM2 = dict(
    vocab_size=41, hidden_size=18, intermediate_size=28, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, norm_eps=0.05, block_auto_adjust_ff_dim=False,
    layer_types=["conv", "full_attention", "conv"],
)  # fmt: skip

STATE_SPACES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": ("mamba", LM, MAMBA),
    "mamba-biases": ("mamba", LM, {**MAMBA, **UNTIED, **BIASES}),
    "mamba-base": ("mamba", BASE, MAMBA),
    "falcon_mamba": ("falcon_mamba", LM, {**MAMBA, **UNTIED, "mixer_rms_eps": 0.07}),
    "lfm2": ("lfm2", LM, LFM2),
    "lfm2-biases": ("lfm2", LM, {**LFM2, **UNTIED, "conv_bias": True}),
}
