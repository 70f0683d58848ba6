"""The stock configs of encoders of images, films and sounds, and of the towers beside them, that tests grow."""

from __future__ import annotations

from stock_fields import BASE, IMAGE, LABELS, PIXELS, VIT, Variant

SOUND, FILM = "AutoModelForAudioClassification", "AutoModelForVideoClassification"

DINO = {k: v for k, v in VIT.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
BEIT = {**VIT, "vocab_size": 48}
FILMS = {k: v for k, v in VIT.items() if k != "patch_size"} | {"num_frames": 4, "tubelet_size": [2, 4, 4]}
TOWER = {k: v for k, v in VIT.items() if "_size" not in k or k in ("hidden_size", "intermediate_size")} | {
    "vocab_size": 41, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 40,
}  # fmt: skip
AST = {k: v for k, v in VIT.items() if k != "image_size"} | {
    "max_length": 20, "num_mel_bins": 12, "frequency_stride": 3, "time_stride": 3,
}  # fmt: skip


SEEN_AND_HEARD: dict[str, Variant] = {
    "deit-teacher": Variant("deit", "DeiTForImageClassificationWithTeacher", {**VIT, **LABELS}),
    "deit-pixels": Variant("deit", PIXELS, {**VIT, "encoder_stride": 4}),
    "vit_msn-image": Variant("vit_msn", IMAGE, {**VIT, **LABELS}),
    "ijepa-image": Variant("ijepa", IMAGE, {**VIT, **LABELS}),
    "vit_mae-base": Variant("vit_mae", BASE, {**VIT, "mask_ratio": 0.5}),
    "dinov2-image": Variant("dinov2", IMAGE, {**DINO, **LABELS}),
    "dinov2-base": Variant("dinov2", BASE, {**DINO, "use_mask_token": False}),
    "dinov2_with_registers-image": Variant("dinov2_with_registers", IMAGE, {**DINO, **LABELS}),
    "beit-image": Variant("beit", IMAGE, {**BEIT, **LABELS, "use_relative_position_bias": True}),
    "beit-tokens": Variant(
        "beit", "BeitForMaskedImageModeling",
        {**BEIT, "use_mask_token": True, "use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0},
    ),
    "beit-base": Variant(
        "beit", BASE, {**BEIT, "use_mean_pooling": False, "use_absolute_position_embeddings": True}
    ),
    "clip_vision_model-base": Variant("clip_vision_model", BASE, VIT),
    "clip_vision_model-projected": Variant(
        "clip_vision_model", "CLIPVisionModelWithProjection", {**VIT, "projection_dim": 9}
    ),
    "clip_text_model-base": Variant("clip_text_model", BASE, TOWER),
    "clip_text_model-projected": Variant(
        "clip_text_model", "CLIPTextModelWithProjection", {**TOWER, "projection_dim": 9}
    ),
    "siglip_vision_model-base": Variant("siglip_vision_model", BASE, VIT),
    "siglip_vision_model-headless-base": Variant("siglip_vision_model", BASE, {**VIT, "vision_use_head": False}),
    "siglip_text_model-base": Variant("siglip_text_model", "SiglipTextModel", {**TOWER, "projection_size": 9}),
    "audio-spectrogram-transformer-sound": Variant("audio-spectrogram-transformer", SOUND, {**AST, **LABELS}),
    "audio-spectrogram-transformer-base": Variant("audio-spectrogram-transformer", BASE, AST),
    "vivit-film": Variant("vivit", FILM, {**FILMS, **LABELS}),
    "vivit-base": Variant("vivit", BASE, {**FILMS, "pooler_output_size": 7}),
    "vit-image": Variant("vit", IMAGE, {**VIT, **LABELS, "qkv_bias": False}),
    "vit-base": Variant("vit", BASE, {**VIT, "head_dim": 6, "pooler_output_size": 7}),
    "vit-pixels": Variant("vit", PIXELS, {**VIT, "encoder_stride": 4}),
}  # fmt: skip
