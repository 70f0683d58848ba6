"""The names of a classifier's outputs, which must be the source's."""

from __future__ import annotations

from typing import Any

from grow.verification.outputs.forward_passes import guard
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Side
from grow.verification.verdict import Check

NAME = "labels"
FIELDS = ("id2label", "label2id", "problem_type")
"""Number -> name, name -> number, and how scores become probabilities (softmax or one sigmoid each)."""


def has_labels(pair: Pair) -> bool:
    return "Classification" in pair.class_name("source")


@guard
def labels(pair: Pair) -> Check:
    """Every class has the number, the name and the kind of probability that it has in the source, as stock loading
    reads them."""
    limit = "the same number and name of every class"
    wanted, found = (_of(pair, side) for side in ("source", "grown"))
    names = [name for name in FIELDS if wanted[name] != found[name]]
    measured = {"classes": len(wanted["id2label"] or ()), "unequal": names}
    differences = "; ".join(f"config.json: {name}: {_first_unequal(wanted[name], found[name])}" for name in names)
    return Check(NAME, "fail" if names else "pass", measured, limit, differences)


def _of(pair: Pair, side: Side) -> dict[str, Any]:
    config = pair.config(side)
    return {name: getattr(config, name, None) for name in FIELDS}


def _first_unequal(wanted: Any, found: Any) -> str:
    """The first entry that differs: `2 is 'POSITIVE', wanted 'NEUTRAL'`."""
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return f"{found!r}, wanted {wanted!r}"
    key = next(key for key in [*wanted, *found] if wanted.get(key) != found.get(key))
    return f"{key!r} is {found.get(key)!r}, wanted {wanted.get(key)!r}"
