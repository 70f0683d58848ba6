"""Loss, decoding, kernels, batch shapes, save and reload: what people do with a model."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from grow.errors import GrowError, listing
from grow.models.true_float64 import Unloadable, forward, load, quiet
from grow.verification.outputs.compare import RUN_ERRORS, Outputs, difference, flatten, spread
from grow.verification.outputs.forward_passes import RUNTIME_K, ReadbackArg, guard, judge, noise_floor, settled
from grow.verification.outputs.pair import Differs, Pair, Side, stored_dtype
from grow.verification.outputs.stored_outputs import Held
from grow.verification.probes import Probe
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

PREFILL = 3  # least tokens in the first pass of cached decoding: both a chunk and single steps meet the cache
STEPS = 24  # most single steps after it: each reads every weight once, which is most of a large model's time
DECODED = ("random", "left_padded", "beyond_window")
TOKEN_OUTPUTS = ("logits", "last_hidden_state")
LABELLED = ("random", "left_padded", "right_padded", "masked", "merged")
SIDES: tuple[Side, ...] = ("source", "grown")
IGNORED = -100  # the label that a loss of transformers leaves out


@guard
def loss(pair: Pair, *, limit: float = EXACT) -> Check:
    """The training loss on the model's own inputs as labels is the same in true float64.

    A log-likelihood moves by at most twice the largest change of a logit, so the limit is 2 x `limit` x the std of
    the logits (nats).
    """
    if not asks_loss(pair):
        return Check("loss", "skip", reason="the class takes no labels")
    outputs = pair.outputs("source", "float64")
    if not any(key.endswith("/logits") for key in outputs):
        return Check("loss", "skip", reason="the class has no logits")
    std = spread(outputs)["logits"]
    grew = pair.more_tokens
    losses = {side: losses_of(pair, side) for side in SIDES}  # all of one model, then of the other
    found = {name: {side: losses[side][name] for side in SIDES} for name in losses["source"]}
    if not found:
        return Check("loss", "skip", reason="no labels are known for this class")
    worst = max(found, key=lambda name: abs(found[name]["source"] - found[name]["grown"]))
    apart = abs(found[worst]["source"] - found[worst]["grown"])
    limit, _ = settled(pair, apart / (2 * std), limit)
    bound = 2 * limit * std
    measured = {"losses": found, "max_abs": apart, "relative": apart / std}
    claim = f"|Δ loss| <= {bound:.3g} nats (2 x the limit of the logits)" + (", among the old tokens" if grew else "")
    passed = apart <= bound
    reason = "" if passed else f"{apart:.3g} > {bound:.3g} on the probe {worst!r}"
    return Check("loss", "pass" if passed else "fail", measured, claim, reason)


def asks_loss(pair: Pair) -> bool:
    """Whether the class takes labels."""
    return pair.accepts("source", "labels")


def decodes(pair: Pair) -> bool:
    """Whether decoding step by step can be asked for: a cache, and weights that are in memory."""
    return not pair.streaming and pair.accepts("source", "past_key_values")


def losses_of(pair: Pair, side: Side) -> dict[str, float]:
    """Probe -> loss, of one side; asked once."""
    return pair.once(("losses", side), lambda: _losses(pair, side))


def _losses(pair: Pair, side: Side) -> dict[str, float]:
    outputs = pair.outputs("source", "float64")
    vocab = next(outputs.shape(key)[1] for key in outputs if key.endswith("/logits")) if pair.more_tokens else None
    asked = {p.name: (p, _labels(pair, p)) for p in pair.probes if p.name in LABELLED}
    return {name: _loss(pair, side, p, labels, vocab) for name, (p, labels) in asked.items() if labels is not None}


def _labels(pair: Pair, probe: Probe) -> torch.Tensor | None:
    """Labels for a probe: its own tokens for a language model, drawn classes for a classifier; else None."""
    name = pair.class_name("source")
    ids = probe.inputs.get("decoder_input_ids", probe.inputs.get("input_ids"))
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")):
        if ids is None or ids.shape != probe.counted.shape:
            return None
        return torch.where(probe.counted, ids, IGNORED)
    draw = torch.Generator().manual_seed(pair.seed)
    classes = getattr(pair.config("source"), "num_labels", 0)
    problem = getattr(pair.config("source"), "problem_type", None)
    if name.endswith("ForSequenceClassification") and problem in ("multi_label_classification", "regression"):
        shape = (len(probe.counted), classes) if classes > 1 or problem != "regression" else (len(probe.counted),)
        return torch.randint(2, shape, generator=draw).to(torch.float64)
    if name.endswith(("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")) and classes > 1:
        return torch.randint(classes, (len(probe.counted),), generator=draw)
    if name.endswith("ForTokenClassification") and classes > 1:
        return torch.where(probe.counted, torch.randint(classes, probe.counted.shape, generator=draw), IGNORED)
    return None


def _loss(pair: Pair, side: Side, probe: Probe, labels: torch.Tensor, vocab: int | None) -> float:
    """The model's own loss; over the first `vocab` tokens where one model has more of them."""
    model = pair.model(side, "float64")
    inputs = {key: value for key, value in probe.arguments(model.dtype).items() if key != "decoder_input_ids"}
    try:
        with forward(model), quiet():
            if vocab is None:
                return float(model(**inputs, labels=labels).loss)
            logits = model(**inputs).logits[..., :vocab]
    except RUN_ERRORS as error:
        raise pair.blame(side, f"{probe.name!r} with labels: {error}") from error
    if pair.class_name(side).endswith(("ForCausalLM", "LMHeadModel")):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits.reshape(-1, vocab), labels.reshape(-1)))


