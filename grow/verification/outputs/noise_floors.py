"""How far a model is from itself when it is rounded: the storage floor and the noise floor.

storage floor  what storing the weights in a narrower dtype explains, measured in true float64
noise floor    what another kernel or batch shape changes in the dtype that people run"""

from __future__ import annotations

import math
from typing import Any

import torch

from grow.models.upcast import Widened
from grow.verification.outputs.compare import Outputs, difference
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_outputs import StoredOutputs, on_disk, slices
from grow.verification.rungs import EXACT

# Largest relative rounding error of one stored number: 2^-p for p significant bits, one of them implicit.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# A rounded plan rounds every stored number once, just as the floor moves every weight once: measured Δ /
# floor is 0.46 .. 0.78 (Llama 32 -> 36 and 48 hidden with silent coordinates, stored in float32 and bfloat16,
# 3 seeds). A number that is the product of a few factors, or another draw, moves it by less than 2; 4 leaves
# as much again.
STORAGE_K = 4.0

# Where layers amplify roundings, the maximum over the probes of a single draw scatters by more than that: GPT-2, OPT
# and BERT with weights x 10 are 0.3 .. 3 times as far from themselves in another draw, and grown ones 4.8 .. 7 floors
# of one draw away, 1.5 .. 2.1 floors of four.
DRAWS = 4

# A difference above this cannot come from rounding in float64, in any model that can be trained in float32.
CHAOTIC = 1e-6


def reproducible_limit(pair: Pair, relative: float, limit: float) -> tuple[float, str]:
    """The limit that a difference is held to, and why it is not `EXACT`.

    A model whose own outputs move by more than `EXACT` when each weight is rounded once more in float64 (large
    unscaled scores, say) cannot be reproduced to `EXACT`. That is measured only where a difference asks for it.
    """
    if limit != EXACT or not EXACT < relative <= CHAOTIC:
        return limit, ""
    try:
        own = STORAGE_K * storage_floor(pair, "float64")
    except NoRoom:
        return limit, ""
    return (
        (own, f", {STORAGE_K:g} x what one rounding of each weight does to the source") if own > EXACT else (limit, "")
    )


def storage_floor(pair: Pair, dtype: str) -> float:
    """The error that storing in `dtype` explains: the source against itself, each weight rounded once.

    Every parameter is multiplied by 1 + u δ, u the unit roundoff of `dtype`, δ uniform in [-1, 1] per
    element, all in true float64; the result is relative to the output's std, like every limit here. Raises
    `NoRoom`.
    """
    return difference(pair.outputs("source", "float64"), moved(pair, dtype)[0]).relative


def moved(pair: Pair, dtype: str) -> tuple[Outputs, Outputs]:
    """Outputs and hidden states of the source with every weight moved by one rounding, as `storage_floor` says."""
    key = ("moved", dtype)
    if key not in pair.memo:
        model = pair.load("source", "float64", stream=True)
        draw = torch.Generator().manual_seed(pair.seed)
        unit = UNIT_ROUNDOFF[dtype]
        for name, weight in sorted(model.named_parameters()):
            if weight.is_meta:
                _move_when_read(model.get_submodule(name.rpartition(".")[0]), unit, draw)
            else:
                _move(weight, unit, draw)
        hidden = StoredOutputs()
        pair.memo[key] = pair.run("source", model, hidden=hidden), hidden
    return pair.memo[key]


def _move(weight: torch.Tensor, unit: float, draw: torch.Generator) -> None:
    if isinstance(weight, Widened):
        # Rounded to 2^-24, a move of 2^-8 or 2^-11 is as good a draw, and takes half as much.
        short = unit >= UNIT_ROUNDOFF["float16"] and weight.stored.element_size() == 2
        dtype = torch.float32 if short else torch.float64
        changed = on_disk(weight.stored.shape, dtype).copy_(weight.stored)
        _move(changed, unit, draw)
        weight.data = Widened(changed)
        return
    rows = weight.data.reshape(len(weight), -1) if weight.ndim else weight.data.reshape(1, 1)
    for part in slices(*rows.shape):  # a table of 262,144 tokens would take gigabytes of draws
        delta = torch.rand(rows[part].shape, generator=draw, dtype=torch.float64) * 2 - 1
        rows[part] *= 1 + unit * delta


def _move_when_read(module: Any, unit: float, draw: torch.Generator) -> None:
    """The same for a module whose weights come from disk in every pass: accelerate calls `_old_forward` with them."""
    forward = module._old_forward
    if getattr(forward, "moves", False):
        return

    def moving(*args: Any, **kwargs: Any) -> Any:
        for weight in module.parameters(recurse=False):
            _move(weight, unit, draw)
        return forward(*args, **kwargs)

    moving.moves = True  # type: ignore[attr-defined]
    module._old_forward = moving


def noise_floor(pair: Pair, dtype: str) -> dict[str, float]:
    """How far the source is from itself in `dtype`: another attention kernel, batch shape, and no rounding at
    all."""
    return pair.once(("noise", dtype), lambda: _noise_floor(pair, dtype))


def _noise_floor(pair: Pair, dtype: str) -> dict[str, float]:
    reference = pair.outputs("source", dtype)
    variants: dict[str, Outputs] = {}
    if not pair.streaming:  # a pass per row would read all weights as often
        variants["one_by_one"] = pair.outputs("source", dtype, one_by_one=True)
    variants["eager_attention"] = pair.outputs("source", dtype, "eager")
    variants["true_float64"] = pair.outputs("source", "float64")
    differences = {name: difference(reference, other) for name, other in variants.items()}
    return {name: d.relative for name, d in differences.items() if not d.reason}  # what cannot be compared is not noise


def redrawn_floor(pair: Pair, dtype: str) -> float:
    """The largest of `DRAWS` more draws of the source's roundings in `dtype`: each weight moved by one rounding, which
    makes all of them fall anew. NaN where that cannot be measured."""
    if pair.streaming:
        return math.nan
    exact, unit, distances = pair.outputs("source", "float64"), UNIT_ROUNDOFF[dtype], []
    draw = torch.Generator().manual_seed(pair.seed)
    for _ in range(DRAWS):
        try:
            model = pair.load("source", dtype)
        except NoRoom:
            return math.nan
        for _, weight in sorted(model.named_parameters()):
            wide = weight.data.to(torch.float64)
            _move(wide, 2 * unit, draw)  # half of the draws end on a neighbour
            weight.data = wide.to(weight.dtype)
        apart = difference(exact, pair.run("source", model))
        distances.append(math.nan if apart.reason else apart.relative)
    return max(distances)
