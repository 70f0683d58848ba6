"""The document of a verification, checked before it is shown.

    fit({"verdict": 3, "notes": "none"}, {"verdict": str, "notes": [str]})   {"verdict": "3", "notes": []}

Whatever JSON comes in, `DOCUMENT` is what the page is made from; `MEASURED` are the figures of the checks it draws.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

LONGEST = 4000  # characters of one text
MOST = 400  # rows of one table

MATRIX = [[float]]
CHECK = {"name": str, "status": str, "measured": object, "limit": str, "reason": str}
DOCUMENT: dict[str, Any] = {
    "source": str,
    "grown": str,
    "verdict": str,
    "trainable": bool,
    "rungs": {str: {"status": str, "checks": [CHECK]}},
    "first_difference": {
        **dict.fromkeys(("module", "kind", "probe", "tensor", "field", "rule", "text"), str),
        "relative": float,
        "index": object,
        "found": object,
        "wanted": object,
    },
    "growth": {
        "axes": [{"axis": str, "space": str, "old": float, "new": float, "operator": str, "runs": MATRIX}],
        "sizes": {str: float},
        "new_sizes": {str: float},
        "storage": str,
        "rounded": [str],
        "method": str,
        "lossy_because": str,
        "split": str,
        "seed": object,
        "grow": str,
        "source": {"name": str, "model_type": str, "config_sha256": str},
        "tensors": float,
    },
    "config": [{"field": str, "source": object, "grown": object}],
    "environment": {str: str},
    "notes": [str],
}
MEASURED: dict[str, dict[str, Any]] = {
    "certificate": {"faults": [str], "faulty": float},
    "true_float64": {
        "probes": {"seed": object, "shapes": {str: [float]}, "skipped": {str: str}},
        "points": {"source": [float], "grown": [float]},
    },
    "runtime_dtype": {"relative": float, "dtype": str, "floor": {str: float}, "ratio_to_floor": float},
    "hidden_states": {
        "layers": [str],
        "probes": [str],
        "differences": MATRIX,
        "limit": float,
        "limits": [float],
        "where": str,
        "runtime": {"dtype": str, "differences": MATRIX, "floor": [float]},
    },
    "trainability": {
        **dict.fromkeys(("steps", "learning_rate", "new", "learning", "share", "dead", "twins"), float),
        "loss": [float],
        "source_loss": [float],
        "tensors": [{"rows": str, "name": str, **dict.fromkeys(("new", "learning", "dead", "twins"), float)}],
    },
}


def fit(value: Any, spec: Any) -> Any:
    """`value` in the shape of `spec`, whatever it was: missing texts are "", numbers None, lists [].

    str, float and bool stand for themselves, object for any JSON; [spec] is a list, {str: spec} a mapping with any
    keys, {"key": spec} one with these. NaN and infinities become None.
    """
    if isinstance(spec, list):
        return [fit(inner, spec[0]) for inner in value] if isinstance(value, (list, tuple)) else []
    if isinstance(spec, dict):
        known = value if isinstance(value, Mapping) else {}
        if str in spec:
            return {plain(str(key)): fit(inner, spec[str]) for key, inner in known.items()}
        return {key: fit(known.get(key), inner) for key, inner in spec.items()}
    if spec is bool:
        return value if isinstance(value, bool) else None
    if spec is str:
        return "" if value is None else plain(value if isinstance(value, str) else as_json(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        finite = abs(value) < 1e300 and math.isfinite(value)
        return value if finite else None
    if spec is float:
        return None
    if isinstance(value, (list, tuple)):
        return [fit(inner, object) for inner in value]
    if isinstance(value, Mapping):
        return fit(value, {str: object})
    return plain(value) if isinstance(value, str) else value if isinstance(value, bool) else None


def plain(text: str) -> str:
    """Text without control or direction characters, which show as escapes, cut at `LONGEST`."""
    cut = text[:LONGEST]
    if not cut.isprintable():
        cut = "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else _escaped(c) for c in cut)
    return cut if len(text) <= LONGEST else f"{cut} … and {len(text) - LONGEST:,} more characters"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def as_json(value: Any) -> str:
    return plain(json.dumps(value, ensure_ascii=False, default=str))
