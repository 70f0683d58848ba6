"""nanochat: norms without gains, one more behind the embedding, no gate, and norms of q and k behind the rotation."""

from dataclasses import replace

from grow.architectures.decoders.llama import EMBEDDING, O_BIAS, QKV_BIAS, TIE, rms_decoder, size
from grow.architectures.decoders.olmo import HEAD
from grow.architectures.decoders.olmo2 import ATTENTION
from grow.architectures.facts import Norm, Refusal

FFN = """
model.layers.{layers}.mlp.fc1.weight                        ffn <- hidden.raw
model.layers.{layers}.mlp.fc2.weight                        hidden <- ffn
"""

NANOCHAT = rms_decoder(
    "nanochat",
    class_prefix="NanoChat",
    table=EMBEDDING + ATTENTION + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + FFN + HEAD,
    norm=Norm("rms", affine="never"),
    tie=replace(TIE, norms=(), norms_when="never"),
    aliases=(),
    summary="nanochat",
    refusals=(Refusal("head_dim", "norms of q and k without a gain make the scores of a longer head larger"),),
    harmless={"final_logit_softcapping"},
    sizes={"nanochat-d32": size(2048, 16, 16, 8192, 32)},
)
