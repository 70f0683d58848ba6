"""What a checkpoint's weights have cost so far, carried along by growth and training.

The peak learning rate is recorded beside it.

    RUN/step-…/state/train.json   "before": the cost of what the run began with; "tokens", "flops", "seconds": its own
    GROWN/grow.json               "source": {"spent": …, "peak": …}; in a run's checkpoint "training" has both too

Nothing is known of checkpoints from elsewhere: counting begins with the first `grow train`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.regular import read_json

MOST = 1e60  # the largest number that is read, so that sums stay finite


@dataclass(frozen=True)
class TrainingCost:
    """Tokens, FLOPs and seconds of training; the seconds are those of the steps alone, on whatever machine they ran."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: TrainingCost | None) -> TrainingCost:
        if other is None:
            return self
        return TrainingCost(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)

    def __sub__(self, other: TrainingCost) -> TrainingCost:
        return TrainingCost(self.tokens - other.tokens, self.flops - other.flops, self.seconds - other.seconds)

    def __mul__(self, share: float) -> TrainingCost:
        return TrainingCost(round(self.tokens * share), self.flops * share, self.seconds * share)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: Any) -> TrainingCost | None:
        """The cost that a document holds; None where it holds none."""
        if not isinstance(stored, Mapping):
            return None
        try:
            tokens, flops, seconds = int(stored["tokens"]), float(stored["flops"]), float(stored["seconds"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return cls(tokens, flops, seconds) if all(0 <= x <= MOST for x in (tokens, flops, seconds)) else None


def total(before: Any, own: Mapping[str, Any]) -> TrainingCost | None:
    """The sum of a run's own cost and the cost that its document says came before."""
    mine = TrainingCost.of(own)
    return None if mine is None else mine + TrainingCost.of(before)


def recorded_cost(folder: Path) -> TrainingCost | None:
    """The cost that is recorded for the checkpoint in `folder`; None when none is."""
    train = _read(folder / "state" / "train.json")
    if (recorded := total(train.get("before"), train)) is not None:
        return recorded
    grown = _read(folder / "grow.json")
    for key in ("training", "source"):
        part = grown.get(key)
        if isinstance(part, Mapping) and (recorded := TrainingCost.of(part.get("spent"))) is not None:
            return recorded
    return None


def peak_of(folder: Path) -> tuple[str, float] | None:
    """(optimizer, peak learning rate) with which the checkpoint in `folder` was last trained, if it is recorded."""
    peak = _peak(_read(folder / "state" / "train.json").get("settings"))
    grown = _read(folder / "grow.json")
    for key in ("training", "source"):
        part = grown.get(key)
        peak = peak or _peak(part.get("peak") if isinstance(part, Mapping) else None)
    return peak


def history(folder: Path) -> dict[str, Any]:
    """What a growth carries over: {"spent": …, "peak": …}, each where it is recorded."""
    spent, peak = recorded_cost(folder), peak_of(folder)
    carried: dict[str, Any] = {"spent": spent.document()} if spent else {}
    return carried | ({"peak": {"optimizer": peak[0], "lr": peak[1]}} if peak else {})


def _peak(settings: Any) -> tuple[str, float] | None:
    try:
        optimizer, lr = str(settings["optimizer"]), float(settings["lr"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (optimizer, lr) if math.isfinite(lr) and lr > 0 else None


def _read(file: Path) -> dict[str, Any]:
    """The document in a file, {} where there is none: its costs are worth having, but nothing depends on them."""
    try:
        document = read_json(file)
    except BadInput:
        return {}
    return document if isinstance(document, dict) else {}
