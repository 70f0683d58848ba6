"""Falcon: RoPE or ALiBi, one, two or sequential LayerNorms, and qkv rows fused in three ways."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.decoders.llama import ROPE_FIELDS
from grow.architectures.facts import Attention, Refusal

ROWS = {
    "new_decoder_architecture": "(kv_heads: kv_heads q_per_kv head_dim.q | kv_heads head_dim.k | kv_heads head_dim.v)",
    "multi_query not new_decoder_architecture": "(heads head_dim.q | head_dim.k | head_dim.v)",
    "not multi_query not new_decoder_architecture": "(heads (head_dim.q | head_dim.k | head_dim.v))",
}
QKV = "".join(
    f"""
transformer.h.{{layers}}.self_attention.query_key_value.weight  {rows} <- hidden  ? {when}
transformer.h.{{layers}}.self_attention.query_key_value.bias    {rows} <-         ? bias {when}
"""
    for when, rows in ROWS.items()
)
TWO_NORMS = "new_decoder_architecture parallel_attn num_ln_in_parallel_attn!=1"
NORMS = f"""
transformer.h.{{layers}}.ln_attn.weight                      hidden *          ? {TWO_NORMS}
transformer.h.{{layers}}.ln_attn.bias                        hidden +          ? {TWO_NORMS}
transformer.h.{{layers}}.ln_mlp.weight                       hidden *          ? {TWO_NORMS}
transformer.h.{{layers}}.ln_mlp.bias                         hidden +          ? {TWO_NORMS}
transformer.h.{{layers}}.input_layernorm.weight              hidden *          ? not new_decoder_architecture
transformer.h.{{layers}}.input_layernorm.bias                hidden +          ? not new_decoder_architecture
transformer.h.{{layers}}.input_layernorm.weight  hidden *  ? new_decoder_architecture num_ln_in_parallel_attn==1
transformer.h.{{layers}}.input_layernorm.bias    hidden +  ? new_decoder_architecture num_ln_in_parallel_attn==1
transformer.h.{{layers}}.post_attention_layernorm.weight     hidden *          ? not parallel_attn
transformer.h.{{layers}}.post_attention_layernorm.bias       hidden +          ? not parallel_attn
"""
REST = """
transformer.word_embeddings.weight                          vocab -> hidden
transformer.h.{layers}.self_attention.dense.weight          hidden <- (heads head_dim.v)
transformer.h.{layers}.self_attention.dense.bias            hidden <-         ? bias
transformer.h.{layers}.mlp.dense_h_to_4h.weight             ffn <- hidden
transformer.h.{layers}.mlp.dense_h_to_4h.bias               ffn <-            ? bias
transformer.h.{layers}.mlp.dense_4h_to_h.weight             hidden <- ffn
transformer.h.{layers}.mlp.dense_4h_to_h.bias               hidden <-         ? bias
transformer.ln_f.weight                                     hidden *
transformer.ln_f.bias                                       hidden +
lm_head.weight                                              vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                                labels <- hidden  ? ForSequenceClassification
classifier.weight                                           labels <- hidden  ? ForTokenClassification
classifier.bias                                             labels <-         ? ForTokenClassification
qa_outputs.weight                                           labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                             labels <-         ? ForQuestionAnswering
"""


def size(hidden: int, heads: int, layers: int, **other: int) -> dict[str, int]:
    """A size as config fields; the FFN has 4 hidden units."""
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "ffn_hidden_size": 4 * hidden,
        "num_hidden_layers": layers,
        **other,
    }


FALCON = replace(
    GPT2,
    model_type="falcon",
    class_prefix="Falcon",
    table=REST + NORMS + QKV,
    axes={
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_kv_heads",
        "ffn": "ffn_hidden_size",
        "layers": "num_hidden_layers",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    },
    computed={
        "kv_heads": "1 ? multi_query not new_decoder_architecture; heads ? not multi_query not new_decoder_architecture"
    },
    refusals=(
        Refusal(
            "head_dim",
            "stock code divides ALiBi by √head_dim, too, and no weight undoes it",
            when="alibi",
        ),
    ),
    attention=Attention(rope="half", alibi="alibi"),
    tie=replace(TIE, table="transformer.word_embeddings.weight", when="tie_word_embeddings ForCausalLM"),
    synonyms={},
    defaults={
        "tie_word_embeddings": True,
        "num_kv_heads": "=num_attention_heads",
        "max_position_embeddings": 2048,
        "alibi": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
    },
    reads=ROPE_FIELDS | {"ffn_hidden_size", "num_ln_in_parallel_attn"},
    harmless=frozenset({"layer_norm_epsilon"}),
    fixed={
        "activation": GPT2.fixed["activation_function"],
        "partial_rotary_factor": (None, 1.0),
        "num_ln_in_parallel_attn": (None, 1, 2),
    },
    stale=(),
    summary="Falcon",
    sizes={
        "falcon-rw-1b": size(2048, 32, 24),
        "falcon-7b": size(4544, 71, 32),
        "falcon-11b": size(4096, 32, 60, num_kv_heads=8),
        "falcon-40b": size(8192, 128, 60, num_kv_heads=8),
        "falcon-180b": size(14848, 232, 80, num_kv_heads=8),
    },
)
