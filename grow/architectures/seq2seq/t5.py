"""T5, T5 v1.1, FLAN-T5: RMSNorm before each branch, unscaled scores, a bias for each distance in the first layers

The stock config always ties head and embedding; where a file has both, its values keep them apart.
"""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Attention, FollowsFrom, Norm, Stack, Tie
from grow.architectures.family import Family

ONE = "encoder.block.{encoder_layers}.layer"
OTHER = "decoder.block.{decoder_layers}.layer"
DECODES = "not EncoderModel|ForTokenClassification"


def attention(module: str, when: str = "always") -> str:
    return f"""
{module}.q.weight     (heads head_dim.q) <- hidden   ? {when}
{module}.k.weight     (heads head_dim.k) <- hidden   ? {when}
{module}.v.weight     (heads head_dim.v) <- hidden   ? {when}
{module}.o.weight     hidden <- (heads head_dim.v)   ? {when}
"""


def ffn(layer: str, when: str = "always") -> str:
    return f"""
{layer}.DenseReluDense.wi.weight      ffn <- hidden   ? {when} not is_gated_act
{layer}.DenseReluDense.wi_0.weight    ffn <- hidden   ? {when} is_gated_act
{layer}.DenseReluDense.wi_1.weight    ffn <- hidden   ? {when} is_gated_act
{layer}.DenseReluDense.wo.weight      hidden <- ffn   ? {when}
{layer}.layer_norm.weight             hidden *        ? {when}
"""


def table(biased: str, head: str) -> str:
    """The table of a family of T5's kind.

    biased  condition under which a layer has a bias for each distance
    head    its rows
    """
    return (
        "shared.weight    vocab -> hidden"
        + attention(f"{ONE}.0.SelfAttention")
        + f"""
{ONE}.0.SelfAttention.relative_attention_bias.weight    buckets -> heads   ? {biased}
{ONE}.0.layer_norm.weight                               hidden *
"""
        + ffn(f"{ONE}.1")
        + "encoder.final_layer_norm.weight    hidden *"
        + attention(f"{OTHER}.0.SelfAttention", DECODES)
        + f"""
{OTHER}.0.SelfAttention.relative_attention_bias.weight    buckets -> heads   ? {DECODES} {biased}
{OTHER}.0.layer_norm.weight                               hidden *           ? {DECODES}
"""
        + attention(f"{OTHER}.1.EncDecAttention", DECODES)
        + f"{OTHER}.1.layer_norm.weight       hidden *    ? {DECODES}"
        + ffn(f"{OTHER}.2", DECODES)
        + f"decoder.final_layer_norm.weight   hidden *    ? {DECODES}\n"
        + head
        + """
qa_outputs.weight    labels <- hidden   ? ForQuestionAnswering
qa_outputs.bias      labels <-          ? ForQuestionAnswering
classifier.weight    labels <- hidden   ? ForTokenClassification
classifier.bias      labels <-          ? ForTokenClassification
"""
    )


HEAD = """
lm_head.weight    vocab <- hidden   ? ForConditionalGeneration apart
"""
SCALED_HEAD = """
lm_head.weight    vocab <- hidden ÷ √hidden   ? ForConditionalGeneration apart
"""

ACTS = ("relu", "gelu", "gelu_new", "silu")
FACTS: dict[str, Any] = dict(
    prefix="",
    aliases=("transformer.",),
    axes={
        "hidden": "d_model",
        "heads": "num_heads",
        "head_dim": "d_kv",
        "ffn": "d_ff",
        "encoder_layers": "num_layers",
        "decoder_layers": "num_decoder_layers",
        "vocab": "vocab_size",
        "buckets": "relative_attention_num_buckets",
    },
    stacks=(
        Stack("encoder_layers", "encoder", final="encoder.final_layer_norm.weight"),
        Stack("decoder_layers", "decoder", final="decoder.final_layer_norm.weight", attends=2, within="encoder_layers"),
    ),
    norm=Norm("rms"),
    eps="layer_norm_epsilon",
    attention=Attention(scaled="never"),
    layer_lists=(),
    tie=Tie(
        "shared.weight",
        "lm_head.weight",
        ("decoder.final_layer_norm.weight",),
        when="ForConditionalGeneration not apart",
    ),
    again={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    stale=("EncDecAttention.relative_attention_bias.weight",),  # what the first releases stored and nobody read
    synonyms={
        "d_model": "hidden_size",
        "num_heads": "num_attention_heads",
        "num_layers": "num_hidden_layers",
        "d_kv": "head_dim",
    },
    fixed={
        "feed_forward_proj": (*ACTS, "gated-relu", "gated-gelu", "gated-silu"),
        "dense_act_fn": ELEMENTWISE,
        "is_decoder": (False,),
    },
    harmless=frozenset("initializer_factor relative_attention_max_distance n_positions".split()),
)


def defaults(feed_forward: str, **sizes: int) -> dict[str, Any]:
    """Those of a stock config whose FFN is of this kind."""
    return {
        "relative_attention_num_buckets": 32,
        "num_decoder_layers": "=num_layers",
        "tie_word_embeddings": True,
        "feed_forward_proj": feed_forward,
        "is_gated_act": FollowsFrom("feed_forward_proj", dict.fromkeys(ACTS, False), True),
        **sizes,
    }


def size(hidden: int, head_dim: int, ffn: int, layers: int, heads: int) -> dict[str, int]:
    """A size of T5's kind as config fields; encoder and decoder have one depth."""
    names = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
    return dict(zip(names, (hidden, head_dim, ffn, layers, layers, heads)))


GATED_SIZES = {
    "small": size(512, 64, 1024, 8, 6),
    "base": size(768, 64, 2048, 12, 12),
    "large": size(1024, 64, 2816, 24, 16),
    "xl": size(2048, 64, 5120, 24, 32),
    "xxl": size(4096, 64, 10240, 24, 64),
}

T5 = Family(
    model_type="t5",
    class_prefix="T5",
    table=table(
        "first",
        """
lm_head.weight    vocab <- hidden ÷ √hidden   ? ForConditionalGeneration apart scale_decoder_outputs
lm_head.weight    vocab <- hidden             ? ForConditionalGeneration apart not scale_decoder_outputs
""",
    ),
    defaults={
        **defaults("relu", d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, vocab_size=32128),
        "scale_decoder_outputs": "=tie_word_embeddings",
        "layer_norm_epsilon": 1e-6,
    },
    summary="T5, T5 v1.1, FLAN-T5",
    sizes={
        "t5-small": size(512, 64, 2048, 6, 8),
        "t5-base": size(768, 64, 3072, 12, 12),
        "t5-large": size(1024, 64, 4096, 24, 16),
        "t5-3b": size(1024, 128, 16384, 24, 32),
        "t5-11b": size(1024, 128, 65536, 24, 128),
        **{f"t5-v1_1-{name}": fields for name, fields in GATED_SIZES.items()},
        **{f"flan-t5-{name}": fields for name, fields in GATED_SIZES.items()},
    },
    **FACTS,
)
