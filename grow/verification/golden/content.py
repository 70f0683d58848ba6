"""What a golden file holds: probes, sketches of the answers, and tolerances for other dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grow.verification.golden.sketch import Sketch

SCHEMA = 1
INPUT_DTYPES = ("int64", "int32", "bool", "float64", "float32")


@dataclass(frozen=True)
class StoredProbe:
    """A `Probe` as arrays: inputs by argument, (rows, length) bool for the positions that count."""

    inputs: dict[str, np.ndarray]
    counted: np.ndarray
    encoder_counted: np.ndarray | None = None


@dataclass(frozen=True)
class Sketches:
    """shapes "probe/output" -> (rows, width);  std  output -> the spread that is its unit;  kept  their sketches"""

    shapes: dict[str, tuple[int, int]]
    std: dict[str, float]
    kept: Mapping[str, Sketch] = field(default_factory=dict)


@dataclass(frozen=True)
class Floor:
    """What storing in some dtype explains, in units of the spread: of the outputs, and of each layer."""

    outputs: float
    hidden: dict[str, float]


@dataclass(frozen=True)
class Golden:
    """What the file says.

    source       {"name", "class", "config", "ignored", "generation"}: ignored are stored tensors that the class does
                 not have, generation the settings of `generate`, None or absent where there are none
    seed         of the probes and of the sketches
    probes       by name;  skipped  probe -> why it was left out
    floors       by dtype
    no_hidden    why there are no hidden states, or ""
    tokenizer    `kept_tokenizer.fingerprint` of the source, None without one
    environment  versions it was recorded with
    """

    path: Path
    source: dict[str, Any]
    seed: int
    probes: dict[str, StoredProbe]
    skipped: dict[str, str]
    outputs: Sketches
    hidden: Sketches
    no_hidden: str
    floors: dict[str, Floor]
    tokenizer: dict[str, Any] | None
    environment: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """What was recorded, JSON-ready."""
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "source": self.source["name"],
            "class": self.source["class"],
            "seed": self.seed,
            "probes": {name: list(probe.counted.shape) for name, probe in self.probes.items()},
            "skipped": self.skipped,
            "outputs": {name: list(shape) for name, shape in self.outputs.shapes.items()},
            "whole": whole(self.outputs),
            "hidden_states": self.no_hidden or list(self.hidden.std),
            "floors": {dtype: asdict(floor) for dtype, floor in self.floors.items()},
            "tokenizer": self.tokenizer is not None,
            "environment": self.environment,
        }


def whole(sketches: Sketches) -> bool:
    """Whether every number was kept, so that nothing is left to the projections."""
    return all(set(kept) == {"values"} for kept in sketches.kept.values())


def pack(values: np.ndarray) -> tuple[np.ndarray, float]:
    """The smallest integers and the scale for which integers · scale are the values, floats rounded to 8 bits."""
    if values.dtype.kind == "f":
        scale = 2.0 ** np.ceil(np.log2(max(float(np.abs(values).max(initial=0.0)), 1e-30) / 127))
        return np.round(values / scale).astype(np.int8), float(scale)
    small: tuple[type, ...] = (np.uint8, np.int32, np.int64)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    fits = (t for t in small if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return values.astype(next(fits)), 1.0


def unpack(stored: np.ndarray, scale: float, dtype: str) -> np.ndarray:
    """What `pack` was given."""
    if dtype not in INPUT_DTYPES or stored.dtype.kind not in "iu" or not np.isfinite(scale):
        raise ValueError(f"an input of {stored.dtype} x {scale} as {dtype!r}")
    return (stored * scale if dtype.startswith("float") else stored).astype(dtype)
