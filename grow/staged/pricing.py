"""`grow run --dry-run`: what every stage costs.

Sizes are counted; time is measured over a few steps of each train stage on a random model of its size. Only a config is
written, to a temporary folder.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grow.models import gradient_checkpointing
from grow.staged.forecast import Forecast, forecast
from grow.staged.recipe import Recipe, read_recipe
from grow.verification.outputs.free_memory import available_memory

MEASURED = 3  # steps; the first one is not counted
PATIENCE = 20.0  # seconds: a step that takes longer is the only one measured


@dataclass(frozen=True)
class Price:
    """A forecast and its time in seconds; None where no time was measured, and `note` says why."""

    forecast: Forecast
    seconds: float | None = None
    note: str = ""

    def document(self) -> dict[str, Any]:
        f = self.forecast
        return {
            "name": f.stage.name,
            "kind": f.stage.kind,
            "parameters": f.parameters,
            "tokens": f.tokens,
            "steps": f.steps,
            "flops": f.flops,
            "train_bytes": f.train_bytes,
            "disk_bytes": f.disk_bytes,
            "seconds": self.seconds,
            "at_most": bool(f.settings and f.settings.plateau),
            "note": self.note,
        }


@dataclass(frozen=True)
class Pricing:
    """Every stage of a recipe, priced; `baseline` is None where there is none."""

    recipe: Recipe
    stages: tuple[Price, ...]
    baseline: Price | None
    machine: str

    @property
    def rows(self) -> tuple[Price, ...]:
        return (*self.stages, self.baseline) if self.baseline else self.stages

    def document(self) -> dict[str, Any]:
        rows = [row.document() for row in self.rows]
        sums = {
            key: sum(row[key] or 0 for row in rows) for key in ("tokens", "steps", "flops", "disk_bytes", "seconds")
        }
        return {
            "schema": 1,
            "recipe": self.recipe.name,
            "machine": self.machine,
            "stages": [row.document() for row in self.stages],
            "baseline": self.baseline.document() if self.baseline else None,
            "total": {**sums, "train_bytes": max(row["train_bytes"] for row in rows)},
        }


def priced(
    source: str | os.PathLike, *, measured: bool = True, progress: Callable[[str], None] = lambda stage: None
) -> Pricing:
    """See `grow.price`."""
    recipe = read_recipe(os.fspath(source))
    stages, baseline = forecast(recipe)
    last: dict[tuple[Any, ...], tuple[float, float]] = {}
    rows = []
    for one in (*stages, *([baseline] if baseline else [])):
        progress(one.stage.name)
        rows.append(_timed(one, last) if measured else Price(one))
    return Pricing(recipe, tuple(rows[: len(stages)]), rows[-1] if baseline else None, machine())


def machine() -> str:
    """The machine that this runs on, in words."""
    import torch

    if torch.cuda.is_available():
        return f"{platform.node()}: {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.node()}: {platform.machine()}, {cores} CPU cores, {torch.get_num_threads()} threads"


def _timed(one: Forecast, known: dict[tuple[Any, ...], tuple[float, float]]) -> Price:
    """The price of a stage, with its time if the model fits into memory. Equal computations are measured once."""
    s = one.settings
    if s is None:
        return Price(one)
    free = _free_memory()
    if free is not None and one.train_bytes > free:
        return Price(one, note=f"its time was not measured, because only {free / 1e9:.1f} GB of memory are free")
    key = (str(one.outline.config), s.batch, s.length, s.accumulate, s.dtype, s.optimizer, s.checkpointing, s.documents)
    if key not in known:
        known[key] = _measure(one)
    step, evaluation = known[key]
    return Price(one, one.steps * step + math.ceil(one.steps / s.eval_every) * evaluation)


def _measure(one: Forecast) -> tuple[float, float]:
    """Seconds of (a step, an evaluation), from the parts of a step on random text."""
    import torch

    from grow.comparison.training_loop import from_scratch
    from grow.files.writer import write_json
    from grow.processes import World
    from grow.training.step.loop import Loop, Signals
    from grow.training.step.model_and_loss import inputs, loss_sum, tokenizer_of
    from grow.training.step.parameter_groups import build_optimizers
    from grow.training.text.inputs import EVALUATED
    from grow.training.text.objectives import objective_of

    assert one.settings is not None
    s = replace(one.settings, batch=one.settings.batch // one.settings.accumulate, accumulate=1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(0, 1, device)
    with tempfile.TemporaryDirectory(prefix="grow-price-") as name:
        write_json(Path(name) / "config.json", one.outline.config)
        model = from_scratch(Path(name), 0)
    model.to(device, torch.float64 if s.dtype == "float64" else torch.float32).requires_grad_(True).train()
    if s.checkpointing:
        gradient_checkpointing.enable(model, {"use_reentrant": False})
    text: Any = _Noise(objective_of(model.config, tokenizer_of(one.outline.path), type(model).__name__), s)
    loop = Loop(model, build_optimizers(model, s, world), text, s, world, 0.0)
    with torch.random.fork_rng(devices=[]):
        seconds = list(_steps(loop, Signals()))
        began = time.perf_counter()
        with torch.no_grad(), loop.computing():
            loss_sum(model, inputs(next(text.parts(0)), device))
    forward = time.perf_counter() - began
    step = min(seconds[1:] or seconds) * one.settings.accumulate
    return step, forward * math.ceil(EVALUATED / s.batch)


def _steps(loop: Any, signals: Any) -> Iterator[float]:
    for _ in range(MEASURED):
        began = time.perf_counter()
        loop.one_step(signals)
        seconds = time.perf_counter() - began
        yield seconds
        if seconds > PATIENCE:
            return


class _Noise:
    """Random ids where `grow.training.text.inputs.Data` has text."""

    def __init__(self, objective: Any, settings: Any) -> None:
        self.objective, self.settings = objective, settings

    def parts(self, step: int) -> Iterator[dict[str, Any]]:
        import numpy as np

        from grow.data.loader import Batch

        shape = self.settings.batch, self.objective.block(self.settings.length) + 1
        ids = np.random.default_rng(step).integers(0, self.objective.vocab, shape)
        segments = np.zeros(shape, np.int64) if self.settings.documents else None
        yield self.objective.apply(Batch(ids, segments), seed=0, step=step, first=0)

    def named(self, step: int) -> str:
        return "random ids"


def _free_memory() -> int | None:
    """The bytes of free memory; None where the system does not say."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return available_memory()
