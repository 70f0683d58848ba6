"""OLMo 3: OLMo 2 with layers that take turns, and a rotation for each kind of them."""

from grow.architectures.decoders.gemma2 import TURNS
from grow.architectures.decoders.llama import rms_decoder, size
from grow.architectures.decoders.olmo2 import FACTS, FFN, behind
from grow.architectures.facts import RopeKind
from grow.architectures.layer_lists import Period

OLMO3 = rms_decoder(
    "olmo3",
    table=behind(FFN),
    summary="OLMo 3",
    **FACTS,
    layer_lists=(Period("layer_types", TURNS, every=4),),
    # older configs have one θ, which stock code takes for full attention alone
    rope_kinds={"full_attention": RopeKind(5e5), "sliding_attention": RopeKind(5e5, "", scaled=False)},
    harmless={"sliding_window"},
    sizes={"Olmo-3-7B": size(4096, 32, 32, 11008, 32)},
)
