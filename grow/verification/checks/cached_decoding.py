"""Decoding with a cache of keys and values or of states, token by token."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from grow.models.true_float64 import forward
from grow.verification.outputs.compare import RUN_ERRORS, Outputs, difference, flatten
from grow.verification.outputs.forward_passes import ReadbackArg, guard, judge
from grow.verification.outputs.noise_floors import reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_outputs import StoredOutputs
from grow.verification.outputs.two_folders import SIDES, Side
from grow.verification.probes import Probe
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

PREFILL = 3  # least tokens in the first pass of cached decoding: both a chunk and single steps meet the cache
STEPS = 24  # most single steps after it: each reads every weight once, which is most of a large model's time
DECODED = ("random", "left_padded", "beyond_window")
TOKEN_OUTPUTS = ("logits", "last_hidden_state")
CACHES = ("past_key_values", "cache_params")
"""What stock code calls a cache; the second holds states and no keys, so a step is told of its own padding alone."""


def decodes(pair: Pair) -> bool:
    """Whether decoding step by step can be asked for: a cache, and weights that are in memory."""
    return not pair.streaming and cache_name(pair) is not None


def cache_name(pair: Pair) -> str | None:
    """What the source's class calls its cache; None where it takes none."""
    return next((name for name in CACHES if pair.accepts("source", name)), None)


@guard
def cached_decoding(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """Decoding with a cache gives what one full pass gives, and what the source gives step by step.

    A prefix of at least 3 tokens, then the last 24 or fewer one at a time, with and without left padding, in
    true float64.
    limit  grown against source, as in `true_float64`; cache against full pass is one model, so `EXACT`, where the
           source agrees with its own cache that far
    """
    if pair.streaming:
        return Check("cached_decoding", "skip", reason="its weights come from disk once per token, which is too slow")
    if not decodes(pair):
        return Check("cached_decoding", "skip", reason="the class takes no cache")
    steps: dict[Side, StoredOutputs] = {}
    for side in SIDES:  # all of one model, then of the other
        decoded = steps_of(pair, side)
        if isinstance(decoded, str):
            return Check("cached_decoding", "skip", reason=decoded)
        steps[side] = decoded
    if not steps["grown"]:
        return Check("cached_decoding", "skip", reason="the model has fewer than 4 positions")
    own, cache = (difference(pair.outputs(side, "float64").only(steps[side]), steps[side]) for side in SIDES)
    apart = difference(steps["source"], steps["grown"], readback)
    limit, why = reproducible_limit(pair, apart.relative, limit)
    check = judge("cached_decoding", apart, limit, f"step by step, grown against source{why}")
    measured = {**check.measured, **cache.record("cache_against_full_")}
    if not own.relative <= EXACT:
        claim = f"{check.limit}; the source disagrees with its own cache by {own.relative:.3g}"
        return Check("cached_decoding", check.status, measured, claim, check.reason)
    most, why = reproducible_limit(pair, cache.relative, EXACT)
    mine = judge("cached_decoding", cache, most, f"grown: cache against one full pass{why}")
    verdict = mine if mine.status == "fail" and check.status != "fail" else check
    reason = "; ".join(r.reason for r in (check, mine) if r.reason)
    return Check("cached_decoding", verdict.status, measured, f"{check.limit}; {mine.limit}", reason)


def steps_of(pair: Pair, side: Side) -> StoredOutputs | str:
    """Outputs of one side, decoded through the cache, or why there are none; asked once."""
    return pair.once(("steps", side), lambda: _steps(pair, side))


def _steps(pair: Pair, side: Side) -> StoredOutputs | str:
    out = StoredOutputs()
    for probe in pair.probes:
        if probe.name not in DECODED or probe.counted.shape[1] <= PREFILL:
            continue
        if probe.name != "random" and "decoder_input_ids" in probe.inputs:
            continue  # some decoders count positions differently with a cache and left padding
        try:
            outputs = _step_by_step(pair, side, probe)
        except RUN_ERRORS as error:
            if side == "source":
                return f"the source does not run step by step: {error}"
            raise pair.blame(side, f"{probe.name!r} step by step: {error}") from error
        if outputs is None:
            return "the model keeps no cache or has no output per token"
        out.update(outputs)
    return out


def _step_by_step(pair: Pair, side: Side, probe: Probe) -> Outputs | None:
    """Token outputs of one probe, decoded through the cache; None when the model gives no cache or pools its
    output. An encoder runs once."""
    model = pair.model(side, "float64")
    inputs: dict[str, Any] = probe.arguments(model.dtype)
    prefix = "decoder_" if "decoder_input_ids" in inputs else ""
    if f"{prefix}input_ids" not in inputs:
        return None
    ids, mask = inputs.pop(f"{prefix}input_ids"), inputs.pop(f"{prefix}attention_mask", None)
    name, parts = cache_name(pair) or "", dict[str, list[torch.Tensor]]()
    cache, start, chunk = None, 0, max(PREFILL, ids.shape[1] - STEPS)
    with forward(model):
        while start < ids.shape[1]:
            stop = start + 1 if start else min(chunk, ids.shape[1])
            step = {f"{prefix}input_ids": ids[:, start:stop]}
            if mask is not None:
                step[f"{prefix}attention_mask"] = mask[:, start * (name != CACHES[0]) : stop]
            raw = model(**inputs, **step, **{name: cache}, use_cache=True)
            cache = raw.get(name)
            outputs = {k: v for k, v in raw.items() if k in TOKEN_OUTPUTS and v.ndim == 3}
            if cache is None or not outputs:
                return None
            for output, value in outputs.items():
                parts.setdefault(output, []).append(value)
            if prefix and not start:
                inputs = {key: value for key, value in inputs.items() if key == "attention_mask"}
                inputs["encoder_outputs"] = BaseModelOutput(raw["encoder_last_hidden_state"])
            start = stop
    return {f"{probe.name}/{k}": flatten(k, torch.cat(v, 1), probe.counted) for k, v in parts.items()}
