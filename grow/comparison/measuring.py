"""What is measured of each method: damage, trainability, and loss over the training steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from grow.checkpoint.reader import open_checkpoint
from grow.comparison import training_loop
from grow.comparison.summary import Curve, Damage, Learning, Row
from grow.comparison.text_batches import BATCH, Text, is_language_model, read_text
from grow.costs.of_a_model import Cost
from grow.errors import BadInput
from grow.planning.record import read_record
from grow.verification.checks.trainability import trainability
from grow.verification.outputs.compare import Readback, difference
from grow.verification.outputs.pair import Pair
from grow.verification.weights.recorded_growth import Replay


class Measurer:
    """Measures methods on the same source and text, with the same training settings."""

    def __init__(self, source: Path, file: Path | None, positions: int, steps: int, rate: float, seed: int) -> None:
        self.source, self.steps, self.rate, self.seed = source, steps, rate, seed
        self.costs: tuple[Cost, Cost] | None = None
        self.text: Text | None = None
        if steps or file is not None or is_language_model(source):
            try:
                self.text = read_text(source, file, positions, seed)
            except BadInput:
                if steps or file is not None:  # without either, a source may lack a tokenizer
                    raise
        self._pair: Pair | None = None

    @cached_property
    def source_loss(self) -> float | None:
        return training_loop.loss_of(training_loop.opened(self.source), self.text) if self.text else None

    def step_zero(self, folder: Path) -> tuple[Damage | None, Learning | None]:
        """How far the grown outputs are from the source's in true float64, and how much of what is new can learn."""
        self._pair = pair = self._pair.against(folder) if self._pair else Pair(self.source, folder, seed=self.seed)
        with open_checkpoint(self.source) as a, open_checkpoint(folder) as b:
            record = read_record(b.path)
            replay = Replay(record, a, b) if record else None
            outputs = pair.outputs("source", "float64"), pair.outputs("grown", "float64")
            readback = Readback(*replay.readback) if replay and replay.readback else None
            apart = difference(*outputs, readback)
            pair.release()
            check = trainability(pair, replay.by_name() if replay else None)
        pair.release()
        damage = None if apart.reason else Damage(apart.relative, apart.mean_abs / apart.std, apart.kl, apart.top1)
        measured = check.measured
        keys = ("new", "learning", "dead", "twins")
        return damage, Learning(*(measured[key] for key in keys)) if "new" in measured else None

    def train(
        self, folder: Path, flops_per_token: float, progress: Callable[[int], None]
    ) -> tuple[float | None, Curve | None]:
        """(the held-out loss at step 0, the curve when there are steps)."""
        if self.text is None:
            return None, None
        return self._run(training_loop.opened(folder), flops_per_token, progress)

    def _run(self, model: Any, flops: float, progress: Callable[[int], None]) -> tuple[float, Curve | None]:
        assert self.text is not None
        if not self.steps:
            return training_loop.loss_of(model, self.text), None
        curve = training_loop.train(model, self.text, self.steps, self.rate, flops, progress)
        return curve.heldout[0][2], curve

    def baselines(self, grown: Path, progress: Callable[[str], None]) -> tuple[Row, ...]:
        """Rows for the target's config with random weights, and for the source trained on as it is."""
        assert self.costs is not None
        old, new = self.costs
        rows = []
        for name, what, model, cost in (
            (
                "scratch",
                "the target's config with random weights",
                training_loop.from_scratch(grown, self.seed),
                new,
            ),
            ("source", "the source as it is, not grown", training_loop.opened(self.source), old),
        ):
            flops = cost.flops_per_token
            loss, curve = self._run(model, flops, lambda step, name=name: progress(f"{name}: step {step}"))  # type: ignore[misc]
            row = Row(name, "baseline", law=what, parameters=cost.parameters, flops_per_token=flops)
            rows.append(Row(**{**row.__dict__, "loss": loss, "curve": curve}))
        return tuple(rows)

    def training(self) -> dict[str, Any] | None:
        """How the methods were trained, JSON-ready; None when they were not."""
        if not self.steps or self.text is None:
            return None
        return {
            "steps": self.steps,
            "batch": BATCH,
            "length": self.text.length,
            "optimizer": "AdamW, weight decay 0, gradients clipped to norm 1, dropout off, float32; the rate rises "
            "for a tenth of the steps and then falls to 0",
            "rate": self.rate,
            "seed": self.seed,
        }
