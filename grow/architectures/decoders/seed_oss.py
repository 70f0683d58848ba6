"""Seed-OSS: Llama with biases on q, k and v, one of its own on o, and its own head_dim."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, O_BIAS, QKV_BIAS, rms_decoder, size

BIASES = QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS.replace("attention_bias", "attention_out_bias")

SEED_OSS = rms_decoder(
    "seed_oss",
    class_prefix="SeedOss",
    table=BLOCK + BIASES + MLP_BIAS,
    summary="Seed-OSS",
    fixed={"pretraining_tp": (1, None)},
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "attention_bias": True,
        "attention_out_bias": False,
    },
    sizes={"Seed-OSS-36B": size(5120, 80, 8, 27648, 64, head_dim=128)},
)
