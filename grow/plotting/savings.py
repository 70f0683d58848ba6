"""What one run saved of another.

compare([grown, scratch])     Curves; savings are against the last run, or the one that is named

saved = 1 - cost of the run / cost of the baseline, in FLOPs, tokens and seconds; None where one of them never reached
the loss, or the baseline began there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from grow.costs.training_cost import TrainingCost
from grow.errors import BadInput, did_you_mean
from grow.plotting.curves import Curve
from grow.spelling import command, option

COSTS = ("flops", "tokens", "seconds")


@dataclass(frozen=True)
class Saving:
    """What `run` and `baseline` had cost when they first reached `loss`, the last loss of `of`; None where one never
    reached it."""

    run: str
    baseline: str
    of: str
    loss: float
    run_cost: TrainingCost | None
    baseline_cost: TrainingCost | None

    def saved(self, cost: str) -> float | None:
        """The saved share of the baseline's cost; below 0 the run cost more. None where one of them never reached the
        loss, or the baseline had it at no cost, which has no share."""
        if self.run_cost is None or self.baseline_cost is None or not getattr(self.baseline_cost, cost):
            return None
        return float(1 - getattr(self.run_cost, cost) / getattr(self.baseline_cost, cost))

    def document(self) -> dict[str, Any]:
        costs = {
            cost: {
                "run": getattr(self.run_cost, cost, None),
                "baseline": getattr(self.baseline_cost, cost, None),
                "saved": self.saved(cost),
            }
            for cost in COSTS
        }
        return {"run": self.run, "baseline": self.baseline, "loss": self.loss, "loss_of": self.of, **costs}


@dataclass(frozen=True)
class Curves:
    """Runs side by side.

    validation  whether validation losses were compared; they are when every run has some
    savings     two for each run but the baseline: at the baseline's last loss and at the run's own
    out         the picture, if one was drawn
    """

    curves: tuple[Curve, ...]
    baseline: str | None
    validation: bool
    savings: tuple[Saving, ...] = ()
    notes: tuple[str, ...] = ()
    out: Path | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> Curve:
        return next(curve for curve in self.curves if curve.name == name)

    def saving(self, run: str) -> Saving | None:
        """The saving of a run at a loss that it and the baseline reach, the lower one where they reach both."""
        both = [s for s in self.savings if s.run == run and s.run_cost and s.baseline_cost]
        return min(both, key=lambda s: s.loss, default=None)

    def document(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "out": None if self.out is None else str(self.out),
            "baseline": self.baseline,
            "compared": "validation" if self.validation else "training",
            "runs": [_document(curve) for curve in self.curves],
            "savings": [s.document() for s in self.savings],
            "notes": list(self.notes),
        }


def compare(curves: Sequence[Curve], baseline: str | None = None) -> Curves:
    """Every run against `baseline`, by default the last one; BadInput where losses cannot be compared."""
    names = _names(curves)
    if baseline is not None and baseline not in names:
        fix = did_you_mean(baseline, names) or option(baseline=names[-1])
        why = f"the runs are {', '.join(names)}"
        raise BadInput(option(baseline=baseline), what="is not one of the runs", why=why, fix=fix)
    validation = all(curve.losses(validation=True) for curve in curves)
    _check_texts(curves, validation)
    notes = []
    for curve in curves:
        if (curve.held_out if validation else curve.trained) is None:
            notes.append(f"{curve.name}: nothing records the text of its losses")
        if curve.before is None:
            notes.append(
                f"{curve.name}: costs count its own steps alone; those of its first checkpoint are not recorded"
            )
    against = next(curve for curve in curves if curve.name == (baseline or names[-1]))
    pairs = [(curve, of) for curve in curves if curve is not against for of in (against, curve)]
    savings = tuple(_saving(curve, against, of, validation) for curve, of in pairs)
    return Curves(tuple(curves), against.name if savings else None, validation, savings, tuple(notes))


def _names(curves: Sequence[Curve]) -> list[str]:
    names = [curve.name for curve in curves]
    if not names:
        fix = command("plot", runs="RUN", out="curves.png")
        raise BadInput(option("runs"), what="is missing", why="a curve shows a run", fix=fix)
    for name in names:
        if names.count(name) > 1:
            fix = command("plot", runs=[f"run{k + 1}={curve.path}" for k, curve in enumerate(curves)])
            why = "a curve is known by its name"
            raise BadInput(option(runs=name), what="is the name of two runs", why=why, fix=fix)
    return names


def _check_texts(curves: Sequence[Curve], validation: bool) -> None:
    texts = [(c.name, c.held_out if validation else c.trained) for c in curves]
    for (a, first), (b, second) in pairwise([(name, text) for name, text in texts if text is not None]):
        if first != second:
            raise BadInput(
                option(runs=b),
                what=f"has its losses on another text than {a}",
                details=[(a[:10], first), (b[:10], second)],
                why="losses on other tokens, contexts or objectives are not comparable",
                fix="plot them separately, or train both on the same data with the same length",
            )


def _saving(run: Curve, baseline: Curve, of: Curve, validation: bool) -> Saving:
    loss = of.final(validation)
    assert loss is not None  # a curve has a loss, and validation losses are compared where every curve has some
    costs = run.reaches(loss, validation), baseline.reaches(loss, validation)
    return Saving(run.name, baseline.name, of.name, loss, *costs)


def _document(curve: Curve) -> dict[str, Any]:
    return {
        "name": curve.name,
        "path": str(curve.path),
        "steps": curve.last.step,
        **curve.last.spent.document(),
        "before": curve.before and curve.before.document(),
        "loss": curve.final(validation=False),
        "val_loss": curve.final(validation=True),
        "marks": [{"name": m.name, "kind": m.kind, **m.at.document()} for m in curve.marks],
    }
