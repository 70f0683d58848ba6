"""OLMo: Llama with LayerNorms that have no gain and no bias, so what reads makes up for its size."""

from dataclasses import replace

from grow.architectures.decoders.llama import EMBEDDING, O_BIAS, QKV_BIAS, TIE, rms_decoder, size
from grow.architectures.decoders.olmo2 import ATTENTION, FFN
from grow.architectures.facts import Norm

HEAD = """
lm_head.weight                                              vocab <- hidden.raw  ? ForCausalLM not tie_word_embeddings
"""

OLMO = rms_decoder(
    "olmo",
    table=EMBEDDING + ATTENTION + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + FFN + HEAD,
    norm=Norm("layernorm", affine="never"),
    tie=replace(TIE, norms=(), norms_when="never"),
    eps=1e-5,
    aliases=(),
    summary="OLMo without clip_qkv",
    # clipped values are not a linear function of what is copied or scaled
    fixed={"clip_qkv": (None,)},
    sizes={
        "OLMo-1B": size(2048, 16, 16, 8192, 16),
        "OLMo-7B": size(4096, 32, 32, 11008, 32),
    },
)
