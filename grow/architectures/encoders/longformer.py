"""Longformer: RoBERTa with a window of attention, and projections of their own for tokens that all others see."""

from grow.architectures.encoders.bert import ANSWERS, EMBEDDINGS, ENCODER_FACTS, LAYERS, POOLER, size
from grow.architectures.encoders.roberta import DEFAULTS, relative
from grow.architectures.layer_lists import LayerList

GLOBAL = """
{base}encoder.layer.{layers}.attention.self.query_global.weight     (heads head_dim.q) <- hidden
{base}encoder.layer.{layers}.attention.self.query_global.bias       (heads head_dim.q) <-
{base}encoder.layer.{layers}.attention.self.key_global.weight       (heads head_dim.k) <- hidden
{base}encoder.layer.{layers}.attention.self.key_global.bias         (heads head_dim.k) <-
{base}encoder.layer.{layers}.attention.self.value_global.weight     (heads head_dim.v) <- hidden
{base}encoder.layer.{layers}.attention.self.value_global.bias       (heads head_dim.v) <-
"""

LONGFORMER = relative(
    "longformer",
    prefix="longformer.",
    encoder=EMBEDDINGS + LAYERS + GLOBAL + POOLER + ANSWERS,
    layer_lists=(LayerList("attention_window", entries=(), alike=True),),
    defaults={**DEFAULTS, "attention_window": 512},
    harmless=ENCODER_FACTS["harmless"] | {"attention_window", "attention_mode", "ignore_attention_mask", "onnx_export"},
    summary="Longformer",
    sizes={
        "longformer-base-4096": size(768, 12, 3072, 12),
        "longformer-large-4096": size(1024, 16, 4096, 24),
    },
)