@guard
def cached_decoding(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """Decoding with a KV cache gives what one full pass gives, and what the source gives step by step.

    A prefix of at least 3 tokens, then the last 24 or fewer one at a time, with and without left padding, in
    true float64.
    limit  grown against source, as in `true_float64`; cache against full pass is one model, so `EXACT`, where the
           source agrees with its own cache that far
    """
    if pair.streaming:
        return Check("cached_decoding", "skip", reason="weights come from disk, once per token: too slow")
    if not decodes(pair):
        return Check("cached_decoding", "skip", reason="the class takes no key-value cache")
    steps: dict[Side, Held] = {}
    for side in SIDES:  # all of one model, then of the other
        found = steps_of(pair, side)
        if isinstance(found, str):
            return Check("cached_decoding", "skip", reason=found)
        steps[side] = found
    if not steps["grown"]:
        return Check("cached_decoding", "skip", reason="the model has fewer than 4 positions")
    own, cache = (difference(pair.outputs(side, "float64").only(steps[side]), steps[side]) for side in SIDES)
    apart = difference(steps["source"], steps["grown"], readback)
    limit, why = settled(pair, apart.relative, limit)
    check = judge("cached_decoding", apart, limit, f"step by step, grown against source{why}")
    measured = {**check.measured, **cache.record("cache_against_full_")}
    if not own.relative <= EXACT:
        claim = f"{check.limit}; the source disagrees with its own cache by {own.relative:.3g}"
        return Check("cached_decoding", check.status, measured, claim, check.reason)
    most, why = settled(pair, cache.relative, EXACT)
    mine = judge("cached_decoding", cache, most, f"grown: cache against one full pass{why}")
    verdict = mine if mine.status == "fail" and check.status != "fail" else check
    reason = "; ".join(r.reason for r in (check, mine) if r.reason)
    return Check("cached_decoding", verdict.status, measured, f"{check.limit}; {mine.limit}", reason)


def steps_of(pair: Pair, side: Side) -> Held | str:
    """Outputs of one side, decoded through the cache, or why there are none; asked once."""
    return pair.once(("steps", side), lambda: _steps(pair, side))


def _steps(pair: Pair, side: Side) -> Held | str:
    out = Held()
    for probe in pair.probes:
        if probe.name not in DECODED or probe.counted.shape[1] <= PREFILL:
            continue
        if probe.name != "random" and "decoder_input_ids" in probe.inputs:
            continue  # some decoders count positions differently with a cache and left padding
        try:
            found = _step_by_step(pair, side, probe)
        except RUN_ERRORS as error:
            if side == "source":
                return f"the source does not run step by step: {error}"
            raise pair.blame(side, f"{probe.name!r} step by step: {error}") from error
        if found is None:
            return "the model keeps no key-value cache or has no output per token"
        out.update(found)
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
    parts: dict[str, list[torch.Tensor]] = {}
    cache, start, chunk = None, 0, max(PREFILL, ids.shape[1] - STEPS)
    with forward(model):
        while start < ids.shape[1]:
            stop = start + 1 if start else min(chunk, ids.shape[1])
            step = {f"{prefix}input_ids": ids[:, start:stop]}
            if mask is not None:
                step[f"{prefix}attention_mask"] = mask[:, :stop]
            found = model(**inputs, **step, past_key_values=cache, use_cache=True)
            cache = found.get("past_key_values")
            outputs = {k: v for k, v in found.items() if k in TOKEN_OUTPUTS and v.ndim == 3}
            if cache is None or not outputs:
                return None
            for name, value in outputs.items():
                parts.setdefault(name, []).append(value)
            if prefix and not start:
                inputs = {key: value for key, value in inputs.items() if key == "attention_mask"}
                inputs["encoder_outputs"] = BaseModelOutput(found["encoder_last_hidden_state"])
            start = stop
    return {f"{probe.name}/{k}": flatten(k, torch.cat(v, 1), probe.counted) for k, v in parts.items()}


@guard
def kernels(pair: Pair) -> Check:
    """The grown model gives one answer, whichever attention kernel and batch shape compute it (true float64).

    What the source does under them is compared in `runtime_dtype`; here a mask, a position or a head that only one
    path reads wrongly would show.
    """
    reference = pair.outputs("grown", "float64")
    variants: dict[str, Outputs] = {}
    skipped = ""
    if not pair.streaming:  # a pass per row would read all weights as often
        variants["one_by_one"] = pair.outputs("grown", "float64", one_by_one=True)
    if pair.supports("grown", "sdpa"):
        variants["sdpa_attention"] = pair.outputs("grown", "float64", "sdpa")
    else:
        skipped = "the class has no sdpa attention"
    if not variants:
        return Check("kernels", "skip", reason=f"{skipped}, and weights come from disk in every pass")
    found = {name: difference(reference, other) for name, other in variants.items()}
    worst = max(found, key=lambda name: found[name].relative)
    more = {"variants": {name: d.relative for name, d in found.items()}, "skipped": skipped}
    limit, why = settled(pair, found[worst].relative, EXACT)
    return judge("kernels", found[worst], limit, f"grown against itself, {worst}{why}", **more)


@guard
def save_reload(pair: Pair) -> Check:
    """`save_pretrained` and a stock `from_pretrained` give the same tensors, bit for bit, and the same outputs.

    Outputs of equal bits may differ by the order of sums, which depends on where weights lie in memory: they are held
    to the noise that the source has by itself.

    In the grown checkpoint's own dtype, through a temporary folder. Names are the module's: `save_pretrained`
    writes hub names, drops the second of two tied tensors and may shard, so file names may differ without
    harm.
    """
    limit = "same names, shapes, dtypes and bits"
    try:
        dtype = stored_dtype(pair.folders["grown"])
    except GrowError as error:
        raise Differs(str(error)) from error
    pair.room("grown", dtype)
    # what is saved has to be held in its own dtype as a whole
    model = pair.load("grown", dtype) if dtype == "float64" else pair.model("grown", dtype)
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
    apart = difference(outputs, other).relative if moved else 0.0
    if moved and not changed and not lost and not new:
        noise = EXACT if dtype == "float64" else RUNTIME_K * max(noise_floor(pair, dtype).values(), default=0.0)
        if apart <= settled(pair, apart, noise)[0]:
            moved, limit = [], f"{limit}; outputs within {noise:.3g} of their std, which the order of sums explains"
    measured: dict[str, Any] = {
        "dtype": dtype,
        "tensors": len(before),
        "bytes": size,
        "outputs": len(outputs),
        "outputs_changed": len(moved),
        "outputs_apart": apart,
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
