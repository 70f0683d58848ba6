"""Hidden states, compared layer by layer through the axis map.

A wrong weight inside one layer shows at that layer and in all that follow, so the first bad row of the matrix is
where to look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from grow.verification.outputs.compare import Outputs, Readback, read_back
from grow.verification.outputs.forward_passes import grown_dtype, guard
from grow.verification.outputs.noise_floors import CHAOTIC, STORAGE_K, moved
from grow.verification.outputs.pair import Pair
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

Stream = Callable[[str, bool], tuple | None]  # name of the states, whether it is the last -> fields of a `Readback`
Place = Callable[[str, int], int]  # name of the states, index of one -> where it is among the grown ones


def unread(states: str, final: bool) -> None:
    """The `Stream` of a model that has not grown wider."""


def same_place(states: str, k: int) -> int:
    """The `Place` of a model that has not grown deeper."""
    return k


class Layers:
    """Relative differences of two runs' hidden states: `matrix[layer][probe]`, in units of the source layer's std."""

    def __init__(self, a: Outputs, b: Outputs, stream: Stream = unread, place: Place = same_place) -> None:
        keys = [key.rsplit("/", 1) for key in a]
        self.layers = list(dict.fromkeys(layer for _, layer in keys))
        self.probes = list(dict.fromkeys(probe for probe, _ in keys))
        last = {layer.split(".")[0]: layer for layer in self.layers}
        moved = any(place(*_state(layer)) != _state(layer)[1] for layer in self.layers)
        self.problem = "" if a else "the class gives no hidden states"
        self.place = place
        self.matrix: list[list[float]] = []
        for layer in self.layers:
            std = _std([a[f"{probe}/{layer}"] for probe in self.probes if f"{probe}/{layer}" in a])
            row = [self._one(a, b, f"{probe}/{layer}", std, stream, layer in last.values()) for probe in self.probes]
            self.matrix.append(row)
        if not self.problem and len(set(b)) != len(set(a)) and not moved:
            self.problem = f"the grown model has other layers: {sorted(set(b) - set(a))[0]}"

    def _one(self, a: Outputs, b: Outputs, key: str, std: float, stream: Stream, final: bool) -> float:
        if key not in a:
            return math.nan
        probe, _, layer = key.rpartition("/")
        name, k = _state(layer)
        there = f"{probe}/{name}.{self.place(name, k)}"
        if there not in b:
            self.problem = self.problem or f"the grown model has no {there}"
            return math.nan
        x, y = a[key].double(), b[there].double()
        back = stream(name, final)
        if back is not None and len(back[0]) == y.shape[1]:
            x, y, problem = read_back(x, y, Readback(*back))
            self.problem = self.problem or problem
        if x.shape != y.shape:
            self.problem = self.problem or "the widths differ and no grow.json says how one is the other"
            return math.nan
        if not torch.isfinite(y).all():
            return math.inf
        apart = float((x - y).abs().max())
        return apart / std if std else math.inf if apart else 0.0

    @property
    def rows(self) -> list[float]:
        """The worst probe of every layer."""
        return [max((v for v in row if not math.isnan(v)), default=math.nan) for row in self.matrix]


def _state(layer: str) -> tuple[str, int]:
    """`encoder_hidden_states.3` in two."""
    name, _, k = layer.rpartition(".")
    return name, int(k)


def storage_floors(pair: Pair, dtype: str) -> list[float]:
    """Per layer, what storing in `dtype` explains: the source against itself, every weight rounded once more."""
    return Layers(pair.hidden("source", "float64"), moved(pair, dtype)[1]).rows


def _std(parts: list[torch.Tensor]) -> float:
    """What differences are held against; states that are the same everywhere are their own size."""
    if not parts:
        return 0.0
    states = torch.cat(parts).double()
    return float(states.std(correction=0)) or float(states.abs().max())


@guard
def hidden_states(
    pair: Pair,
    *,
    stream: Stream = unread,
    place: Place = same_place,
    stored: str | None = None,
    known: bool = True,
) -> Check:
    """Every layer's residual stream agrees in true float64.

    stored  dtype that weights were rounded to; a layer's limit is then STORAGE_K x what that explains, else `EXACT`
    known   False without a grow.json: states that differ may be the same in another basis, so the outputs decide
    """
    floors = storage_floors(pair, stored) if stored else None
    differences = Layers(pair.hidden("source", "float64"), pair.hidden("grown", "float64"), stream, place)
    if differences.problem:
        return Check("hidden_states", "skip", reason=differences.problem)
    if floors is None and EXACT < max(differences.rows) <= CHAOTIC:  # see `reproducible_limit`
        floors = storage_floors(pair, "float64")
    limits = [EXACT if floors is None else max(EXACT, STORAGE_K * floor) for floor in floors or differences.rows]
    claim = (
        f"max |Δ| / std <= {EXACT:g} in every layer"
        if floors is None
        else f"max |Δ| / std <= {STORAGE_K:g} x what {'storage' if stored else 'one float64 rounding of each weight'} "
        "explains in that layer"
    )
    measured: dict[str, Any] = {
        "layers": differences.layers,
        "probes": differences.probes,
        "differences": differences.matrix,
        "limits": limits,
        "relative": max(differences.rows),
        "runtime": _runtime(pair, stream, place),
    }
    bad = [layer for layer, value, limit in zip(differences.layers, differences.rows, limits) if not value <= limit]
    if bad:
        k = differences.layers.index(bad[0])
        reason = f"first at {bad[0]}: {differences.rows[k]:.3g} > {limits[k]:.3g}"
        if not known:
            reason = f"no grow.json says how one is the other; {reason}"
        return Check("hidden_states", "fail" if known else "skip", measured, claim, reason)
    return Check("hidden_states", "pass", measured, claim)


def _runtime(pair: Pair, stream: Stream, place: Place) -> dict[str, Any] | None:
    """The same in the dtype people run, with the source's own noise beside it; None for float64."""
    dtype = grown_dtype(pair)
    if dtype == "float64":
        return None
    reference = pair.hidden("source", dtype)
    differences = Layers(reference, pair.hidden("grown", dtype), stream, place)
    others = pair.hidden("source", dtype, "eager"), pair.hidden("source", "float64")
    noise = [Layers(reference, other).rows for other in others]
    return {"dtype": dtype, "differences": differences.matrix, "floor": [max(rows) for rows in zip(*noise)]}
