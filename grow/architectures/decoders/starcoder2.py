"""StarCoder2: Mistral with LayerNorms, biases and no gate in the FFN."""

from grow.architectures.decoders.llama import LAYERNORM, NORM_BIASES, O_BIAS, QKV_BIAS, block, rms_decoder, size

FFN = """
model.layers.{layers}.mlp.c_fc.weight                     ffn <- hidden
model.layers.{layers}.mlp.c_fc.bias                       ffn <-                              ? use_bias
model.layers.{layers}.mlp.c_proj.weight                   hidden <- ffn
model.layers.{layers}.mlp.c_proj.bias                     hidden <-                           ? use_bias
"""

STARCODER2 = rms_decoder(
    "starcoder2",
    table=block(FFN)
    + NORM_BIASES
    + QKV_BIAS.replace("{when}", "use_bias")
    + O_BIAS.replace("attention_bias", "use_bias"),
    **LAYERNORM,
    aliases=(),
    eps="norm_epsilon",
    summary="StarCoder2",
    harmless={"sliding_window"},
    nulls={},
    defaults={
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    sizes={
        "starcoder2-3b": size(3072, 24, 2, 12288, 30),
        "starcoder2-7b": size(4608, 36, 4, 18432, 32),
        "starcoder2-15b": size(6144, 48, 4, 24576, 40),
    },
)
