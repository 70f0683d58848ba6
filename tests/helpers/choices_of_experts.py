"""Stock configs of families whose choice of experts has a bias of its own, and of those with latent attention."""

from __future__ import annotations

from typing import Any

Row = tuple[str, str, dict[str, Any]]
LM = "AutoModelForCausalLM"


def choices(llama: dict, no_padding: dict, yarn: dict) -> dict[str, Row]:
    """Variant -> (model type, auto class, fields), on the base of Llama's fields."""
    local = {**llama, "num_local_experts": 4, "num_experts_per_tok": 2}
    long = {
        "rope_type": "longrope", "rope_theta": 500.0, "original_max_position_embeddings": 32, "short_mscale": 1.1,
        "long_mscale": 1.3, "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 1.5, 2.5, 4.0],
    }  # fmt: skip
    gpt_oss = {**local, "num_hidden_layers": 3, "sliding_window": 5, "swiglu_limit": 1.5, "rope_parameters": yarn}
    unpadded = {**llama, **no_padding, "bos_token_id": 1}
    part = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    mixed = {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    chosen = {
        **llama, **no_padding, "num_hidden_layers": 3, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 14, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 1.7,
    }  # fmt: skip
    listed = {k: v for k, v in chosen.items() if k != "first_k_dense_replace"}
    latent = {k: v for k, v in llama.items() if k != "head_dim"} | {
        "num_key_value_heads": 6, "q_lora_rank": 10, "kv_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
        "v_head_dim": 7, **no_padding, "bos_token_id": 1,
    }  # fmt: skip

    def sparse(fields: dict) -> dict:
        """What of the fields is about experts."""
        return {k: v for k, v in fields.items() if k not in llama} | {"num_hidden_layers": 3}

    exaone = {k: v for k, v in chosen.items() if not k.startswith("n_")} | {
        **mixed, "num_experts": 4, "num_shared_experts": 2, "norm_topk_prob": True,
    }  # fmt: skip

    return {
        "gpt_oss": ("gpt_oss", LM, gpt_oss),
        "gpt_oss-plain": ("gpt_oss", LM, {**gpt_oss, "attention_bias": False, "tie_word_embeddings": True}),
        "phimoe": ("phimoe", LM, {**local, **no_padding, "router_jitter_noise": 0.3}),
        "phimoe-tied": (
            "phimoe", LM,
            {**local, **no_padding, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": long,
             "router_jitter_noise": 0.4, "lm_head_bias": True},
            (17, 50),
        ),
        "glm4_moe": ("glm4_moe", LM, {**chosen, "use_qk_norm": True}),
        "glm4_moe-groups": (
            "glm4_moe", LM,
            {**chosen, "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "attention_bias": True,
             "tie_word_embeddings": True, "norm_topk_prob": False, "first_k_dense_replace": 0},
        ),
        "dots1": ("dots1", LM, {**chosen, **mixed, "norm_topk_prob": True}),
        "dots1-plain": (
            "dots1", LM,
            {**chosen, "attention_bias": True, "tie_word_embeddings": True, "sliding_window": 5,
             "max_window_layers": 2},
        ),
        "exaone_moe": ("exaone_moe", LM, {**exaone, "mlp_layer_types": ["sparse", "dense", "sparse"]}),
        "exaone_moe-tied": ("exaone_moe", LM, {**exaone, "tie_word_embeddings": True, "norm_topk_prob": False}),
        "minimax_m2": ("minimax_m2", LM, {**local, **no_padding, "rope_parameters": part}),
        "minimax_m2-tied": ("minimax_m2", LM, {**local, **no_padding, "tie_word_embeddings": True}),
        # stock code zeroes the row of a padding token when it loads a file
        "youtu": ("youtu", LM, {**latent, "attention_bias": True, "tie_word_embeddings": False, "pad_token_id": None}),
        "youtu-direct": ("youtu", LM, {**latent, "q_lora_rank": None}),
        "deepseek_v3": ("deepseek_v3", LM, {**latent, **sparse(chosen), "n_group": 1, "topk_group": 1}),
        "deepseek_v3-groups": (
            "deepseek_v3", LM,
            {**latent, **sparse(chosen), "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "attention_bias": True,
             "tie_word_embeddings": True, "q_lora_rank": None, "rope_parameters": {**yarn, "mscale_all_dim": 0.7}},
        ),
        "deepseek_v2": ("deepseek_v2", LM, {**latent, **sparse(chosen), "mlp_bias": True, "attention_bias": True}),
        "deepseek_v2-groups": (
            "deepseek_v2", LM,
            {**latent, **sparse(chosen), "n_routed_experts": 6, "n_group": 3, "topk_group": 2, "q_lora_rank": None,
             "topk_method": "group_limited_greedy", "first_k_dense_replace": 0, "tie_word_embeddings": True},
        ),
        "glm4_moe_lite": (
            "glm4_moe_lite", LM,
            {**latent, **sparse(listed), "mlp_layer_types": ["sparse", "dense", "sparse"]},
        ),
        "glm4_moe_lite-direct": (
            "glm4_moe_lite", LM,
            {**latent, **sparse(listed), "mlp_layer_types": ["dense", "sparse", "sparse"], "q_lora_rank": None},
        ),
        "hunyuan_v1_moe": ("hunyuan_v1_moe", LM, {**unpadded, "num_experts": 4, "moe_topk": 2}),
    }  # fmt: skip
