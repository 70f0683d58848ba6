"""The first module whose output differs, found by running both models in lock-step.

A module's grown output is read back to the old coordinates before it is compared: by the map of what its weight
writes, or as the residual stream. Then whatever explains the difference is looked for: the module's own tensors
against the table, then config.json.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from grow.models.fused_experts import called, file_names, fused, in_files
from grow.models.true_float64 import forward
from grow.notation.axes import GAIN, READ
from grow.planning.tensor import TensorPlan
from grow.verification.checks.expert_stacks import Stacks
from grow.verification.outputs.compare import RUN_ERRORS, Outputs, Readback, difference, read_back
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Differs, Side
from grow.verification.probes import Probe
from grow.verification.weights.recorded_growth import Replay

APART = 1e-9  # of a module's std: above what order of summation gives, below what a damaged weight does
MATCHED = 32  # rows that tell coordinates apart by correlation
Fault = Mapping[str, Any]  # tensor, index, found, wanted, rule
Explain = Callable[[str], Fault | None]  # parameter of a module -> its fault


def first_difference(
    pair: Pair, replay: Replay | None, explain: Explain, fields: Sequence[Mapping[str, Any]], *, limit: float = APART
) -> dict[str, Any] | None:
    """The first module that disagrees on the first probe that shows it; None when no module does or none can run.

    explain  the fault of a parameter, from the certificate or from comparing what is stored
    fields   fields of config.json that differ though no growth changes them
    limit    of the outputs, where rounding is expected
    """
    try:
        for probe in pair.probes:
            before = ""
            for name, relative in walk(pair, replay, probe).items():
                if relative > max(limit, APART):
                    return _explained(pair, (name, relative, before), probe, explain, fields)
                before = name
    except (Differs, NoRoom):
        return None
    return None


def without_effect(pair: Pair, tensors: Iterable[str]) -> list[str]:
    """The differing tensors that change no output when the source gets this one tensor of the grown model.

    Permuted units differ in several tensors, each of which alone would show; the row of a token that no probe holds,
    or a unit that none switches on, does not.
    """
    source, grown = (dict(pair.model(side, "float64").named_parameters()) for side in ("source", "grown"))
    reference = pair.outputs("source", "float64")
    model, missed = pair.model("source", "float64"), []
    within = _within(model)
    files = called(model) or {}
    stored: dict[str, str] = {files.get(str(n), str(n)): n for n in source if n in grown}
    for tensor in tensors:
        name = next((n for file, n in stored.items() if same_end(file, tensor)), None)
        whole, where = (name, None) if name else within(tensor)
        if whole is None or whole not in grown or source[whole].is_meta:
            missed.append(tensor)
            continue
        name, kept, new = whole, source[whole].data, grown[whole].data
        if where is not None:
            new = kept.clone().flatten().index_copy_(0, where, new.flatten()[where]).view(kept.shape)
        source[name].data = new
        try:
            if not any(_shows(pair, model, probe, reference) for probe in pair.probes):
                missed.append(tensor)
        finally:
            source[name].data = kept
    return missed


def _within(model: Any) -> Callable[[str], tuple[str | None, torch.Tensor | None]]:
    """Stored tensor -> the parameter that holds it among others, as those of experts, and its numbers' places there."""

    @functools.cache
    def places(parameter: str) -> dict[str, torch.Tensor]:
        shape = model.get_parameter(parameter).shape
        return in_files(model, {parameter: torch.arange(shape.numel()).view(shape)})

    def find(tensor: str) -> tuple[str | None, torch.Tensor | None]:
        for parameter in fused(model):
            for stored in file_names(model, parameter):
                if same_end(stored, tensor):
                    return parameter, places(parameter)[stored].flatten()
        return None, None

    return find


def _shows(pair: Pair, model: Any, probe: Probe, reference: Outputs) -> bool:
    now = pair.run("source", model, [probe])
    return difference({key: reference[key] for key in now}, now).relative > APART


