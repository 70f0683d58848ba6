"""A grown checkpoint compared with a golden file.

What was stored whole is compared element by element. Of what was sketched, the kept elements, the largest ones,
their log-sum-exp and the projections are, which every element enters; so a pass says that no weight is wrong, as
the ladder's does, and not that every element was looked at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grow.checkpoint.pickled import open_readable
from grow.errors import listing
from grow.files.header import show
from grow.files.locate import locate
from grow.planning.record import growth_document, read_record
from grow.verification.checks.generation import same_settings
from grow.verification.golden import sketch
from grow.verification.golden.content import Golden, whole
from grow.verification.golden.golden_file import read
from grow.verification.golden.golden_probes import OneSided, to_probes
from grow.verification.golden.growth_of_source import VOCABULARY, GrowthOfSource
from grow.verification.golden.kept_tokenizer import tokenizer
from grow.verification.outputs.compare import Difference, Outputs
from grow.verification.outputs.forward_passes import guard, judge
from grow.verification.outputs.noise_floors import STORAGE_K
from grow.verification.rungs import EXACT, RUNG_OF, checks_of
from grow.verification.verdict import Check, Verification, environment
from grow.verification.weights.config_fields import config_differences

CHECKS = ("certificate", "true_float64", "tokenizer", "generation_config", "hidden_states")
ABSENT = "needs the source's weights; the golden file holds what they answered"


def against(
    path: str | os.PathLike,
    grown: str | os.PathLike,
    *,
    rungs: Sequence[str] | None = None,
    names: tuple[str, str] | None = None,
    progress: Callable[[str], None] = lambda check: None,
) -> Verification:
    """Check that `grown` answers what the golden file at `path` says. Does not raise when it does not: see `.verdict`.

    rungs  rungs or single checks, as in `verify`; those that need the source are skipped with that reason
    names  of source and grown in the result
    """
    golden = read(path)
    now = environment()
    wanted = set(CHECKS) if rungs is None else checks_of(rungs)
    with open_readable(locate(grown)) as checkpoint:
        record = read_record(checkpoint.path)
        growth = GrowthOfSource(golden, checkpoint, record)
        given = to_probes(golden.probes, golden.seed, golden.skipped)
        with OneSided(checkpoint.path, given, tuple(golden.source["ignored"])) as pair:
            checks = tuple(_checks(golden, growth, pair, wanted, progress))
        return Verification(
            *(names or (show(path), show(grown))),
            checks,
            tuple(_notes(golden, growth, checks, now)),
            first=_first(checks),
            growth=growth_document(record) if record else None,
            config=tuple(config_differences(golden.source["config"], checkpoint.config)),
            environment={
                **now,
                "recorded with": ", ".join(f"{k} {v}" for k, v in golden.environment.items()),
            },
        )


def _checks(
    golden: Golden, growth: GrowthOfSource, pair: OneSided, wanted: set[str], progress: Callable[[str], None]
) -> Iterator[Check]:
    """The checks in the ladder's order; those that need the source are skipped where somebody named them."""
    limit = growth.floor() if growth.rounded else EXACT
    for name in RUNG_OF:
        if name not in wanted and not (name == "proof" and growth.rounded and "true_float64" in wanted):
            continue
        if name not in CHECKS:
            if name != "proof" or growth.rounded:
                yield Check(name, "skip", reason=ABSENT)
            continue
        progress(name)
        if name == "certificate":
            yield stored_bits(growth)
        elif name == "tokenizer":
            yield tokenizer(golden.tokenizer, growth.grown.path)
        elif name == "generation_config":
            yield generation_config(golden, growth.grown.path)
        elif name == "hidden_states":
            yield hidden_states(golden, growth, pair, limit > EXACT)
        else:
            check = true_float64(golden, growth, pair, limit)
            if check.status == "fail" and check.measured and growth.architecture is None and growth.floor() > EXACT:
                limit = growth.floor()
                check = true_float64(golden, growth, pair, limit)
                check = replace(check, measured={**check.measured, "within_storage": check.status == "pass"})
            yield check


def generation_config(golden: Golden, folder: Path) -> Check:
    """The folder's settings of `generate` are the recorded ones."""
    wanted, limit = golden.source.get("generation"), "the same settings of `generate`, as stock loading reads them"
    if not isinstance(wanted, dict):
        return Check("generation_config", "skip", limit=limit, reason="the golden file has none of the source")
    return same_settings(wanted, folder, limit)


