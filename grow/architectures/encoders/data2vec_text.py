"""Data2Vec for text: RoBERTa under other names."""

from grow.architectures.encoders.bert import size
from grow.architectures.encoders.roberta import relative

DATA2VEC_TEXT = relative(
    "data2vec-text",
    class_prefix="Data2VecText",
    prefix="data2vec_text.",
    summary="data2vec (text)",
    sizes={"data2vec-text-base": size(768, 12, 3072, 12)},
)
