"""Config fields that belong to no single family.

The families' own fields stand in their tables.
"""

from __future__ import annotations

import re

# Read by no forward pass, or by generation, training and bookkeeping only.
COMMON_FIELDS = frozenset(
    """
    architectures model_type dtype torch_dtype transformers_version use_cache return_dict output_attentions
    output_hidden_states initializer_range id2label label2id num_labels problem_type finetuning_task
    task_specific_params bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id
    decoder_start_token_id bad_words_ids max_length min_length do_sample num_beams temperature top_k top_p
    repetition_penalty chunk_size_feed_forward gradient_checkpointing tokenizer_class prefix torchscript
    _name_or_path _commit_hash _attn_implementation_autoset _num_labels is_encoder_decoder output_past pruned_heads
    tie_weights_ use_bfloat16 unk_token_id license language languages tags transformers.js_config is_decoder
    tie_encoder_decoder
    """.split()
)

TRAINS = re.compile(r".*(dropout|pdrop|layerdrop).*")
"""Fields that act while a model trains and change no output: one rule for all of them."""

# Activations that act on each unit alone; all of them leave unread and copied units independent.
ELEMENTWISE = (
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh",
    "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "mish", "sigmoid", "tanh", "linear", "laplace", "gelu_10",
    "xielu",
)  # fmt: skip

SIZES = re.compile(
    "hidden_size|intermediate_size|vocab_size|head_dim|num_(hidden_)?layers|num_(attention|key_value)_heads|"
    "num_heads|max_position_embeddings|n_(embd|inner|layers?|heads?|positions|ctx)|d_(model|ff|kv)|ffn_dim|"
    "word_embed_proj_dim|moe_intermediate_size|num_experts_per_tok"
)
"""Fields that are a size in whatever model has them, of a known family or not."""

POSITIONS = ("max_position_embeddings", "n_positions")
"""Under which names configs say how many positions a model has, the usual one first."""

OLDER_ROPE = ("rotary_emb_base", "rotary_pct")
"""Under which names older configs say θ and the fraction that turns, see `Family.rope_spelling`."""

FLOAT32_ATTENTION = ("reorder_and_upcast_attn",)
"""Fields under which stock code computes attention weights in float32 and raises in any other dtype; they change
rounding only."""
