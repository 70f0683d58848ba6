"""Outputs compared in true float64 and in the dtype that people run.

    with Pair(source, grown) as pair:
        checks = [true_float64(pair), runtime_dtype(pair)]

All differences are max |Δ| over every probe, divided by the standard deviation of the source's output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from grow.errors import GrowError
from grow.models.upcast import Widened
from grow.verification.outputs.compare import Difference, Outputs, Readback, difference, scatter
from grow.verification.outputs.pair import Differs, NoRoom, Pair, stock_dtype, stored_dtype
from grow.verification.outputs.stored_outputs import Held, on_disk, slices
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

# Largest relative rounding error of one stored number: 2^-p for p significant bits, one of them implicit.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# A rounded plan rounds every stored number once, just as the floor moves every weight once: measured Δ /
# floor is 0.46 .. 0.78 (Llama 32 -> 36 and 48 hidden with silent coordinates, stored in float32 and bfloat16,
# 3 seeds). A number that is the product of a few factors, or another draw, moves it by less than 2; 4 leaves
# as much again.
STORAGE_K = 4.0

# Source and grown model both err by up to one floor (triangle inequality: 2), and the maximum over probes of
# one draw scatters: measured Δ / floor is 0 .. 1.6 (Llama and BERT, copies and silent coordinates, float32
# and bfloat16, 3 seeds, 36 pairs). 4 is twice the inequality; a damaged tensor of the tests is 10 floors away
# or more.
RUNTIME_K = 4.0

# Where layers amplify roundings, the maximum over the probes of a single draw scatters by more than that: GPT-2, OPT
# and BERT with weights x 10 are 0.3 .. 3 times as far from themselves in another draw, and grown ones 4.8 .. 7 floors
# of one draw away, 1.5 .. 2.1 floors of four.
DRAWS = 4

# A difference above this is no rounding in float64 of any model that can be trained in float32.
CHAOTIC = 1e-6

ReadbackArg = Readback | Mapping[str, Readback] | None


def guard(check: Callable[..., Check]) -> Callable[..., Check]:
    """Turn "the grown checkpoint cannot even be loaded or run" into fail, and "there is no room" into skip.

    A source that cannot be loaded stays an exception (`BadInput`): nothing has been verified, exit code 2.
    """

    @functools.wraps(check)
    def guarded(*args: Any, **kwargs: Any) -> Check:
        try:
            return check(*args, **kwargs)
        except Differs as error:
            return Check(check.__name__, "fail", reason=str(error))
        except NoRoom as error:
            return Check(check.__name__, "skip", reason=f"not enough memory: {error}")

    return guarded


def judge(name: str, found: Difference, limit: float, why: str, **more: Any) -> Check:
    measured = {**found.record(), **more}
    claim = f"max |Δ| / std <= {limit:.3g} ({why})"
    if found.reason:
        return Check(name, "skip" if found.unknown else "fail", measured, claim, found.reason)
    if math.isnan(limit):
        return Check(name, "skip", measured, claim, "no limit: the storage floor could not be measured")
    if not found.relative <= limit:
        return Check(name, "fail", measured, claim, f"{found.relative:.3g} > {limit:.3g} at {found.where}")
    return Check(name, "pass", measured, claim)


@guard
def true_float64(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """Both models agree in true float64 to `limit`.

    limit  `EXACT` for a bit-exact plan and for a proof copy stored in float64; for a rounded plan in a
           narrower dtype `STORAGE_K * storage_floor(pair, dtype)`.
    """
    source, grown = pair.outputs("source", "float64"), pair.outputs("grown", "float64")
    found = difference(source, grown, readback)
    points = scatter(source, grown, readback)
    limit, why = settled(pair, found.relative, limit)
    why = f"true float64{why}"
    return judge("true_float64", found, limit, why, probes=pair.probes.record(), points=points)


def settled(pair: Pair, relative: float, limit: float) -> tuple[float, str]:
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
        hidden = Held()
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
    found = {name: difference(reference, other) for name, other in variants.items()}
    return {name: d.relative for name, d in found.items() if not d.reason}  # what cannot be compared is not noise


def redrawn_floor(pair: Pair, dtype: str) -> float:
    """The largest of `DRAWS` more draws of the source's roundings in `dtype`: each weight moved by one rounding, which
    makes all of them fall anew. NaN where that cannot be measured."""
    if pair.streaming:
        return math.nan
    exact, unit, found = pair.outputs("source", "float64"), UNIT_ROUNDOFF[dtype], []
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
        found.append(math.nan if apart.reason else apart.relative)
    return max(found)


@guard
def runtime_dtype(pair: Pair, dtype: str | None = None, *, readback: ReadbackArg = None) -> Check:
    """In the dtype people run, the grown model is as close to the source as the source is to itself.

    dtype  "float32", "bfloat16" …; None takes what stock loading gives the grown checkpoint. Both models run in
           it, unless its config.json rounds weights on loading that the source's leaves as they are: then each runs
           as stock loading gives it.
    limit  `RUNTIME_K` x the source's noise floor, which is drawn again where one draw of it does not do; KL and top-1
           agreement are reported, not judged.
    """
    ran = dtype or grown_dtype(pair)
    dtype = dtype or _unrounded(pair, ran)
    if ran == "float64":
        return Check("runtime_dtype", "skip", reason="float64 is not a runtime dtype; true_float64 judges it to 1e-12")
    if dtype == "float64":  # what the source does in its own dtype has no noise worth speaking of
        floor = {"true_float64": EXACT}
    else:
        floor = noise_floor(pair, dtype)
    found = difference(pair.outputs("source", dtype), pair.outputs("grown", ran), readback)
    worst = max(floor.values(), default=0.0)
    if RUNTIME_K * worst < found.relative and not found.reason and dtype != "float64":
        floor["redrawn"] = redrawn_floor(pair, dtype)
        worst = max(worst, 0.0 if math.isnan(floor["redrawn"]) else floor["redrawn"])
    ratio = found.relative / worst if worst and not found.reason else None
    check = judge(
        "runtime_dtype",
        found,
        RUNTIME_K * worst,
        f"{RUNTIME_K:g} x the source's own noise in {dtype}",
        dtype=dtype,
        floor={name: value if math.isfinite(value) else None for name, value in floor.items()},
        ratio_to_floor=ratio,
    )
    if ran != dtype and check.status == "fail":
        stored = stored_dtype(pair.folders["grown"])
        why = f"config.json: dtype: stock loading rounds {stored} weights to {ran}, and runs the source in {dtype}"
        check = replace(check, reason=f"{why}; {check.reason}")
    return check


def _unrounded(pair: Pair, ran: str) -> str:
    """The dtype that the source runs in: the grown model's, or its own where loading the grown one rounds more than
    storing it did and more than loading the source does."""
    own = stock_dtype(pair.folders["source"])
    unit = UNIT_ROUNDOFF[ran]
    rounds = unit > UNIT_ROUNDOFF[stored_dtype(pair.folders["grown"])]
    return own if rounds and unit > UNIT_ROUNDOFF[own] else ran


def grown_dtype(pair: Pair) -> str:
    """What stock loading gives the grown checkpoint."""
    try:
        return stock_dtype(pair.folders["grown"])
    except GrowError as error:
        raise Differs(str(error)) from error