def stored_bits(growth: GrowthOfSource) -> Check:
    """The grown tensors are those whose sha256 are in grow.json: not a proof, which takes the source, but no damage."""
    limit = "every tensor has the sha256 that grow.json names"
    record, stored = growth.record, growth.grown.tensors
    if record is None:
        return Check("certificate", "skip", limit=limit, reason="no grow.json, and no source to compare with")
    faults = [f"{name}: missing" for name in sorted(record.tensors.keys() - stored.keys())]
    faults += [f"{name}: not written by grow" for name in sorted(stored.keys() - record.tensors.keys())]
    for name in sorted(record.tensors.keys() & stored.keys()):
        if growth.grown.sha256(stored[name]) != record.tensors[name]:
            faults.append(f"{name}: sha256 is not grow.json's")
    measured = {"tensors": len(stored), "faults": faults[:20], "faulty": len(faults)}
    if faults:
        return Check("certificate", "fail", measured, limit, "; ".join(faults[:3]))
    return Check(
        "certificate", "skip", measured, limit, "no source to compare with; its sha256 in grow.json were checked"
    )


@guard
def true_float64(golden: Golden, growth: GrowthOfSource, pair: OneSided, limit: float) -> Check:
    """The grown model's outputs in true float64 are the recorded ones, to `limit` of their spread."""
    answers = pair.outputs("grown", "float64")
    apart = _difference(golden, growth, pair, answers)
    how = f"true float64, {'all of it' if whole(golden.outputs) else 'kept elements, top, log-sum-exp and projections'}"
    return judge("true_float64", apart, limit, how, probes=pair.probes.record(), points=_points(golden, answers))


def _difference(golden: Golden, growth: GrowthOfSource, pair: OneSided, answers: Outputs) -> Difference:
    classes = golden.source["class"], pair.class_name("grown")
    hint = "" if classes[0] == classes[1] else f"; the golden file is of {classes[0]}, this is {classes[1]}"
    worst, agree = Difference(0.0, 0.0), []
    for key, (n, width) in golden.outputs.shapes.items():
        name = key.rsplit("/", 1)[1]
        if key not in answers:
            return Difference(math.inf, where=key, reason=f"the grown model has no output {key!r}{hint}")
        y, apart, problem = growth.output(name)(answers[key].numpy(), width)
        if problem or y.shape != (n, width):
            problem = problem or f"shape {tuple(answers[key].shape)} instead of {(n, width)}"
            return Difference(math.inf, where=key, reason=f"{key}: {problem}{hint}")
        if not np.isfinite(answers[key].numpy()).all():
            bad = int((~np.isfinite(answers[key].numpy())).sum())
            return Difference(math.inf, where=key, reason=f"{bad} values of {key} in the grown are NaN or Inf")
        kept, std = golden.outputs.kept[key], golden.outputs.std[name]
        delta, where = sketch.worst(kept, y, golden.seed)
        delta, where = (apart, " between two copies") if apart > delta else (delta, where)
        if delta / std > worst.relative or not worst.where:
            worst = Difference(delta / std, delta, std=std, where=f"{key}{where}{hint}")
        if name in VOCABULARY:
            agree.append(sketch.same_first(kept, y, EXACT * std))
    return replace(worst, top1=float(np.concatenate(agree).mean()) if agree else None)


def _points(golden: Golden, answers: Outputs, count: int = 400) -> dict[str, list[float]]:
    """Evenly spaced kept elements of the first output, recorded and grown, for a plot; empty when they do not align."""
    key = min(golden.outputs.shapes, key=lambda key: not key.endswith("logits"))
    (n, width), kept = golden.outputs.shapes[key], golden.outputs.kept[key]
    if "values" not in kept or key not in answers or answers[key].shape[0] != n or answers[key].shape[1] < width:
        return {"source": [], "grown": []}
    recorded = kept["values"]
    rows, columns = sketch.kept_rows(n, len(recorded)), sketch.kept_columns(golden.seed, width, recorded.shape[1])
    answered = answers[key].numpy()[np.ix_(rows, columns)]
    pick = np.linspace(0, recorded.size - 1, min(count, recorded.size)).astype(int)
    return {"source": recorded.ravel()[pick].tolist(), "grown": answered.ravel()[pick].tolist()}


