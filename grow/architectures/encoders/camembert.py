"""CamemBERT: RoBERTa under another name."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.roberta import relative

CAMEMBERT = relative(
    "camembert",
    summary="CamemBERT",
    sizes={
        "camembert-base": size(768, 12, 3072, 12),
        "camembert-large": size(1024, 16, 4096, 24),
    },
)
