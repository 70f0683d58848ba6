"""All probes of a model, by what its class takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from grow.verification.probes.audio import audio_probes
from grow.verification.probes.decoder_ids import decodes, side, with_decoder
from grow.verification.probes.images import image_probes, pair_probes
from grow.verification.probes.probe import LENGTH, Probe, Probes, Subject
from grow.verification.probes.text_probes import choices, ended_probes, text_probes
from grow.verification.probes.token_ids import end_token, media_tokens

_MERGED = "a processor decides which tokens an image or a sound replaces, so only the text model is run"


def probes(config: Any, cls: type, folder: str | Path, *, seed: int = 0, length: int = LENGTH) -> Probes:
    """Inputs that are valid for the model of `config`, drawn from `seed`.

    token ids               `text`; of a multiple choice (rows, choices, length)
    token ids and images    `images`: both; but where images become tokens the text alone, and `skipped` says so
    images                  `images`
    sound                   `audio`: waveforms and spectrograms
    any, before a decoder   `seq2seq`: each with ids to continue

    Raises `Refused` when the class has an input of another kind.
    """
    subject = Subject(config, cls, folder, np.random.default_rng(seed), length)
    if getattr(config, "text_encoder", None) is not None:  # what is written is sound, in codes of a third model
        raise subject.unknown("text_encoder")
    items, skipped = _encoder(subject)
    if decodes(subject):
        items, left_out = with_decoder(subject, items)
        skipped = {**skipped, **left_out} | skipped
    missing = [name for name, required in subject.accepts.items() if required and name not in items[0].inputs]
    if missing:
        raise subject.unknown(missing[0])
    return Probes(seed, items, skipped)


def _encoder(subject: Subject) -> tuple[list[Probe], dict[str, str]]:
    config, accepts = subject.config, subject.accepts
    media = [name for name in ("pixel_values", "input_features", "input_values") if name in accepts]
    if "input_ids" in accepts:
        reads = side(config, "encoder") if getattr(config, "is_encoder_decoder", False) else config.get_text_config()
        merged = media_tokens(config)
        if "pixel_values" in media and not merged:
            return pair_probes(subject)
        if media and not merged:
            raise subject.unknown(media[0])
        if getattr(reads, "projection_dim", None) and not media and "decoder_input_ids" not in accepts:
            return ended_probes(subject, reads)  # a text tower
        end = end_token(reads) if "decoder_input_ids" in accepts else None
        items, skipped = text_probes(subject, reads, end=end)
        if media:
            skipped["images" if "pixel_values" in media else "audio"] = _MERGED
        if subject.cls.__name__.endswith("ForMultipleChoice"):
            items = [choices(item) for item in items]
        return items, skipped
    if "pixel_values" in media:
        return image_probes(subject), {}
    if media:
        return audio_probes(subject)
    raise subject.unknown()
