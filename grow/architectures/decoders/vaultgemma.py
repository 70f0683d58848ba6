"""VaultGemma: Gemma 2 without the norms behind the branches."""

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.decoders.gemma import DEFAULTS, table
from grow.architectures.decoders.gemma2 import CAPPED, TURNS
from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.facts import Attention
from grow.architectures.layer_lists import Period

NORMS = """
model.layers.{layers}.input_layernorm.weight              hidden 1*
model.layers.{layers}.pre_feedforward_layernorm.weight    hidden 1*
"""

VAULTGEMMA = rms_decoder(
    "vaultgemma",
    class_prefix="VaultGemma",
    table=table(NORMS),
    aliases=(),
    attention=Attention(rope="half", scaled="never"),
    divides=True,
    summary="VaultGemma",
    layer_lists=(Period("layer_types", TURNS, every=2),),
    harmless=CAPPED,
    fixed={"hidden_activation": ELEMENTWISE},
    defaults={**DEFAULTS, "num_key_value_heads": 4},
    nulls={},
    sizes={"stock-config": size(2304, 8, 4, 9216, 26, head_dim=256)},  # its defaults
)
