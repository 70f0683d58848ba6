"""Llama: RMSNorm before each branch, grouped-query attention with RoPE, gated FFN; and rows that others share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Attention, Norm, Tie
from grow.architectures.family import Family

# Shared by all families of this kind; FFN lines differ where there are experts, norm lines where norms do.
EMBEDDING = """
model.embed_tokens.weight                                 vocab -> hidden
"""
INPUT_NORM = """
model.layers.{layers}.input_layernorm.weight              hidden *
"""
ATTENTION = """
model.layers.{layers}.self_attn.q_proj.weight             (kv_heads q_per_kv head_dim.q) <- hidden
model.layers.{layers}.self_attn.k_proj.weight             (kv_heads head_dim.k) <- hidden
model.layers.{layers}.self_attn.v_proj.weight             (kv_heads head_dim.v) <- hidden
model.layers.{layers}.self_attn.o_proj.weight             hidden <- (kv_heads q_per_kv head_dim.v)
"""
ATTENTION_NORM = """
model.layers.{layers}.post_attention_layernorm.weight     hidden *
"""
GATE = """
model.layers.{layers}.mlp.gate_proj.weight                ffn <- hidden
"""
UNGATED = """
model.layers.{layers}.mlp.up_proj.weight                  ffn <- hidden
model.layers.{layers}.mlp.down_proj.weight                hidden <- ffn
"""
FFN = GATE + UNGATED
FINAL_NORM = """
model.norm.weight                                         hidden *
"""
OUTPUTS = """
lm_head.weight                                            vocab <- hidden   ? ForCausalLM not tie_word_embeddings
score.weight                                      labels <- hidden  ? ForSequenceClassification|ForTokenClassification
score.bias                                        labels <-         ? ForTokenClassification
qa_outputs.weight                                         labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                                           labels <-         ? ForQuestionAnswering
"""
HEADS = FINAL_NORM + OUTPUTS


def block(ffn: str = FFN) -> str:
    """The table of a decoder that is Llama's but for its FFN."""
    return EMBEDDING + INPUT_NORM + ATTENTION + ATTENTION_NORM + ffn + HEADS


BLOCK = block()

QKV_BIAS = """
model.layers.{layers}.self_attn.q_proj.bias               (kv_heads q_per_kv head_dim.q) <-   ? {when}
model.layers.{layers}.self_attn.k_proj.bias               (kv_heads head_dim.k) <-            ? {when}
model.layers.{layers}.self_attn.v_proj.bias               (kv_heads head_dim.v) <-            ? {when}
"""

O_BIAS = """
model.layers.{layers}.self_attn.o_proj.bias               hidden <-                           ? attention_bias
"""

UNGATED_BIAS = """
model.layers.{layers}.mlp.up_proj.bias                    ffn <-                              ? mlp_bias
model.layers.{layers}.mlp.down_proj.bias                  hidden <-                           ? mlp_bias
"""

MLP_BIAS = f"""
model.layers.{{layers}}.mlp.gate_proj.bias                ffn <-                              ? mlp_bias
{UNGATED_BIAS}
"""

# of a decoder whose norms are LayerNorms
NORM_BIASES = """
model.layers.{layers}.input_layernorm.bias                hidden +
model.layers.{layers}.post_attention_layernorm.bias       hidden +
model.norm.bias                                           hidden +
"""

AXES = {
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
}

ROPE_FIELDS = frozenset({"rope_parameters", "rope_theta", "rope_scaling"})

TIE = Tie("model.embed_tokens.weight", "lm_head.weight", ("model.norm.weight",), when="tie_word_embeddings ForCausalLM")
LAYERNORM: dict[str, Any] = {
    "norm": Norm("layernorm"),
    "tie": replace(TIE, norms=("model.norm.weight", "model.norm.bias")),
}


def rms_decoder(model_type: str, *, table: str, sizes: Mapping[str, Mapping[str, int]], **facts: Any) -> Family:
    """A family of Llama's kind; `facts` override what differs."""
    defaults = {
        "num_key_value_heads": "=num_attention_heads",
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    } | facts.pop("defaults", {})
    axes = AXES | facts.pop("axes", {})
    if facts.get("derived_head_dim"):
        del axes["head_dim"]
    attention = facts.pop("attention", Attention(rope="half"))
    eps = facts.get("eps", "rms_norm_eps")
    whole = {} if attention.rope == "partial" else {"partial_rotary_factor": (None, 1.0)}
    return Family(
        model_type=model_type,
        table=table,
        prefix="model.",
        aliases=facts.pop("aliases", ("transformer.",)),
        axes=axes,
        norm=facts.pop("norm", Norm("rms")),
        attention=attention,
        tie=facts.pop("tie", TIE),
        sizes=sizes,
        defaults=defaults,
        nulls=facts.pop("nulls", {"num_key_value_heads": "=num_attention_heads"}),
        reads=ROPE_FIELDS | facts.pop("reads", frozenset()),
        harmless=frozenset({*facts.pop("harmless", ()), *(() if isinstance(eps, float) else (eps,))}),
        fixed={"hidden_act": ELEMENTWISE} | whole | facts.pop("fixed", {}),
        stale=(".rotary_emb.inv_freq",),
        **facts,
    )


def size(hidden: int, heads: int, kv_heads: int, ffn: int, layers: int, head_dim: int | None = None) -> dict[str, int]:
    """A size of Llama's kind as config fields."""
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or hidden // heads,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
    }


def derived_size(hidden: int, heads: int, kv_heads: int, ffn: int, layers: int) -> dict[str, int]:
    """The same where head_dim is hidden / heads and no field."""
    return {name: n for name, n in size(hidden, heads, kv_heads, ffn, layers).items() if name != "head_dim"}


LLAMA = rms_decoder(
    "llama",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + MLP_BIAS,
    divides=True,
    summary="Llama 1-3, SmolLM2, TinyLlama, Yi",
    harmless={"is_llama_config", "max_window_layers"},
    fixed={"pretraining_tp": (1, None), "rope_interleaved": (False,)},
    sizes={
        "small": size(128, 4, 2, 384, 6),
        "base": size(256, 8, 4, 768, 6),
        "large": size(512, 16, 8, 1536, 6),
        "SmolLM2-135M": size(576, 9, 3, 1536, 30),
        "SmolLM2-360M": size(960, 15, 5, 2560, 32),
        "SmolLM2-1.7B": size(2048, 32, 32, 8192, 24),
        "TinyLlama-1.1B": size(2048, 32, 4, 5632, 22),
        "Llama-3.2-1B": size(2048, 32, 8, 8192, 16),
        "Llama-3.2-3B": size(3072, 24, 8, 8192, 28),
        "Llama-3.1-8B": size(4096, 32, 8, 14336, 32),
        "Llama-3.1-70B": size(8192, 64, 8, 28672, 80),
    },
)
