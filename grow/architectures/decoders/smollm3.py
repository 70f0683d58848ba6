"""SmolLM3: Llama, some of whose layers have no RoPE, or a window.

q and k keep their order within a head, so a head grows in the same way with RoPE and without.
"""

from grow.architectures.decoders.llama import BLOCK, MLP_BIAS, O_BIAS, QKV_BIAS, rms_decoder, size
from grow.architectures.layer_lists import LayerList

SMOLLM3 = rms_decoder(
    "smollm3",
    class_prefix="SmolLM3",
    table=BLOCK + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + MLP_BIAS,
    summary="SmolLM3",
    layer_lists=(LayerList(), LayerList("no_rope_layers", (0, 1), needed=True)),
    harmless={"sliding_window", "use_sliding_window", "no_rope_layer_interval"},
    defaults={"num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True},
    default_theta=2e6,
    sizes={"SmolLM3-3B": size(2048, 16, 4, 11008, 36)},
)
