"""Configs of small encoders with a decoder, for `variants`."""

T5 = dict(
    vocab_size=41, d_model=12, d_kv=6, d_ff=22, num_layers=2, num_decoder_layers=2, num_heads=3,
    layer_norm_epsilon=0.05, relative_attention_num_buckets=16, relative_attention_max_distance=14,
    decoder_start_token_id=0,
)  # fmt: skip
GATED = {**T5, "num_layers": 3, "feed_forward_proj": "gated-gelu"}
APART = {"tie_word_embeddings": False}  # stock code ties whatever is asked for; `models.make` parts the two
