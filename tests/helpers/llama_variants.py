"""More decoders of Llama's kind: the stock configs of their variants."""

from __future__ import annotations

from variants import _FULL as FULL
from variants import BIASES, COHERE, LLAMA, LM, MIXED, MULTIPLIERS, TURNS, TWO_ROPES, UNPADDED, Variant

SLOWER = {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 6}
LONGROPE = {
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.75, "factor": 2.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 1.5, 2.5],
    },
}  # fmt: skip

LLAMA_VARIANTS: dict[str, Variant] = {
    "phi3": Variant("phi3", LM, {**UNPADDED, "rope_parameters": {**FULL, "partial_rotary_factor": 0.75}}),
    "phi3-longrope": Variant(
        "phi3", LM,
        {**UNPADDED, **LONGROPE, "hidden_size": 48, "sliding_window": 7, "tie_word_embeddings": True}, (17, 50),
    ),
    "olmo3": Variant("olmo3", LM, {**UNPADDED, "sliding_window": 5, "num_hidden_layers": 4}),
    "olmo3-ropes": Variant(
        "olmo3", LM,
        {**UNPADDED, **MIXED, "rope_parameters": TWO_ROPES, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "helium": Variant("helium", LM, {**UNPADDED, "hidden_size": 48}),
    "helium-biases": Variant(
        "helium", LM, {**UNPADDED, **BIASES, "hidden_size": 48, "tie_word_embeddings": True}
    ),
    "hunyuan_v1_dense": Variant("hunyuan_v1_dense", LM, UNPADDED),
    "hunyuan_v1_dense-alpha": Variant(
        "hunyuan_v1_dense", LM,
        {
            **UNPADDED, "attention_bias": True, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "alpha": 10.0, "factor": 1.0},
        },
        (17, 80),
    ),
    "ministral3": Variant(
        "ministral3", LM,
        {**LLAMA, "sliding_window": 7, "rope_parameters": {**FULL, **SLOWER, "llama_4_scaling_beta": 0.3}},
    ),
    "nanochat": Variant("nanochat", LM, UNPADDED),
    "nanochat-biases": Variant("nanochat", LM, {**UNPADDED, "attention_bias": True, "tie_word_embeddings": True}),
    "vaultgemma": Variant("vaultgemma", LM, {**UNPADDED, **TURNS, "num_hidden_layers": 3}),
    "vaultgemma-biases": Variant(
        "vaultgemma", LM, {**UNPADDED, **TURNS, "attention_bias": True, "tie_word_embeddings": False}
    ),
    "hyperclovax": Variant("hyperclovax", LM, {**LLAMA, **MULTIPLIERS}),
    "hyperclovax-pre": Variant(
        "hyperclovax", LM,
        {**LLAMA, **BIASES, "use_post_norm": False, "logits_scaling": 1.5, "tie_word_embeddings": True},
    ),
    "internlm3": Variant("internlm3", LM, UNPADDED),
    "internlm3-biases": Variant("internlm3", LM, {**UNPADDED, **BIASES, "tie_word_embeddings": True}),
    "iquestcoder": Variant("iquestcoder", LM, LLAMA),
    "apertus": Variant("apertus", LM, {**UNPADDED, "rope_parameters": FULL}),
    "apertus-plain": Variant(
        "apertus", LM,
        {
            **UNPADDED, "rope_parameters": FULL, "hidden_act": "relu2", "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "cohere-normed": Variant("cohere", LM, {**COHERE, "use_qk_norm": True}),
}  # fmt: skip
