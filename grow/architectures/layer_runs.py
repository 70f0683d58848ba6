"""Kinds of layers as some configs say them, in runs: [[["a", "b"], 2]] means a, b, a, b."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def expanded(runs: Any) -> list[Any] | None:
    """One entry per layer; None for what is not a list of runs."""
    entries: list[Any] = []
    if not isinstance(runs, list):
        return None
    for run in runs:
        if not isinstance(run, list) or len(run) != 2 or not isinstance(run[0], list) or type(run[1]) is not int:
            return None
        if run[1] * len(run[0]) > 1 << 16:
            return None
        entries += run[0] * run[1]
    return entries


def in_runs(entries: Sequence[Any]) -> list[Any]:
    """The shortest run that gives these entries."""
    n = len(entries)
    period = next(p for p in range(1, n + 1) if n % p == 0 and list(entries) == list(entries[:p]) * (n // p))
    return [[list(entries[:period]), n // period]]
