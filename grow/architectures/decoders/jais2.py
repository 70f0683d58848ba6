"""Jais 2: Llama with LayerNorms, biases everywhere and no gate in the FFN."""

from grow.architectures.decoders.llama import (
    LAYERNORM,
    NORM_BIASES,
    O_BIAS,
    QKV_BIAS,
    UNGATED,
    UNGATED_BIAS,
    block,
    rms_decoder,
    size,
)

JAIS2 = rms_decoder(
    "jais2",
    table=block(UNGATED) + NORM_BIASES + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + UNGATED_BIAS,
    **LAYERNORM,
    aliases=(),
    eps="layer_norm_eps",
    divides=True,
    summary="Jais 2",
    defaults={"max_position_embeddings": 8192, "attention_bias": True, "mlp_bias": True},
    sizes={"Jais-2-8B": size(3328, 26, 26, 26624, 32)},
)
