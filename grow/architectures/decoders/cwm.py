"""Code World Model: Llama without biases in attention, with a kind of attention for each layer."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, rms_decoder, size
from grow.architectures.layer_lists import LayerList

CWM = rms_decoder(
    "cwm",
    table=BLOCK + MLP_BIAS,
    aliases=(),
    divides=True,
    summary="CWM",
    layer_lists=(LayerList(needed=True),),
    needs=("sliding_window", "rope_parameters|rope_scaling"),
    harmless={"sliding_window"},
    fixed={"pretraining_tp": (1, None)},
    nulls={},
    defaults={"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072},
    default_theta=1e6,
    sizes={"CWM-32B": size(6144, 48, 8, 21504, 64)},
)
