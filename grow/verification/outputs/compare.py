"""How far the outputs of two models are apart, in units of the source's own spread.

    difference(run(source, probes), run(grown, probes)).relative  ->  max |Δ| / std(source)

The unit is the standard deviation of the source's output over all probes, because an absolute 1e-6 means
nothing without the size of the logits. A comparison that cannot be made (NaN, Inf, another shape, an output
that is constant) is `reason`, with relative = inf: never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from grow.models.true_float64 import forward, quiet
from grow.verification.outputs.stored_outputs import StoredOutputs, slices
from grow.verification.probes import Probe

Outputs = MutableMapping[str, torch.Tensor]  # "probe/output" -> (rows that count, width)


class Readback(NamedTuple):
    """How to find the n old coordinates among m new ones.

    source   (m,) int, -1 for a fresh coordinate
    factor   (m,) float: coordinate j holds factor[j] times the old one; or, when `shared`, its share of the old one
             is factor[j] times what it holds, and the shares are summed
    """

    source: np.ndarray
    factor: np.ndarray
    shared: bool = False


HIDDEN_OUTPUTS = ("last_hidden_state", "pooler_output")  # width is the hidden axis, so it grows with it
_DISTRIBUTIONS = ("logits", "prediction_logits")  # softmax over the last axis: KL and top-1 mean something
# How a model rejects its inputs or weights; the last three come from classes that miss an input they call optional.
RUN_ERRORS = (RuntimeError, IndexError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
_NOT_OUTPUTS = ("loss", "aux_loss")


class CannotRun(Exception):
    """The forward pass raised; the message names the probe."""

    def __init__(self, probe: Probe, error: Exception) -> None:
        self.probe = probe
        self.why = f"{type(error).__name__}: {error}"
        super().__init__(f"probe {probe.name!r} {tuple(probe.counted.shape)}: {self.why}")


@dataclass(frozen=True)
class Difference:
    """What a comparison measured.

    relative   max |Δ| / std of the source, the worst over all outputs; inf when `reason` is set
    max_abs    max |Δ|;  mean_abs  mean |Δ|;  std  spread of the source's output that is worst
    kl         mean KL(source ‖ grown) in nats per row of logits, None without logits;  kl_max  the worst row
    top1       share of rows whose most likely token is the same, None without logits
    where      "probe/output[row, coordinate]" of the worst element
    unknown    the two cannot be held against each other because nobody says how: neither equal nor different
    """

    relative: float
    max_abs: float = math.nan
    mean_abs: float = math.nan
    std: float = math.nan
    kl: float | None = None
    kl_max: float | None = None
    top1: float | None = None
    where: str = ""
    reason: str = ""
    unknown: bool = False

    def record(self, prefix: str = "") -> dict[str, Any]:
        """Finite numbers and text only, ready for JSON; what could not be measured is None."""
        fields = {
            k: getattr(self, k) for k in ("relative", "max_abs", "mean_abs", "std", "kl", "kl_max", "top1", "where")
        }
        return {prefix + k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def run(
    model: Any, probes: Iterable[Probe], *, one_by_one: bool = False, hidden: Outputs | None = None
) -> StoredOutputs:
    """Every float output of `model` on every probe, padding left out, in the dtype of the model; large ones are held
    on disk.

    "random/logits" is (rows that count, vocab), start_logits have width 1, pooled outputs are (rows, width).
    `one_by_one` feeds each row as its own batch. `hidden` is filled with the hidden states, "random/hidden.3"
    (rows that count, hidden), when the class gives any. Float64 models run inside `TrueFloat64`.
    """
    out = StoredOutputs()
    more = {} if hidden is None else {"output_hidden_states": True}
    with forward(model), quiet(), torch.random.fork_rng(devices=[]):
        for probe in probes:
            # A class that draws in its forward pass draws the same in both models.
            torch.default_generator.manual_seed(0)
            parts = [probe.row(i) for i in range(len(probe.counted))] if one_by_one else [probe]
            try:
                answers = []
                for part in parts:  # one after the other: what is not kept of a pass is gone before the next
                    raw = model(**part.arguments(model.dtype), **more)
                    answers.append(_floats(raw, part))
                    for name, value in _hidden_states(raw) if hidden is not None else ():
                        if value.ndim == 3:
                            hidden[f"{probe.name}/{name}"] = flatten(name, value, probe.mask(name))  # type: ignore[index]
                    del raw
            except RUN_ERRORS as error:
                raise CannotRun(probe, error) from error
            for name in answers[0]:
                rows = [part[name] for part in answers]
                out[f"{probe.name}/{name}"] = rows[0] if len(rows) == 1 else torch.cat(rows)
            del answers
    return out


def _hidden_states(output: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """("hidden.0", the embedding's output), … in the order of the layers; encoder and decoder apart."""
    for key in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states"):
        for k, value in enumerate(output.get(key) or ()):
            yield f"{key.removesuffix('_hidden_states').removesuffix('_states')}.{k}", value


def _floats(output: Mapping[str, Any], probe: Probe) -> dict[str, torch.Tensor]:
    tensors = {k: v for k, v in output.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    # A scalar, such as the perplexity of a codebook, sums up a batch: rows alone have another.
    return {k: flatten(k, v, probe.mask(k)) for k, v in tensors.items() if k not in _NOT_OUTPUTS and v.ndim}


def flatten(name: str, value: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(rows, length, width) -> (rows that count, width); span logits (rows, length) have width 1.

    An output whose length is not the mask's (patches, frames, queries) has no padding; of a map (rows, channels,
    height, width) every pixel is a row. Scores of each row's image with each row's text give those of its own.
    """
    if name in ("start_logits", "end_logits") or value.ndim == 1:
        value = value[..., None]
    if name.startswith("logits_per_"):
        value = value.diagonal()[:, None]
    if value.ndim > 3:
        value = value.movedim(1, -1)
    if value.ndim > 2:
        whole = value.shape[:-1] != counted.shape or bool(counted.all())
        value = value.flatten(0, -2) if whole else value[counted].flatten(1)
    return value


def difference(a: Outputs, b: Outputs, readback: Readback | Mapping[str, Readback] | None = None) -> Difference:
    """The worst disagreement of the grown outputs `b` with the source outputs `a`.

    A larger vocabulary in `b` is compared on the source's tokens. A wider hidden output needs `readback`: for
    every coordinate j that is not fresh, b[..., j] / factor[j] is compared with a[..., source[j]], so all
    copies of a unit are checked and every old unit must have one. Give a mapping by output name when the maps
    of `last_hidden_state` and `pooler_output` differ.
    """
    if not a:
        return Difference(math.inf, reason="the source has no floating-point output")
    lost = sorted(a.keys() - b.keys())
    if lost:
        return Difference(math.inf, reason=f"the grown model has no output {lost[0]!r}")
    std = spread(a)
    worst = Difference(0.0, 0.0)
    total, count, kls, agree = 0.0, 0, [], []
    for key in a:
        name = key.split("/")[-1]
        wide_x, wide_y = a[key], b[key]
        for side, value in (("source", wide_x), ("grown", wide_y)):
            if bad := _not_finite(value):
                return Difference(math.inf, where=key, reason=f"{bad} values of {key} in the {side} are NaN or Inf")
        if std[name] == 0:
            return Difference(
                math.inf, where=key, reason=f"{name} of the source is constant, so nothing can be told apart"
            )
        if len(wide_x) != len(wide_y):
            return Difference(math.inf, where=key, reason=f"{key}: {_other_shape(wide_x, wide_y)}")
        for part in slices(len(wide_x), max(wide_x.shape[1], wide_y.shape[1])):
            x, y, problem = _aligned(name, wide_x[part].double(), wide_y[part].double(), readback)
            if problem:
                problem = problem if x.shape[1] == y.shape[1] else _other_shape(wide_x, wide_y, name, problem)
                unknown = name in HIDDEN_OUTPUTS and readback is None and y.shape[1] > x.shape[1]
                return Difference(math.inf, where=key, reason=f"{key}: {problem}", unknown=unknown)
            delta = (x - y).abs()
            total, count = total + float(delta.sum()), count + delta.numel()
            top = float(delta.max())
            if top / std[name] > worst.relative or worst.std != worst.std:
                row, column = divmod(int(delta.argmax()), delta.shape[1])
                where = f"{key}[{part.start + row}, {column}]"
                worst = Difference(top / std[name], top, std=std[name], where=where)
            if name in _DISTRIBUTIONS and x.shape[1] > 1:
                p, q = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
                kls.append((p.exp() * (p - q)).sum(-1))
                # An exact tie has no first place: count it as agreement whichever index argmax returns.
                pick, best = y.argmax(-1, keepdim=True), x.argmax(-1, keepdim=True)
                agree.append((x.gather(1, pick) == x.amax(-1, True)) | (y.gather(1, best) == y.amax(-1, True)))
    kl = torch.cat(kls) if kls else None
    return Difference(
        worst.relative,
        worst.max_abs,
        total / max(count, 1),
        worst.std,
        None if kl is None else float(kl.mean()),
        None if kl is None else float(kl.max()),
        float(torch.cat(agree).double().mean()) if agree else None,
        worst.where,
    )


def scatter(
    a: Outputs, b: Outputs, readback: Readback | Mapping[str, Readback] | None = None, count: int = 400
) -> dict[str, list[float]]:
    """Evenly spaced elements of the first output, source and grown, for a plot; empty when they do not align or hold
    NaN or Inf."""
    for key in a.keys() & b.keys() and sorted(a, key=lambda key: not key.endswith("logits"))[:1]:
        x, y, problem = _aligned(key.split("/")[-1], a[key], b[key] if key in b else a[key], readback)
        if not problem:
            pick = evenly(x.numel(), count)
            row, column = pick // x.shape[1], pick % x.shape[1]
            numbers = x[row, column].double(), y[row, column].double()
            if all(bool(values.isfinite().all()) for values in numbers):
                return dict(zip(("source", "grown"), (values.tolist() for values in numbers)))
    return {"source": [], "grown": []}


def evenly(n: int, count: int) -> torch.Tensor:
    """`count` of n places or fewer, evenly spaced from first to last, in whole numbers: a float32 has no 2^24 + 1."""
    count = min(n, count)
    return torch.arange(count) * (n - 1) // max(1, count - 1)


def _not_finite(x: torch.Tensor) -> int:
    """How many numbers of (rows, width) are NaN or Inf."""
    return sum(int((~torch.isfinite(x[part])).sum()) for part in slices(len(x), x.shape[1]))


def _other_shape(x: torch.Tensor, y: torch.Tensor, name: str = "", problem: str = "") -> str:
    if problem.startswith("readback"):
        return problem
    hint = "; a wider hidden output needs a readback map" if name in HIDDEN_OUTPUTS else ""
    return f"shape {tuple(y.shape)} instead of {tuple(x.shape)}{hint}"


def spread(a: Outputs) -> dict[str, float]:
    """Standard deviation of every output over all its probes; a single value is its own size.

    Slice by slice: means and squared deviations of parts combine (Chan, Golub, LeVeque 1979).
    """
    moments: dict[str, tuple[int, float, float]] = {}  # count, mean, sum of squared deviations
    for key in a:
        name, value = key.split("/")[-1], a[key]
        for part in slices(len(value), value.shape[1]):
            x = value[part].double()
            n, mean, squares = moments.get(name, (0, 0.0, 0.0))
            k, own = x.numel(), float(x.mean()) if x.numel() else 0.0
            apart = own - mean
            squares += float(((x - own) ** 2).sum()) + apart**2 * n * k / max(1, n + k)
            moments[name] = n + k, mean + apart * k / max(1, n + k), squares
    return {name: math.sqrt(squares / n) if n > 1 else abs(mean) for name, (n, mean, squares) in moments.items()}


def _aligned(
    name: str, x: torch.Tensor, y: torch.Tensor, readback: Readback | Mapping[str, Readback] | None
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Bring the grown output `y` to the coordinates of `x`, or say why that cannot be done."""
    if isinstance(readback, Mapping):
        readback = readback.get(name)
    if name in HIDDEN_OUTPUTS and readback is not None and x.shape != y.shape:  # else its width is its own
        return read_back(x, y, Readback(*readback))
    if name in _DISTRIBUTIONS and y.shape[1] > x.shape[1]:
        y = y[:, : x.shape[1]]
    if x.shape != y.shape:
        return x, y, _other_shape(x, y, name)
    return x, y, ""


def read_back(x: torch.Tensor, y: torch.Tensor, readback: Readback) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Source (rows, n) and grown (rows, m) as two tensors of one shape, or why that cannot be done."""
    source, factor = np.asarray(readback.source, np.int64), np.asarray(readback.factor, np.float64)
    old = np.flatnonzero(source >= 0)
    if source.shape != factor.shape or source.shape != (y.shape[1],):
        return x, y, f"readback has {source.shape} sources and {factor.shape} factors for a width of {y.shape[1]}"
    if set(source[old]) != set(range(x.shape[1])):
        return x, y, f"readback covers {len(set(source[old]))} of the {x.shape[1]} old coordinates"
    if not (np.isfinite(factor[old]).all() and factor[old].all()):
        return x, y, "readback has a factor that is 0 or not finite"
    scale, index = torch.from_numpy(factor[old]), torch.from_numpy(source[old])
    if readback.shared:
        return x, torch.zeros_like(x).index_add_(1, index, y[:, old] * scale), ""
    return x[:, source[old]], y[:, old] / scale, ""
