"""Probes of pixels, alone, beside a text, or as a film."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import transformers

from grow.verification.probes.probe import Probe, Subject
from grow.verification.probes.signals import KINDS, signal
from grow.verification.probes.text_probes import ended_probes

SIZE = 224  # pixels, where a config names no image_size: such models take any, and this is what most are trained on

# A processor cuts these images into patches and tells where they were; its rules are not part of the model.
_CUT = ("spatial_shapes", "grid_thw", "image_grid_thw", "pixel_position_ids", "aspect_ratio_ids", "image_patches")


def image_probes(subject: Subject) -> list[Probe]:
    """random (2 rows), constant, outlier and natural images as in `signals`, and

    masked  half of the patches behind the mask token, where the class has one
    """
    config = vision_config(subject)
    items = [_probe(kind, subject, config, kind, rows) for kind, rows in KINDS.items()]
    learned = "MaskedImageModeling" in subject.cls.__name__ or getattr(config, "use_mask_token", False)
    if learned and subject.accepts.get("bool_masked_pos") is False:
        masked = _probe("masked", subject, config, "random", 2)
        items.append(replace(masked, inputs={**masked.inputs, "bool_masked_pos": _half(subject, config, 2)}))
    return items


def pair_probes(subject: Subject) -> tuple[list[Probe], dict[str, str]]:
    """The probes of `ended_probes`, each row with an image of its own, whose kinds take turns."""
    config, (items, skipped) = vision_config(subject), ended_probes(subject, subject.config.get_text_config())
    with_images = []
    for k, probe in enumerate(items):
        rows = len(probe.counted)
        image = _probe(probe.name, subject, config, list(KINDS)[k % len(KINDS)], rows)
        with_images.append(replace(image, inputs={**probe.inputs, **image.inputs}))
    return with_images, skipped


def vision_config(subject: Subject) -> Any:
    """The part of the config that speaks of pixels."""
    cut = [name for name in _CUT if name in subject.accepts]
    if cut:
        raise subject.unknown(cut[0])
    config = subject.config
    parts = (getattr(config, name, None) for name in ("vision_config", "image_config", "encoder"))
    return next((part for part in parts if isinstance(part, transformers.PreTrainedConfig)), config)


def _probe(name: str, subject: Subject, config: Any, kind: str, rows: int) -> Probe:
    frames = getattr(config, "num_frames", None)
    shape = (rows, *([frames] if frames else []), getattr(config, "num_channels", 3), *_grid(config))
    inputs = {"pixel_values": signal(kind, subject.rng, shape, 2)}
    if "noise" in subject.accepts:  # what a masked autoencoder would draw itself, differently in each run
        inputs["noise"] = signal("random", subject.rng, (rows, _patches(config)), 1)
    if subject.accepts.get("bool_masked_pos"):
        inputs["bool_masked_pos"] = _half(subject, config, rows)
    return Probe(name, inputs, torch.ones(rows, 1, dtype=torch.bool))


def _grid(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or SIZE
    return (size, size) if isinstance(size, int) else tuple(size)


def _patches(config: Any) -> int:
    patch = config.patch_size
    patch = (patch, patch) if isinstance(patch, int) else patch
    films = (getattr(config, "num_frames", None) or 1) // getattr(config, "tubelet_size", 1)
    return films * math.prod(n // p for n, p in zip(_grid(config), patch))


def _half(subject: Subject, config: Any, rows: int) -> torch.Tensor:
    """(rows, patches) bool, half of every row True."""
    order = subject.rng.random((rows, _patches(config))).argsort(1)
    return torch.from_numpy(order < order.shape[1] // 2)
