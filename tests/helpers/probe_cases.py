"""Every kind of stock model, with every parameter random, and the probes it is asked with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf

from grow.models.true_float64 import model_class, quiet
from grow.verification.probes import Probes, probes

# Pairwise distinct sizes where the class allows it.
ENCODER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
TEXT = {**ENCODER, "vocab_size": 67, "max_position_embeddings": 96}
CAPTION = {**TEXT, "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
VISION = {**ENCODER, "image_size": 32, "patch_size": 8}
T5 = {
    "vocab_size": 67, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 70, "decoder_start_token_id": 0,
}  # fmt: skip
BOTH = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 44, "vocab_size": 67,
}  # fmt: skip
BART = {
    **BOTH, "max_position_embeddings": 96,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
WHISPER = {
    **BOTH, "num_mel_bins": 10, "max_source_positions": 30, "max_target_positions": 80,
    "pad_token_id": 13, "bos_token_id": 4, "eos_token_id": 5, "decoder_start_token_id": 6,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
SOUND = {
    **ENCODER, "vocab_size": 37, "conv_dim": (12, 14, 16), "conv_kernel": (5, 3, 2), "conv_stride": (3, 2, 2),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0,
    "codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 10,
}  # fmt: skip
AST = {
    **ENCODER, "patch_size": 4, "num_mel_bins": 12, "max_length": 40, "frequency_stride": 3, "time_stride": 4,
    "num_labels": 5,
}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4}


class Case(NamedTuple):
    """A stock class, its config, and tensors whose reversal must show."""

    cls: type
    config: Callable[[], Any]
    damage: tuple[str, ...]


def llava() -> Any:
    text, vision = hf.LlamaConfig(**TEXT), hf.CLIPVisionConfig(**VISION)
    return hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)


def qwen2_vl() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 24, "mlp_ratio": 2}
    text = {**TEXT, "num_key_value_heads": 3, "rope_parameters": rope}
    named = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
    return hf.Qwen2VLConfig(text_config=text, vision_config=vision, **named)


def trocr() -> Any:
    decoder = hf.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    both = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(**VISION), decoder)
    both.decoder_start_token_id, both.pad_token_id = 5, 0
    return both


CASES = {
    "t5": Case(
        hf.T5ForConditionalGeneration, lambda: hf.T5Config(**T5),
        ("encoder.block.1.layer.0.SelfAttention.k.weight", "decoder.block.0.layer.1.EncDecAttention.v.weight",
         "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ),
    "t5-classifier": Case(
        hf.T5ForSequenceClassification, lambda: hf.T5Config(**T5),
        ("transformer.decoder.block.1.layer.2.DenseReluDense.wo.weight",),
    ),
    "bart": Case(
        hf.BartForConditionalGeneration, lambda: hf.BartConfig(**BART),
        ("model.encoder.layers.0.fc1.weight", "model.decoder.layers.1.encoder_attn.q_proj.weight",
         "model.decoder.embed_positions.weight"),
    ),
    "bart-spans": Case(
        hf.BartForQuestionAnswering, lambda: hf.BartConfig(**BART), ("model.decoder.layers.1.fc2.weight",)
    ),
    "whisper": Case(
        hf.WhisperForConditionalGeneration, lambda: hf.WhisperConfig(**WHISPER),
        ("model.encoder.conv1.weight", "model.encoder.layers.1.fc2.weight", "model.decoder.layers.0.fc1.weight",
         "model.decoder.embed_positions.weight"),
    ),
    "wav2vec2": Case(
        hf.Wav2Vec2ForCTC, lambda: hf.Wav2Vec2Config(**SOUND),
        ("wav2vec2.feature_extractor.conv_layers.0.conv.weight", "wav2vec2.encoder.layers.1.attention.k_proj.weight"),
    ),
    "wav2vec2-layer": Case(
        hf.Wav2Vec2Model,
        lambda: hf.Wav2Vec2Config(**SOUND, feat_extract_norm="layer", do_stable_layer_norm=True),
        ("encoder.layers.0.feed_forward.output_dense.weight", "masked_spec_embed"),
    ),
    "wav2vec2-pretraining": Case(
        hf.Wav2Vec2ForPreTraining, lambda: hf.Wav2Vec2Config(**SOUND), ("project_q.weight", "quantizer.codevectors")
    ),
    "hubert": Case(
        hf.HubertForCTC, lambda: hf.HubertConfig(**SOUND), ("hubert.encoder.layers.0.attention.out_proj.weight",)
    ),
    "ast": Case(
        hf.ASTForAudioClassification, lambda: hf.ASTConfig(**AST),
        ("audio_spectrogram_transformer.embeddings.position_embeddings", "classifier.dense.weight"),
    ),
    "vit": Case(hf.ViTForImageClassification, lambda: hf.ViTConfig(**VISION), ("vit.embeddings.position_embeddings",)),
    "deit": Case(hf.DeiTModel, lambda: hf.DeiTConfig(**VISION), ("embeddings.distillation_token",)),
    "dinov2": Case(
        hf.Dinov2Model, lambda: hf.Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}),
        ("embeddings.mask_token", "encoder.layer.1.layer_scale1.lambda1"),
    ),
    "beit": Case(
        hf.BeitForImageClassification, lambda: hf.BeitConfig(**VISION, use_relative_position_bias=True),
        ("beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",),
    ),
    "swin": Case(
        hf.SwinForImageClassification, lambda: hf.SwinConfig(**SWIN),
        ("swin.encoder.layers.0.downsample.reduction.weight", "classifier.weight"),
    ),
    "mae": Case(
        hf.ViTMAEModel, lambda: hf.ViTMAEConfig(**VISION), ("encoder.layer.0.attention.attention.value.weight",)
    ),
    "segformer": Case(
        hf.SegformerForSemanticSegmentation,
        lambda: hf.SegformerConfig(
            hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16,
            image_size=64,
        ),
        ("decode_head.classifier.weight",),
    ),
    "clip": Case(
        hf.CLIPModel, lambda: hf.CLIPConfig(text_config=CAPTION, vision_config=VISION, projection_dim=16),
        ("text_model.encoder.layers.0.self_attn.v_proj.weight", "vision_model.encoder.layers.1.mlp.fc1.weight",
         "text_model.embeddings.position_embedding.weight", "visual_projection.weight"),
    ),
    "siglip": Case(
        hf.SiglipModel, lambda: hf.SiglipConfig(text_config=TEXT, vision_config=VISION),
        ("vision_model.head.probe", "text_model.head.weight"),
    ),
    "trocr": Case(
        hf.VisionEncoderDecoderModel, trocr,
        ("encoder.embeddings.patch_embeddings.projection.weight",
         "decoder.bert.encoder.layer.1.crossattention.self.key.weight"),
    ),
    "bert-choice": Case(
        hf.BertForMultipleChoice, lambda: hf.BertConfig(**TEXT),
        ("classifier.weight", "bert.embeddings.token_type_embeddings.weight"),
    ),
    "layoutlm": Case(
        hf.LayoutLMModel, lambda: hf.LayoutLMConfig(**TEXT, max_2d_position_embeddings=50),
        ("embeddings.h_position_embeddings.weight",),
    ),
    "longformer": Case(
        hf.LongformerModel, lambda: hf.LongformerConfig(**TEXT, attention_window=8),
        ("encoder.layer.0.attention.self.query_global.weight",),
    ),
    "llava": Case(
        hf.LlavaForConditionalGeneration, llava, ("language_model.model.layers.1.mlp.up_proj.weight",)
    ),
    "qwen2_vl": Case(hf.Qwen2VLForConditionalGeneration, qwen2_vl, ("model.layers.0.self_attn.q_proj.weight",)),
}  # fmt: skip


def made(name: str) -> Any:
    """The stock model, every parameter random: weights of fan-in scale, tables N(0, 1), gains about 1."""
    case = CASES[name]
    with quiet():
        model = case.cls(case.config())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            if p.ndim < 2:
                noise = 0.3 * noise + key.endswith("weight")
            elif p.ndim > 2 or not any(word in key for word in ("embed", "shared", "relative")):
                noise *= 1.3 * p[0].numel() ** -0.5
            p.copy_(noise)
    return model


def asked(folder: Path, seed: int = 0) -> Probes:
    with quiet():
        return probes(hf.AutoConfig.from_pretrained(folder), model_class(folder), folder, seed=seed)
