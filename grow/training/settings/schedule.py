"""Schedules: the learning rate of a step as a share of the peak.

    constant   warm-up, then 1
    cosine     warm-up, then half a cosine down to FLOOR
    wsd        warm-up, stable at 1, then a decay to 0 over the last `decay` steps: 1 - √t, or linear

WSD (warm-up, stable, decay) is the default: the stable phase can be prolonged and grown from without knowing where it
ends. 1 - √t ended lower than linear and cosine decays in Hägele et al. (arXiv 2405.18392).
"""

from __future__ import annotations

import math

SCHEDULES = ("wsd", "cosine", "constant")
SHAPES = ("sqrt", "linear")
FLOOR = 0.1  # where a cosine ends


def rate(
    step: int, *, schedule: str, steps: int, warmup: int = 0, decay: int = 0, shape: str = "sqrt", floor: float = FLOOR
) -> float:
    """Share of the peak in step 0, 1, …, steps - 1. The first of w warm-up steps has 1/w, the last 1.

    The k-th of d decay steps has t = k / (d + 1), so no step is at 0.
    Example: wsd, 10 steps, warm-up 2, decay 3: ½ 1 1 1 1 1 1 ½ 0.293 0.134 with 1 - √t of t = ¼, ½, ¾.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        t = (step - warmup) / max(1, steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, t))) / 2
    if schedule == "wsd" and step >= steps - decay:
        t = min(1.0, (step - (steps - decay) + 1) / (decay + 1))
        return 1 - math.sqrt(t) if shape == "sqrt" else 1 - t
    return 1.0


def rewarm(step: int, ratio: float, steps: int) -> float:
    """By what the update of new entries is multiplied: up from 0 in the first tenth of `steps`, `ratio` until they
    are over, then 1. Growing in the middle of training, a ratio of 1.25 to 1.3 for at most 250 steps, on the new
    part only, was best in SPARKLING (arXiv 2602.02472)."""
    if step >= steps:
        return 1.0
    rise = max(1, steps // 10)
    return ratio * min(1.0, (step + 1) / rise)
