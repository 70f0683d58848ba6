"""The names that configs have for the sizes of axes, of known families or not, and small sizes to try them with."""

SIZES = {
    "hidden": 48, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 28, "layers": 2, "vocab": 41, "positions": 64,
    "types": 3, "embed": 20, "experts": 4, "expert_ffn": 14, "shared_ffn": 22,
}  # fmt: skip
"""Distinct, and divisible where stock configs ask for it; hidden / heads is 8, a head of its own 16."""

NAMES = {
    "hidden": ("d_model", "n_embd", "embed_dim", "dim", "hidden_dim", "model_dim"),
    "heads": ("n_head", "n_heads", "num_heads", "num_attention_heads"),
    "kv_heads": ("num_kv_heads", "n_kv_heads", "n_head_kv", "multi_query_group_num", "num_key_value_heads"),
    "head_dim": ("head_dim", "d_kv", "d_head", "attention_head_dim", "kv_channels"),
    "ffn": ("n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "intermediate_size", "inner_dim", "d_inner"),
    "layers": ("n_layer", "n_layers", "num_layers", "num_hidden_layers"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "expert_ffn": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "shared_ffn": (
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "positions": ("n_positions", "max_seq_len", "seq_length", "max_position_embeddings", "n_ctx", "max_seq_length"),
}
"""Names of an axis that no family has, the likeliest first; behaviour decides, a name only says what is tried."""

TOP_K_FIELDS = (
    "num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "moe_top_k", "top_k_experts",
)  # fmt: skip
"""How many experts a token gets."""

FFNS = ("ffn", "expert_ffn", "shared_ffn")
"""Axes of units of an FFN: of a dense one, of an expert, of the shared expert."""
DOWN = ("down", "output", "w2", "wo")
"""What is in the names of matrices of experts that write the residual stream."""
