"""Defaults that follow from the checkpoint's history.

Both are what SPARKLING (arXiv 2602.02472) found best for growing in the middle of training: the source's peak learning
rate goes on, and only new entries are re-warmed, by 1.25 for at most 250 steps; here for at most a tenth of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grow.costs.training_cost import peak_of
from grow.planning.parsed_record import Record
from grow.spelling import Pair, option
from grow.training.after_growth.new_entries import knows_new
from grow.training.settings.run_settings import Settings

RATIO, LONGEST = 1.25, 250


def inherited(
    settings: Settings, given: Mapping[str, Any], folder: Path, record: Record | None
) -> tuple[Settings, list[str]]:
    """The settings of a new run from `folder`, and a note on each that the caller did not give.

    record  the record of the growth that made it, None where it has not grown; once it is trained, nothing in it is new
    """
    notes = []
    peak = peak_of(folder)
    if "lr" not in given and peak is not None and peak[0] == settings.optimizer and peak[1] != settings.lr:
        settings = replace(settings, lr=peak[1])
        notes.append(
            f"the peak learning rate is the one that the weights were trained with, {peak[1]:.3g}; "
            f"{option('lr')} changes it"
        )
    fresh = record is not None and knows_new(record) and "training" not in record.raw
    if fresh and "rewarm" not in given and not settings.freeze_old and settings.rates == "uniform":
        steps = max(1, min(LONGEST, (settings.steps - settings.begin) // 10))
        settings = replace(settings, rewarm=(RATIO, steps))
        notes.append(
            f"new entries are re-warmed: their updates are multiplied by {RATIO} for {steps} steps; "
            f"{option(rewarm=Pair(None))} trains them like the others"
        )
    return settings, notes
