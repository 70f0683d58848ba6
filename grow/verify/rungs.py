"""The rungs of `grow verify` that run models; each returns what it measured, against which limit, and why.

    with Pair(source, grown) as pair:
        rungs = [true_float64(pair), runtime_dtype(pair), cached_decoding(pair), save_reload(pair)]

All differences are max |Δ| over every probe, divided by the standard deviation of the source's output.
"""

from __future__ import annotations

import functools
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch

from grow.errors import GrowError, listing
from grow.verify.compare import RUN_ERRORS, Difference, Outputs, Readback, difference, flatten
from grow.verify.float64 import Unloadable, forward, load, quiet
from grow.verify.pair import Differs, NoRoom, Pair, Side, stored_dtype
from grow.verify.probes import Probe
from grow.verify.result import EXACT, Rung

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

PREFILL = 3  # least tokens in the first pass of cached decoding: both a chunk and single steps meet the cache
STEPS = 24  # most single steps after it: each reads every weight once, which is most of a large model's time
DECODED = ("random", "left_padded", "beyond_window")
TOKEN_OUTPUTS = ("logits", "last_hidden_state")

ReadbackArg = Readback | Mapping[str, Readback] | None


def _rung(check: Callable[..., Rung]) -> Callable[..., Rung]:
    """Turn "the grown checkpoint cannot even be loaded or run" into fail, and "there is no room" into skip.

    A source that cannot be loaded stays an exception (`BadInput`): nothing has been verified, exit code 2.
    """

    @functools.wraps(check)
    def guarded(*args: Any, **kwargs: Any) -> Rung:
        try:
            return check(*args, **kwargs)
        except Differs as error:
            return Rung(check.__name__, "fail", reason=str(error))
        except NoRoom as error:
            return Rung(check.__name__, "skip", reason=f"not enough memory: {error}")

    return guarded


def _judge(name: str, found: Difference, limit: float, why: str, **more: Any) -> Rung:
    measured = {**found.record(), **more}
    claim = f"max |Δ| / std <= {limit:.3g} ({why})"
    if found.reason:
        return Rung(name, "fail", measured, claim, found.reason)
    if math.isnan(limit):
        return Rung(name, "skip", measured, claim, "no limit: the storage floor could not be measured")
    if not found.relative <= limit:
        return Rung(name, "fail", measured, claim, f"{found.relative:.3g} > {limit:.3g} at {found.where}")
    return Rung(name, "pass", measured, claim)