def walk(pair: Pair, replay: Replay | None, probe: Probe) -> dict[str, float]:
    """Module -> max |Δ| of its outputs in units of the source's std, in the order in which they finish.

    Modules that run only in one model, or whose output cannot be read back, are left out.
    """
    seen: dict[str, list[torch.Tensor]] = {}
    distances: dict[str, float] = {}
    stacks = [Stacks(pair.model(side, "float64")).counts for side in ("source", "grown")]
    # which tokens come to an expert, and in which order, is another thing where there are others
    apart = [f"{name}." for name, count in stacks[1].items() if stacks[0].get(name) != count]
    _run(pair, "source", probe, seen.setdefault)
    back = _Back(replay, called(pair.model("grown", "float64")) or {})

    def compare(name: str, out: list[torch.Tensor]) -> None:
        if name.startswith(tuple(apart)):
            return
        old = replay.source_module(name) if replay else name
        if old in seen and name not in distances and len(seen[old]) == len(out):
            far = [back.apart(name, a, b) for a, b in zip(seen.pop(old), out)]
            known = [value for value in far if not math.isnan(value)]
            if known:
                distances[name] = max(known)

    _run(pair, "grown", probe, compare)
    return distances


def _run(pair: Pair, side: Side, probe: Probe, take: Callable[[str, list[torch.Tensor]], object]) -> None:
    """One forward pass; `take` gets every module's name and floating-point outputs."""
    model = pair.model(side, "float64")

    def hook(name: str) -> Callable:
        return lambda module, given, out: (take(name, _tensors(out)), None)[1]

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        with forward(model):
            model(**probe.arguments(model.dtype))
    except RUN_ERRORS as error:
        raise pair.blame(side, f"probe {probe.name!r}: {error}") from error
    finally:
        for handle in hooks:
            handle.remove()


def _tensors(out: Any) -> list[torch.Tensor]:
    """The floating-point tensors of an output, in order."""
    if isinstance(out, torch.Tensor):
        return [out.detach()] if out.is_floating_point() else []
    if isinstance(out, Mapping):
        out = list(out.values())
    return [t for part in out for t in _tensors(part)] if isinstance(out, (tuple, list)) else []


class _Back:
    """Reads outputs of grown modules in the coordinates of the source."""

    def __init__(self, replay: Replay | None, stored: Mapping[str, str]) -> None:
        """stored  parameter -> its name in the files"""
        self.stored = stored
        self.known = replay is not None
        self.tensors = replay.by_name() if replay else {}
        self.streams: dict[tuple[int, int], list[Readback]] = collections.defaultdict(list)
        """Old and new width -> every map of that size: a module without weights may write to any of these spaces."""
        if replay is not None:
            for final in (False, True):
                self._add(replay.maps["hidden"].n, replay.stream(final=final))
            for t in self.tensors.values():
                for axis_map in filter(None, t.maps):
                    self._add(axis_map.n, (np.maximum(axis_map.source, -1), axis_map.write, False))
                if t.tied and t.roles[0] == GAIN and t.maps[0] is not None:  # behind the norm of a tied head
                    self._add(t.maps[0].n, (np.maximum(t.maps[0].source, -1), t.maps[0].write, True))
            # angles are not scaled, and those of coordinates that no score reads may be any
            k = replay.maps["head_dim.k"]
            read = (k.source >= 0) & (k.gain != 0) & (k.write != 0)
            self._add(k.n, (np.where(read, k.source, -1), np.ones(k.m), False))

    def _add(self, n: int, fields: tuple | None) -> None:
        if fields is None:
            return
        new = Readback(*fields)
        known = self.streams[n, len(new.source)]
        same = (np.array_equal(a.source, new.source) and np.array_equal(a.factor, new.factor) for a in known)
        if not any(equal and a.shared == new.shared for equal, a in zip(same, known)):
            known.append(new)

    def apart(self, name: str, x: torch.Tensor, y: torch.Tensor) -> float:
        """max |Δ| in units of the source's std; NaN when the two cannot be compared."""
        if x.ndim == 0 or x.shape[:-1] != y.shape[:-1]:
            return math.nan
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if not torch.isfinite(y).all():
            return math.inf if torch.isfinite(x).all() else math.nan
        if not self.known and x.shape != y.shape:
            return math.nan if y.shape[1] < x.shape[1] or len(x) < MATCHED else _distance(*_matched(x, y))
        distances = []
        for readback in self._maps(name, x.shape[1], y.shape[1]):
            a, b, problem = read_back(x, y, readback) if readback else (x, y, "")
            if not problem and a.shape == b.shape:
                distances.append(_distance(a, b))
        return min(distances, default=math.nan)

    def _maps(self, name: str, n: int, m: int) -> Sequence[Readback | None]:
        """What the module's own weight writes; without a weight, whatever has this width."""
        plan = _plan(self.tensors, self.stored.get(f"{name}.weight", f"{name}.weight"))
        if plan is None:
            known: Sequence[Readback | None] = self.streams[n, m]
            return known or [None]
        for axis_map, role in zip(plan.maps, plan.roles):
            if axis_map is None or role == READ or (axis_map.n, axis_map.m) != (n, m):
                continue
            source = np.maximum(axis_map.source, -1)
            if role == GAIN and plan.tied:
                return [Readback(source, axis_map.write, shared=True)]
            return [Readback(source, axis_map.write * (axis_map.gain if role == GAIN else 1.0))]
        return [None]


