"""Youtu-LLM: Llama with multi-head latent attention, whose heads read what q and kv are compressed to."""

from typing import Any

from grow.architectures.decoders.llama import ATTENTION_NORM, EMBEDDING, FFN, HEADS, INPUT_NORM, rms_decoder
from grow.architectures.facts import Attention

# Of all families with this attention. A head of q and of k has `nope` coordinates that do not turn, and `head_dim` that
# do; all heads of k share the latter. The norms on the ranks have an eps of their own, which no growth touches.
LATENT = """
model.layers.{layers}.self_attn.q_proj.weight             (heads (nope.q | head_dim.q)) <- hidden   ? q_lora_rank==none
model.layers.{layers}.self_attn.q_a_proj.weight           q_rank <- hidden                          ? q_lora_rank!=none
model.layers.{layers}.self_attn.q_a_layernorm.weight      q_rank *                                  ? q_lora_rank!=none
model.layers.{layers}.self_attn.q_b_proj.weight           (heads (nope.q | head_dim.q)) <- q_rank   ? q_lora_rank!=none
model.layers.{layers}.self_attn.kv_a_proj_with_mqa.weight (kv_rank | head_dim.k) <- hidden
model.layers.{layers}.self_attn.kv_a_layernorm.weight     kv_rank *
model.layers.{layers}.self_attn.kv_b_proj.weight          (heads (nope.k | v_dim)) <- kv_rank
model.layers.{layers}.self_attn.o_proj.weight             hidden <- (heads v_dim)
model.layers.{layers}.self_attn.q_a_proj.bias             q_rank <-                  ? attention_bias q_lora_rank!=none
model.layers.{layers}.self_attn.kv_a_proj_with_mqa.bias   (kv_rank | head_dim.k) <-  ? attention_bias
model.layers.{layers}.self_attn.o_proj.bias               hidden <-                  ? attention_bias
"""


def latent_block(ffn: str = FFN) -> str:
    """The table of a decoder that is Llama's but for attention, and maybe its FFN."""
    return EMBEDDING + INPUT_NORM + LATENT + ATTENTION_NORM + ffn + HEADS


RANKS = {
    "head_dim": "qk_rope_head_dim",
    "nope": "qk_nope_head_dim",
    "v_dim": "v_head_dim",
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
}
REPEATED = {"qk_head_dim": ("nope", "head_dim"), "head_dim": ("head_dim",)}
FACTS: dict[str, Any] = {
    "attention": Attention(
        rope="pairs", parts=("nope",), repeated=REPEATED, values="v_dim", cached=("kv_rank", "head_dim")
    ),
    "aliases": (),
    "follows": {"kv_heads": "heads"},
    "fixed": {"rope_interleave": (True,)},
    "nulls": {"num_key_value_heads": "=num_attention_heads", "q_lora_rank": None},
}
DEFAULTS = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

YOUTU = rms_decoder(
    "youtu",
    table=latent_block(),
    **FACTS,
    summary="Youtu-LLM 2B",
    axes=RANKS,
    harmless={"embedding_initializer_range"},
    defaults={"num_key_value_heads": 16, "max_position_embeddings": 131072, "tie_word_embeddings": True, **DEFAULTS},
    sizes={
        "Youtu-LLM-2B": {
            "hidden_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 6144,
            "num_hidden_layers": 32,
            "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
        },
    },
)
