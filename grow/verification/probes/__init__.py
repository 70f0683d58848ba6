"""Seeded inputs that exercise a model: positions, padding, tokens, images, sound.

    probes(config, cls, folder, seed=0)  ->  Probes(items=[Probe("random", {input_ids: (2, 64), ...}), ...])

The *source* decides what is valid: its vocabulary and positions are a subset of the grown model's.
"""

from grow.verification.probes.all_probes import probes
from grow.verification.probes.probe import LENGTH, Probe, Probes
from grow.verification.probes.text_probes import WINDOW_LIMIT
from grow.verification.probes.token_ids import FULL_LIMIT

__all__ = ["FULL_LIMIT", "LENGTH", "WINDOW_LIMIT", "Probe", "Probes", "probes"]