def _distance(x: torch.Tensor, y: torch.Tensor) -> float:
    std = float(x.std(correction=0)) or float(x.abs().max()) or 1.0
    return float((x - y).abs().max()) / std


def _matched(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The grown coordinate (rows, m) that is most nearly a multiple of each old one (rows, n), scaled to it.

    Nobody says how a checkpoint of another tool was grown; a copy of a coordinate, however scaled, is found by its
    correlation with it.
    """
    best = (_unit(x).T @ _unit(y)).abs().argmax(dim=1)
    y = y[:, best]
    # the median, so that a few damaged rows do not move the scale by which all are judged
    ratio = torch.where(y == 0, torch.nan, x / y).nanmedian(dim=0).values
    return x, y * ratio.nan_to_num(1.0)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=0).clamp(min=torch.finfo(x.dtype).tiny)


def _plan(tensors: Mapping[str, TensorPlan], name: str) -> TensorPlan | None:
    """The plan of a module's parameter; stored names may lack its prefix or have one more."""
    return next((t for key, t in tensors.items() if same_end(key, name)), None)


def same_end(a: str, b: str) -> bool:
    """Whether two names of a tensor or module differ in their prefix only."""
    return a == b or a.endswith("." + b) or b.endswith("." + a)


def _explained(
    pair: Pair, first: tuple[str, float, str], probe: Probe, explain: Explain, fields: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    name, relative, before = first
    model = pair.model("grown", "float64")
    module = model.get_submodule(name)
    own = [
        file
        for parameter, _ in module.named_parameters(recurse=False)
        for file in file_names(model, f"{name}.{parameter}")
    ]
    text = f"{name} ({type(module).__name__}) is the first module whose output differs, by {relative:.3g} std"
    document: dict[str, Any] = {
        "module": name,
        "kind": type(module).__name__,
        "probe": probe.name,
        "relative": relative,
        "after": before,
        **dict.fromkeys(("tensor", "field", "index", "found", "wanted")),
        "rule": "",
    }
    fault = next(filter(None, map(explain, own)), None)
    if fault is None and not fields:
        files = (file for parameter, _ in model.named_parameters() for file in file_names(model, parameter))
        fault = next(filter(None, map(explain, files)), None)
    if fault is not None:
        document |= fault
        place = ", ".join(map(str, fault["index"] or ()))
        text += f": {fault['tensor']}[{place}] is {fault['found']:.9g}, wanted {fault['wanted']:.9g} ({fault['rule']})"
    elif fields:
        document |= {"field": fields[0]["field"], "found": fields[0]["grown"], "wanted": fields[0]["source"]}
        text += "; config.json differs in " + ", ".join(str(field["field"]) for field in fields)
    else:
        text += f"; no stored number and no field explains it: look between {before or 'the input'} and it"
    return document | {"text": text}
