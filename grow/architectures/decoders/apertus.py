"""Apertus: Qwen3's attention, no gate in the FFN, and an activation with numbers of its own in each layer."""

from grow.architectures.decoders.llama import (
    ATTENTION,
    EMBEDDING,
    HEADS,
    O_BIAS,
    QKV_BIAS,
    UNGATED,
    rms_decoder,
    size,
)
from grow.architectures.decoders.qwen3 import QK_NORM
from grow.architectures.facts import Attention

NORMS = """
model.layers.{layers}.attention_layernorm.weight          hidden *
model.layers.{layers}.feedforward_layernorm.weight        hidden *
"""
# the same function of every unit, so units stay apart
ACTIVATION = """
model.layers.{layers}.mlp.act_fn.alpha_p                  1 *       ? hidden_act=='xielu'
model.layers.{layers}.mlp.act_fn.alpha_n                  1 *       ? hidden_act=='xielu'
model.layers.{layers}.mlp.act_fn.beta                     () *      ? hidden_act=='xielu'
model.layers.{layers}.mlp.act_fn.eps                      () *      ? hidden_act=='xielu'
"""
BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS

APERTUS = rms_decoder(
    "apertus",
    table=EMBEDDING + NORMS + ATTENTION + QK_NORM + BIASES + UNGATED + ACTIVATION + HEADS,
    attention=Attention(rope="half"),
    summary="Apertus",
    needs=("rope_parameters|rope_scaling",),
    defaults={"max_position_embeddings": 65536, "hidden_act": "xielu"},
    default_theta=1.2e7,
    sizes={"Apertus-8B": size(4096, 32, 8, 21504, 32)},
)
