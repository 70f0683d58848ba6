"""Code World Model: Llama without biases in attention, with a kind of attention for each layer."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, rms_decoder, size

CWM = rms_decoder(
    "cwm",
    table=BLOCK + MLP_BIAS,
    aliases=(),
    divides=True,
    summary="CWM",
    needs=("layer_types", "sliding_window", "rope_parameters|rope_scaling"),
    harmless={"sliding_window", "layer_types"},
    fixed={"pretraining_tp": (1, None)},
    nulls={},
    defaults={"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072},
    default_theta=1e6,
    sizes={"CWM-32B": size(6144, 48, 8, 21504, 64)},
)
