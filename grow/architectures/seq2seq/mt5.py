"""mT5: T5 v1.1 with a vocabulary of a hundred languages, whose decoder's outputs are never scaled."""

from grow.architectures.family import Family
from grow.architectures.seq2seq.t5 import FACTS, GATED_SIZES, HEAD, defaults, table

DEFAULTS = {
    **defaults("gated-gelu", d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6, vocab_size=250112),
    "layer_norm_epsilon": 1e-6,
}

MT5 = Family(
    model_type="mt5",
    class_prefix="MT5",
    table=table("first", HEAD),
    defaults=DEFAULTS,
    summary="mT5",
    sizes={f"mt5-{name}": fields for name, fields in GATED_SIZES.items()},
    **FACTS,
)
