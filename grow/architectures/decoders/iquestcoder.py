"""IQuest-Coder: a config for Llama's classes."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, O_BIAS, QKV_BIAS, rms_decoder, size

IQUESTCODER = rms_decoder(
    "iquestcoder",
    class_prefix="Llama",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + MLP_BIAS,
    divides=True,
    summary="IQuest-Coder",
    fixed={"clip_qkv": (None,), "use_sliding_window": (False, None)},
    defaults={"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072},
    sizes={"IQuest-Coder-V1-40B": size(5120, 40, 8, 27648, 80, head_dim=128)},
)
