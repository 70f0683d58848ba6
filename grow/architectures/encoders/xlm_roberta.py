"""XLM-RoBERTa: RoBERTa with a vocabulary of a hundred languages."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.roberta import relative

XLM_ROBERTA = relative(
    "xlm-roberta",
    class_prefix="XLMRoberta",
    summary="XLM-RoBERTa, multilingual-e5, BGE-M3",
    sizes={
        "xlm-roberta-base": size(768, 12, 3072, 12),
        "xlm-roberta-large": size(1024, 16, 4096, 24),
    },
)
