"""Schedules: the learning rate of a step as a share of the peak.

    constant   warmup, then 1
    cosine     warmup, then half a cosine down to FLOOR
    wsd        warmup, stable at 1, then a decay to 0 over the last `decay` steps: 1 - √t, or linear

WSD (warmup, stable, decay) is the default, because its stable phase can be prolonged and grown from without knowing
where it ends. 1 - √t ended lower than linear and cosine decays in Hägele et al. (arXiv 2405.18392).
"""

from __future__ import annotations

import math

SCHEDULES = ("wsd", "cosine", "constant")
SHAPES = ("sqrt", "linear")
FLOOR = 0.1  # the share at which a cosine ends


def rate(
    step: int, *, schedule: str, steps: int, warmup: int = 0, decay: int = 0, shape: str = "sqrt", floor: float = FLOOR
) -> float:
    """The share of the peak in step 0, 1, …, steps - 1. The first of w warmup steps has 1/w, the last 1.

    The k-th of d decay steps has t = k / (d + 1), so no step is at 0.
    Example: wsd, 10 steps, warmup 2, decay 3: ½ 1 1 1 1 1 1 ½ 0.293 0.134 with 1 - √t of t = ¼, ½, ¾.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        progress = (step - warmup) / max(1, steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    if schedule == "wsd" and step >= steps - decay:
        t = min(1.0, (step - (steps - decay) + 1) / (decay + 1))
        return 1 - math.sqrt(t) if shape == "sqrt" else 1 - t
    return 1.0


def rewarm(step: int, ratio: float, steps: int) -> float:
    """The factor of the updates of new entries: it rises from 0 in the first tenth of `steps`, is `ratio` until they
    are over, then 1. SPARKLING (arXiv 2602.02472) found 1.25 to 1.3 for at most 250 steps, on the new part alone, best
    for growing in the middle of training."""
    if step >= steps:
        return 1.0
    rise = max(1, steps // 10)
    return ratio * min(1.0, (step + 1) / rise)
