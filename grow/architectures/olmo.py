"""OLMo: Llama with LayerNorms that have no gain and no bias, so hidden grows by whole copies."""

from dataclasses import replace

from grow.architectures.family import Norm
from grow.architectures.llama import ATTENTION, EMBEDDING, FFN, O_BIAS, OUTPUTS, QKV_BIAS, TIE, rms_decoder, size

OLMO = rms_decoder(
    "olmo",
    table=EMBEDDING + ATTENTION + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + FFN + OUTPUTS,
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
