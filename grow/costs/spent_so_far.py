"""What a checkpoint's weights have cost so far, carried along by growth and training.

The peak learning rate is kept beside it.

    RUN/step-…/state/train.json   "before": what the run began with, "tokens", "flops", "seconds": its own; "settings"
    GROWN/grow.json               "source": {"spent": …, "peak": …}; in a run's checkpoint "training" has both too

Nothing is known of checkpoints from elsewhere: what is counted begins with the first `grow train`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.regular import read_json

MOST = 1e60  # of anything: sums of several stay finite


@dataclass(frozen=True)
class Spent:
    """Tokens, FLOPs and seconds of training; seconds are those of the steps alone, on whatever machine it was."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Spent | None) -> Spent:
        if other is None:
            return self
        return Spent(self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.tokens - other.tokens, self.flops - other.flops, self.seconds - other.seconds)

    def __mul__(self, share: float) -> Spent:
        return Spent(round(self.tokens * share), self.flops * share, self.seconds * share)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: Any) -> Spent | None:
        """None where `stored` is not such a document."""
        if not isinstance(stored, Mapping):
            return None
        try:
            tokens, flops, seconds = int(stored["tokens"]), float(stored["flops"]), float(stored["seconds"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return cls(tokens, flops, seconds) if all(0 <= x <= MOST for x in (tokens, flops, seconds)) else None


def total(before: Any, own: Mapping[str, Any]) -> Spent | None:
    """A run's own cost and what its document says was before."""
    mine = Spent.of(own)
    return None if mine is None else mine + Spent.of(before)


def spent_on(folder: Path) -> Spent | None:
    """What is recorded of the checkpoint in `folder`; None when nothing is."""
    train = _read(folder / "state" / "train.json")
    if (found := total(train.get("before"), train)) is not None:
        return found
    grown = _read(folder / "grow.json")
    for key in ("training", "source"):
        part = grown.get(key)
        if isinstance(part, Mapping) and (found := Spent.of(part.get("spent"))) is not None:
            return found
    return None


def peak_of(folder: Path) -> tuple[str, float] | None:
    """(optimizer, peak of its learning rate) that the checkpoint in `folder` was last trained with, if recorded."""
    found = _peak(_read(folder / "state" / "train.json").get("settings"))
    grown = _read(folder / "grow.json")
    for key in ("training", "source"):
        part = grown.get(key)
        found = found or _peak(part.get("peak") if isinstance(part, Mapping) else None)
    return found


def history(folder: Path) -> dict[str, Any]:
    """What a growth carries over: {"spent": …, "peak": …}, each where it is recorded."""
    spent, peak = spent_on(folder), peak_of(folder)
    found: dict[str, Any] = {"spent": spent.document()} if spent else {}
    return found | ({"peak": {"optimizer": peak[0], "lr": peak[1]}} if peak else {})


def _peak(settings: Any) -> tuple[str, float] | None:
    try:
        optimizer, lr = str(settings["optimizer"]), float(settings["lr"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (optimizer, lr) if math.isfinite(lr) and lr > 0 else None


def _read(file: Path) -> dict[str, Any]:
    """{} where there is no document: what it would say is worth having, and nothing stops without it."""
    try:
        found = read_json(file)
    except BadInput:
        return {}
    return found if isinstance(found, dict) else {}