@guard
def hidden_states(golden: Golden, growth: GrowthOfSource, pair: OneSided, rounded: bool) -> Check:
    """Every layer's residual stream, read back through grow.json, has the recorded projections.

    rounded  the limit is `STORAGE_K` x what storage explains in that layer, else `EXACT`
    """
    states, layers = pair.hidden("grown", "float64"), list(golden.hidden.std)
    if golden.no_hidden:
        return Check("hidden_states", "skip", reason=golden.no_hidden)
    last = {layer.split(".")[0]: layer for layer in layers}.values()
    probes = list(golden.probes)
    matrix = [[math.nan] * len(probes) for _ in layers]
    for key, (n, width) in golden.hidden.shapes.items():
        probe, layer = key.rsplit("/", 1)
        there = f"{probe}/{growth.place(layer)}"
        if there not in states:
            return Check("hidden_states", "skip", reason=f"the grown model has no {there}")
        y, apart, problem = growth.layer(layer, layer in last)(states[there].numpy(), width)
        if problem or y.shape != (n, width):
            problem = problem or "the widths differ and no grow.json says how one is the other"
            return Check("hidden_states", "skip", reason=problem)
        delta = sketch.worst(golden.hidden.kept[key], y, golden.seed).delta if np.isfinite(y).all() else math.inf
        matrix[layers.index(layer)][probes.index(probe)] = max(delta, apart) / golden.hidden.std[layer]
    if len(states) != len(golden.hidden.shapes) and all(growth.place(layer) == layer for layer in layers):
        more = sorted(states.keys() - golden.hidden.shapes.keys())
        return Check("hidden_states", "skip", reason=f"the grown model has other layers: {more[0]}")
    rows = [max(v for v in row if not math.isnan(v)) for row in matrix]
    limits = [growth.floor(layer) if rounded else EXACT for layer in layers]
    measured = {"layers": layers, "probes": probes, "relative": matrix, "limits": limits, "worst": max(rows)}
    claim = "max |Δ projection| / std <= " + (
        f"{STORAGE_K:g} x what storage explains in that layer" if rounded else f"{EXACT:g} in every layer"
    )
    bad = [k for k, (value, limit) in enumerate(zip(rows, limits)) if not value <= limit]
    if bad:
        reason = f"first at {layers[bad[0]]}: {rows[bad[0]]:.3g} > {limits[bad[0]]:.3g}"
        return Check("hidden_states", "fail", measured, claim, reason)
    return Check("hidden_states", "pass", measured, claim)


def _first(checks: Sequence[Check]) -> dict[str, Any] | None:
    """The checks that failed, and the first tensor that differs; no module can be named without the source."""
    failed = [check for check in checks if check.status == "fail"]
    if not failed:
        return None
    faults = [str(fault) for check in failed for fault in check.measured.get("faults", ())]
    text = "; ".join(f"{check.name}: {check.reason}" for check in failed)
    return {"module": None, "tensor": faults[0].split(":")[0] if faults else None, "field": None, "text": text}


def _notes(golden: Golden, growth: GrowthOfSource, checks: Sequence[Check], now: dict[str, Any]) -> Iterator[str]:
    yield f"compared with what {golden.source['name']} answered when {Path(golden.path).name} was recorded"
    if growth.record is None:
        yield "no grow.json in the grown checkpoint: the outputs decide"
    elif growth.architecture is None:
        yield "grow.json tells of a growth from another checkpoint than the recorded one: its maps are not used"
    elif growth.record.lossy:
        yield f"grow.json says that this growth is not exact; {growth.record.method}: {growth.record.lossy}"
    then = golden.environment
    moved = [f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]]
    if moved and any(check.status == "fail" for check in checks):
        yield f"since it was recorded: {listing(moved)}"
    outputs = next((check for check in checks if check.name == "true_float64"), None)
    if outputs is None or outputs.status == "skip":
        yield f"the outputs were not compared: {outputs.reason if outputs else 'true_float64 was not asked for'}"
    if any(check.measured.get("within_storage") for check in checks):
        yield "the outputs agree as far as rounding the stored weights explains, which may be more than was rounded"
