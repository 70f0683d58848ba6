"""Noise, silence, an outlier and waves, for pixels, spectrograms and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

KINDS = {"random": 2, "constant": 1, "outlier": 1, "natural": 1}  # -> rows of the probe
OUTLIER = 30.0  # standard deviations: saturated pixels and clicks, which make the massive activations of real models
WAVES = 8
PERIOD = 64  # steps, of the slowest wave: blobs in an image, 250 Hz in speech at 16 kHz


def signal(kind: str, rng: np.random.Generator, shape: Sequence[int], axes: int) -> torch.Tensor:
    """Float64 of `shape`, whose last `axes` axes are space or time; the others are rows and channels.

    random    noise, N(0, 1)
    constant  one level per channel: silence, a blank page
    outlier   noise with one block, an eighth of every axis, 30 times as large
    natural   waves of falling strength and a little noise: neighbours resemble each other

    Every value is one that bfloat16 holds, so a model in any dtype gets the same question.
    """
    lead, grid = tuple(shape[:-axes]), tuple(shape[-axes:])
    spread: Any = (..., *[None] * axes)
    values = rng.standard_normal(tuple(shape))
    if kind == "constant":
        values = np.broadcast_to(rng.standard_normal(lead)[spread], shape)
    elif kind == "outlier":
        block: Any = (..., *(slice(n // 3, n // 3 + max(1, n // 8)) for n in grid))
        values[block] *= OUTLIER
    elif kind == "natural":
        values = 0.1 * values
        places = np.meshgrid(*(np.arange(n) / PERIOD for n in grid), indexing="ij")
        for k in range(1, WAVES + 1):
            phase = rng.uniform(size=lead)[spread]
            for place in places:
                phase = phase + rng.normal(0, k, size=lead)[spread] * place
            values = values + np.cos(2 * math.pi * phase) / k
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16).to(torch.float64)