@_rung
def true_float64(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Rung:
    """Both models agree in true float64 to `limit`.

    limit  `EXACT` for a bit-exact plan and for a proof copy stored in float64; for a rounded plan in a
           narrower dtype `STORAGE_K * storage_floor(pair, dtype)`.
    """
    found = difference(pair.outputs("source", "float64"), pair.outputs("grown", "float64"), readback)
    return _judge("true_float64", found, limit, "true float64", probes=pair.probes.record())


def storage_floor(pair: Pair, dtype: str) -> float:
    """The error that storing in `dtype` explains: the source against itself, each weight rounded once.

    Every parameter is multiplied by 1 + u δ, u the unit roundoff of `dtype`, δ uniform in [-1, 1] per
    element, all in true float64; the result is relative to the output's std, like every limit here. Raises
    `NoRoom`.
    """
    reference = pair.outputs("source", "float64")
    model = pair.load("source", "float64")
    draw = torch.Generator().manual_seed(pair.seed)
    unit = UNIT_ROUNDOFF[dtype]
    for _, weight in sorted(model.named_parameters()):
        delta = torch.rand(weight.shape, generator=draw, dtype=torch.float64) * 2 - 1
        weight.data.mul_(1 + unit * delta)
    return difference(reference, pair.run("source", model)).relative


def noise_floor(pair: Pair, dtype: str) -> dict[str, float]:
    """How far the source is from itself in `dtype`: another attention kernel, batch shape, and no rounding at
    all."""
    reference = pair.outputs("source", dtype)
    variants: dict[str, Outputs] = {
        "eager_attention": pair.outputs("source", dtype, "eager"),
        "one_by_one": pair.outputs("source", dtype, one_by_one=True),
        "true_float64": pair.outputs("source", "float64"),
    }
    return {name: difference(reference, other).relative for name, other in variants.items()}


@_rung
def runtime_dtype(pair: Pair, dtype: str | None = None, *, readback: ReadbackArg = None) -> Rung:
    """In the dtype people run, the grown model is as close to the source as the source is to itself.

    dtype  "float32", "bfloat16" …; None takes the dtype the grown checkpoint is stored in. Both models run in
           it.
    limit  `RUNTIME_K` x the source's noise floor; KL and top-1 agreement are reported, not judged.
    """
    dtype = dtype or _grown_dtype(pair)
    if dtype == "float64":
        return Rung("runtime_dtype", "skip", reason="float64 is no runtime dtype; true_float64 judges it to 1e-12")
    floor = noise_floor(pair, dtype)
    found = difference(pair.outputs("source", dtype), pair.outputs("grown", dtype), readback)
    worst = max(floor.values())
    ratio = found.relative / worst if worst and not found.reason else None
    return _judge(
        "runtime_dtype",
        found,
        RUNTIME_K * worst,
        f"{RUNTIME_K:g} x the source's own noise in {dtype}",
        dtype=dtype,
        floor={name: value if math.isfinite(value) else None for name, value in floor.items()},
        ratio_to_floor=ratio,
    )


@_rung
def cached_decoding(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Rung:
    """Decoding with a KV cache gives what one full pass gives, and what the source gives step by step.

    A prefix of at least 3 tokens, then the last 24 or fewer one at a time, with and without left padding, in
    true float64.
    limit  grown against source, as in `true_float64`; cache against full pass is one model, so always
           `EXACT`.
    """
    if not (pair.accepts("source", "past_key_values") and pair.accepts("source", "use_cache")):
        return Rung("cached_decoding", "skip", reason="the class takes no key-value cache")
    full: Outputs = {}
    source: Outputs = {}
    grown: Outputs = {}
    for probe in pair.probes:
        if probe.name not in DECODED or probe.counted.shape[1] <= PREFILL:
            continue
        sides: list[tuple[Side, Outputs]] = [("source", source), ("grown", grown)]
        for side, into in sides:
            try:
                steps = _step_by_step(pair, side, probe)
            except RUN_ERRORS as error:
                raise pair.blame(side, f"{probe.name!r} step by step: {error}") from error
            if steps is None:
                return Rung(
                    "cached_decoding",
                    "skip",
                    reason="the model keeps no key-value cache or has no output per token",
                )
            into.update(steps)
        full.update({k: v for k, v in pair.outputs("grown", "float64").items() if k in grown})
    if not grown:
        return Rung("cached_decoding", "skip", reason="the model has fewer than 4 positions")
    cache = difference(full, grown)
    mine = _judge("cached_decoding", cache, EXACT, "grown: cache against one full pass")
    rung = _judge("cached_decoding", difference(source, grown, readback), limit, "step by step, grown against source")
    measured = {**rung.measured, **cache.record("cache_against_full_")}
    verdict = mine if mine.status == "fail" and rung.status != "fail" else rung
    reason = "; ".join(r.reason for r in (rung, mine) if r.reason)
    return Rung("cached_decoding", verdict.status, measured, f"{rung.limit}; {mine.limit}", reason)


def _step_by_step(pair: Pair, side: Side, probe: Probe) -> Outputs | None:
    """Token outputs of one probe, decoded through the cache; None when the model gives no cache or pools its
    output."""
    model = pair.model(side, "float64")
    ids, mask = probe.inputs["input_ids"], probe.inputs["attention_mask"]
    parts: dict[str, list[torch.Tensor]] = {}
    cache, start, prefix = None, 0, max(PREFILL, ids.shape[1] - STEPS)
    with forward(model):
        while start < ids.shape[1]:
            stop = start + 1 if start else min(prefix, ids.shape[1])
            found = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                past_key_values=cache,
                use_cache=True,
            )
            cache = found.get("past_key_values")
            outputs = {k: v for k, v in found.items() if k in TOKEN_OUTPUTS and v.ndim == 3}
            if cache is None or not outputs:
                return None
            for name, value in outputs.items():
                parts.setdefault(name, []).append(value)
            start = stop
    return {f"{probe.name}/{k}": flatten(k, torch.cat(v, 1), probe.counted) for k, v in parts.items()}


@_rung
def save_reload(pair: Pair) -> Rung:
    """`save_pretrained` and a stock `from_pretrained` give the same tensors and outputs, bit for bit.

    In the grown checkpoint's own dtype, through a temporary folder. Names are the module's: `save_pretrained`
    writes hub names, drops the second of two tied tensors and may shard, so file names may differ without
    harm.
    """
    limit = "same names, shapes, dtypes and bits"
    dtype = _grown_dtype(pair)
    model = pair.model("grown", dtype)
    before = model.state_dict()
    size = sum(t.numel() * t.element_size() for t in before.values())
    with tempfile.TemporaryDirectory(prefix="grow-verify-") as folder:
        free = shutil.disk_usage(folder).free
        if size * 1.1 > free:
            needs = f"{size / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free"
            return Rung("save_reload", "skip", limit=limit, reason=f"needs {needs}")
        pair.room("grown", dtype)
        try:
            with quiet():
                model.save_pretrained(folder)
            again = load(folder, dtype).model
        except (Unloadable, ValueError, RuntimeError) as error:
            return Rung("save_reload", "fail", {"dtype": dtype}, limit, f"cannot be saved and loaded: {error}")
        after = again.state_dict()
        changed = [name for name in before.keys() & after.keys() if not _same(before[name], after[name])]
        lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        outputs = pair.outputs("grown", dtype)
        other = pair.run("grown", again)
    moved = [key for key in outputs if not torch.equal(outputs[key], other[key])]
    measured = {
        "dtype": dtype,
        "tensors": len(before),
        "bytes": size,
        "outputs": len(outputs),
        "outputs_changed": len(moved),
    }
    problems = [
        f"{text}: {listing(sorted(names))}"
        for text, names in (("lost", lost), ("new", new), ("changed", changed), ("outputs changed", moved))
        if names
    ]
    return Rung("save_reload", "fail" if problems else "pass", measured, limit, "; ".join(problems))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit: -0.0 differs from 0.0, and a NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _grown_dtype(pair: Pair) -> str:
    try:
        return stored_dtype(pair.folders["grown"])
    except GrowError as error:
        raise Differs(str(error)) from error
