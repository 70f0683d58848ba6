"""InternLM 3: a config for Llama's classes, in which one switch is for all biases."""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, O_BIAS, QKV_BIAS, rms_decoder, size

INTERNLM3 = rms_decoder(
    "internlm3",
    class_prefix="Llama",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + MLP_BIAS,
    divides=True,
    summary="InternLM 3",
    synonyms={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
    alike=(("attention_bias", "mlp_bias"),),
    defaults={"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 32768},
    sizes={"internlm3-8b": size(4096, 32, 2, 10240, 48, head_dim=128)},
)
