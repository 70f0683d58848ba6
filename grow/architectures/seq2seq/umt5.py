"""UMT5: mT5 whose every layer has a bias for each distance, and whose decoder's outputs are scaled, as T5's are."""

from grow.architectures.family import Family
from grow.architectures.seq2seq.mt5 import DEFAULTS
from grow.architectures.seq2seq.t5 import FACTS, GATED_SIZES, SCALED_HEAD, table

UMT5 = Family(
    model_type="umt5",
    class_prefix="UMT5",
    table=table("always", SCALED_HEAD),
    defaults=DEFAULTS,
    summary="UMT5",
    sizes={f"umt5-{name}": GATED_SIZES[name] for name in ("small", "base", "xl", "xxl")},
    **FACTS,
)
