"""More encoders: the stock configs of those whose tables are relatives of BERT's, and of ModernBERT's kind."""

from __future__ import annotations

from variants import BERT, BIASES, LM, MLM, PRETRAINING, TWO_ROPES, Variant
from variants import _heads as heads
from variants import _only as only

MPNET = {k: v for k, v in BERT.items() if k != "type_vocab_size"}
MODERN = dict(
    vocab_size=41, hidden_size=12, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=64, norm_eps=0.05, local_attention=8,
    pad_token_id=0, eos_token_id=2, bos_token_id=1, cls_token_id=1, sep_token_id=2,
)  # fmt: skip
DEBERTA = {k: v for k, v in BERT.items() if k != "type_vocab_size"} | dict(
    relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=6, max_relative_positions=40,
    share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False,
)  # fmt: skip

ENCODER_VARIANTS: dict[str, Variant] = {
    "roformer-mlm": Variant("roformer", MLM, BERT),
    "roformer-mlm-projected": Variant("roformer", MLM, {**BERT, "embedding_size": 10, "rotary_value": True}),
    "roformer-mlm-untied": Variant("roformer", MLM, {**BERT, "tie_word_embeddings": False}),
    "mpnet-mlm": Variant("mpnet", MLM, MPNET),
    "albert-mlm": Variant("albert", MLM, {**BERT, "embedding_size": 10, "num_hidden_groups": 2}),
    "albert-mlm-shared": Variant("albert", MLM, {**BERT, "embedding_size": 12, "num_hidden_layers": 3}),
    "layoutlm-mlm": Variant("layoutlm", MLM, {**BERT, "max_2d_position_embeddings": 20}),
    "ernie-mlm-tasks": Variant("ernie", MLM, {**BERT, "use_task_id": True, "task_type_vocab_size": 4}),
    "big_bird-mlm": Variant("big_bird", MLM, {**BERT, "attention_type": "original_full"}),
    "big_bird-mlm-untied": Variant(
        "big_bird", MLM, {**BERT, "attention_type": "original_full", "use_bias": False, "tie_word_embeddings": False}
    ),
    "longformer-mlm": Variant("longformer", MLM, {**BERT, "attention_window": [4, 8]}),
    "roberta-prelayernorm-mlm": Variant("roberta-prelayernorm", MLM, BERT),
    "xlm-roberta-xl-mlm": Variant("xlm-roberta-xl", MLM, BERT),
    "megatron-bert-mlm": Variant("megatron-bert", MLM, BERT),
    "rembert-mlm": Variant("rembert", MLM, {**BERT, "input_embedding_size": 10, "output_embedding_size": 14}),
    "modernbert-mlm": Variant("modernbert", MLM, {**MODERN, "num_hidden_layers": 4}),
    "modernbert-mlm-untied": Variant(
        "modernbert", MLM,
        {**MODERN, **BIASES, "norm_bias": True, "classifier_bias": True, "decoder_bias": False,
         "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": TWO_ROPES,
         "tie_word_embeddings": False},
    ),
    "modernbert-decoder": Variant(
        "modernbert-decoder", LM, {**MODERN, "num_hidden_layers": 4, "decoder_bias": False}
    ),
    "modernbert-decoder-biases": Variant(
        "modernbert-decoder", LM,
        {**MODERN, **BIASES, "norm_bias": True, "classifier_bias": True, "tie_word_embeddings": False},
    ),
    "deberta-v2-mlm": Variant("deberta-v2", MLM, DEBERTA),
    "deberta-v2-mlm-untied": Variant(
        "deberta-v2", MLM,
        {**DEBERTA, "share_att_key": False, "norm_rel_ebd": "none", "position_biased_input": True,
         "tie_word_embeddings": False},
    ),
    **only(heads("roformer", {**BERT, "embedding_size": 10}), "base", "sequence"),
    **only(heads("mpnet", MPNET), "base"),
    **only(heads("deberta-v2", DEBERTA), "sequence", "qa"),
    **only(heads("modernbert", {**MODERN, "classifier_pooling": "mean"}), "base", "sequence"),
    **only(heads("layoutlm", {**BERT, "max_2d_position_embeddings": 20}), "token"),
    **only(heads("big_bird", {**BERT, "attention_type": "original_full", "intermediate_size": 26}), "sequence", "qa"),
    **only(heads("longformer", {**BERT, "attention_window": 4}), "sequence"),
    **only(heads("xlm-roberta-xl", BERT), "token"),
    **only(heads("megatron-bert", BERT, pretraining=PRETRAINING), "base", "pretraining", "qa"),
    **only(heads("albert", {**BERT, "embedding_size": 10}, pretraining=PRETRAINING), "pretraining", "sequence"),
}  # fmt: skip

SHARING = ("albert-mlm-shared", "albert-pretraining", "albert-sequence")
"""Of these, layers share their weights, and none is inserted."""
