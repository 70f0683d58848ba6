"""Probes of sound: waveforms and spectrograms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import transformers

from grow.verification.probes.probe import Probe, Subject
from grow.verification.probes.signals import KINDS, signal
from grow.verification.probes.token_ids import right_padding

FRAMES = 96  # of a spectrogram whose length is free


def audio_probes(subject: Subject) -> tuple[list[Probe], dict[str, str]]:
    """random (2 rows), constant, outlier and natural sounds as in `signals`, and

    masked        half of the frames behind the mask vector, where the class takes such a mask
    right_padded  3 rows of different lengths, zeros behind them. The mask goes along where the first norm is a
                  LayerNorm; a GroupNorm over time sees the zeros in any case, and its models are run without
    """
    config = getattr(subject.config, "encoder", None)
    config = config if isinstance(config, transformers.PreTrainedConfig) else subject.config
    name, shape, free = _input(subject, config)
    waveform, everything = len(shape) == 1, torch.ones(3, 1, dtype=torch.bool)

    def sound(kind: str, rows: int) -> torch.Tensor:
        return signal(kind, subject.rng, (rows, *shape), len(shape))

    items = [Probe(kind, {name: sound(kind, rows)}, everything[:rows]) for kind, rows in KINDS.items()]
    if waveform and "mask_time_indices" in subject.accepts and config.mask_time_prob > 0:
        hidden = torch.from_numpy(subject.rng.random((2, frames(config, *shape))) < 0.5)
        items.append(Probe("masked", {name: sound("random", 2), "mask_time_indices": hidden}, everything[:2]))
    if not free:
        return items, {"right_padded": "the spectrogram has one length"}
    if getattr(config, "add_adapter", False):
        return items, {"right_padded": "an adapter gives the outputs a length of their own"}
    real = right_padding(3, shape[0])
    keep = torch.from_numpy(real.reshape(*real.shape, *[1] * (len(shape) - 1)))
    inputs, counted = {name: sound("random", 3) * keep}, everything
    if getattr(config, "feat_extract_norm", "layer") == "layer" and "attention_mask" in subject.accepts:
        inputs["attention_mask"] = torch.from_numpy(real.astype(np.int64))
        ends = frames(config, real.sum(1)) if waveform else real.sum(1)
        counted = torch.from_numpy(np.arange(ends.max()) < ends[:, None])
    return [*items, Probe("right_padded", inputs, counted)], {}


def frames(config: Any, samples: Any) -> Any:
    """How many outputs a waveform gives behind the convolutions."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        samples = (samples - kernel) // stride + 1
    return samples


def _input(subject: Subject, config: Any) -> tuple[str, tuple[int, ...], bool]:
    """Argument, shape of a row, and whether its first axis is time of any length."""
    accepts, bands = subject.accepts, getattr(config, "num_mel_bins", None)
    if "input_features" in accepts and bands and getattr(config, "max_source_positions", None):
        return "input_features", (bands, 2 * config.max_source_positions), False
    if "input_values" in accepts and bands and getattr(config, "max_length", None):
        return "input_values", (config.max_length, bands), False
    if "input_values" in accepts and getattr(config, "conv_stride", None):
        samples = subject.length * math.prod(config.conv_stride) + sum(config.conv_kernel)
        return "input_values", (samples,), True
    width = getattr(config, "feature_projection_input_dim", None) or getattr(config, "input_feat_per_channel", None)
    if "input_features" in accepts and width:
        return "input_features", (FRAMES, width * getattr(config, "input_channels", 1)), True
    raise subject.unknown()
