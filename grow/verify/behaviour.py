"""What people do with a model beyond one forward pass: decode with a cache, save and load again."""

from __future__ import annotations

import shutil
import tempfile

import torch

from grow.errors import listing
from grow.verify.compare import RUN_ERRORS, Outputs, difference, flatten
from grow.verify.float64 import Unloadable, forward, load, quiet
from grow.verify.outputs import ReadbackArg, grown_dtype, guard, judge
from grow.verify.pair import Pair, Side
from grow.verify.probes import Probe
from grow.verify.result import EXACT, Check

PREFILL = 3  # least tokens in the first pass of cached decoding: both a chunk and single steps meet the cache
STEPS = 24  # most single steps after it: each reads every weight once, which is most of a large model's time
DECODED = ("random", "left_padded", "beyond_window")
TOKEN_OUTPUTS = ("logits", "last_hidden_state")


@guard
def cached_decoding(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """Decoding with a KV cache gives what one full pass gives, and what the source gives step by step.

    A prefix of at least 3 tokens, then the last 24 or fewer one at a time, with and without left padding, in
    true float64.
    limit  grown against source, as in `true_float64`; cache against full pass is one model, so always
           `EXACT`.
    """
    if not (pair.accepts("source", "past_key_values") and pair.accepts("source", "use_cache")):
        return Check("cached_decoding", "skip", reason="the class takes no key-value cache")
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
                return Check(
                    "cached_decoding",
                    "skip",
                    reason="the model keeps no key-value cache or has no output per token",
                )
            into.update(steps)
        full.update({k: v for k, v in pair.outputs("grown", "float64").items() if k in grown})
    if not grown:
        return Check("cached_decoding", "skip", reason="the model has fewer than 4 positions")
    cache = difference(full, grown)
    mine = judge("cached_decoding", cache, EXACT, "grown: cache against one full pass")
    rung = judge("cached_decoding", difference(source, grown, readback), limit, "step by step, grown against source")
    measured = {**rung.measured, **cache.record("cache_against_full_")}
    verdict = mine if mine.status == "fail" and rung.status != "fail" else rung
    reason = "; ".join(r.reason for r in (rung, mine) if r.reason)
    return Check("cached_decoding", verdict.status, measured, f"{rung.limit}; {mine.limit}", reason)


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


@guard
def save_reload(pair: Pair) -> Check:
    """`save_pretrained` and a stock `from_pretrained` give the same tensors and outputs, bit for bit.

    In the grown checkpoint's own dtype, through a temporary folder. Names are the module's: `save_pretrained`
    writes hub names, drops the second of two tied tensors and may shard, so file names may differ without
    harm.
    """
    limit = "same names, shapes, dtypes and bits"
    dtype = grown_dtype(pair)
    model = pair.model("grown", dtype)
    before = model.state_dict()
    size = sum(t.numel() * t.element_size() for t in before.values())
    with tempfile.TemporaryDirectory(prefix="grow-verify-") as folder:
        free = shutil.disk_usage(folder).free
        if size * 1.1 > free:
            needs = f"{size / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free"
            return Check("save_reload", "skip", limit=limit, reason=f"needs {needs}")
        pair.room("grown", dtype)
        try:
            with quiet():
                model.save_pretrained(folder)
            again = load(folder, dtype).model
        except (Unloadable, ValueError, RuntimeError) as error:
            return Check("save_reload", "fail", {"dtype": dtype}, limit, f"cannot be saved and loaded: {error}")
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
    return Check("save_reload", "fail" if problems else "pass", measured, limit, "; ".join(problems))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit: -0.0 differs from 0.0, and a NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
