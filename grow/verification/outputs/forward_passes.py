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

from grow.errors import GrowError
from grow.verification.outputs.compare import Difference, Readback, difference, scatter
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.noise_floors import UNIT_ROUNDOFF, noise_floor, redrawn_floor, reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_dtypes import stock_dtype, stored_dtype
from grow.verification.outputs.two_folders import Differs
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

# Source and grown model both err by up to one floor (triangle inequality: 2), and the maximum over probes of
# one draw scatters: measured Δ / floor is 0 .. 1.6 (Llama and BERT, copies and silent coordinates, float32
# and bfloat16, 3 seeds, 36 pairs). 4 is twice the inequality; a damaged tensor of the tests is 10 floors away
# or more.
RUNTIME_K = 4.0

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


def judge(name: str, apart: Difference, limit: float, why: str, **more: Any) -> Check:
    measured = {**apart.record(), **more}
    claim = f"max |Δ| / std <= {limit:.3g} ({why})"
    others_differ = apart.unknown and limit < apart.relative < math.inf
    if apart.reason and not others_differ:
        return Check(name, "skip" if apart.unknown else "fail", measured, claim, apart.reason)
    if math.isnan(limit):
        return Check(name, "skip", measured, claim, "no limit: the storage floor could not be measured")
    if not apart.relative <= limit:
        return Check(name, "fail", measured, claim, f"{apart.relative:.3g} > {limit:.3g} at {apart.where}")
    return Check(name, "pass", measured, claim)


@guard
def true_float64(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """Both models agree in true float64 to `limit`.

    limit  `EXACT` for a bit-exact plan and for a proof copy stored in float64; for a rounded plan in a
           narrower dtype `STORAGE_K * storage_floor(pair, dtype)`.
    """
    source, grown = pair.outputs("source", "float64"), pair.outputs("grown", "float64")
    apart = difference(source, grown, readback)
    points = scatter(source, grown, readback)
    limit, why = reproducible_limit(pair, apart.relative, limit)
    why = f"true float64{why}"
    return judge("true_float64", apart, limit, why, probes=pair.probes.record(), points=points)


@guard
def runtime_dtype(pair: Pair, dtype: str | None = None, *, readback: ReadbackArg = None) -> Check:
    """The grown model is as close to the source as the source is to itself, in the dtype that people run.

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
    apart = difference(pair.outputs("source", dtype), pair.outputs("grown", ran), readback)
    worst = max(floor.values(), default=0.0)
    if RUNTIME_K * worst < apart.relative and not apart.reason and dtype != "float64":
        floor["redrawn"] = redrawn_floor(pair, dtype)
        worst = max(worst, 0.0 if math.isnan(floor["redrawn"]) else floor["redrawn"])
    ratio = apart.relative / worst if worst and not apart.reason else None
    check = judge(
        "runtime_dtype",
        apart,
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
