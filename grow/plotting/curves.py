"""The loss of a run against what it cost: tokens, FLOPs, seconds.

    read_curve(Path("run"))       a run of `grow train`
    read_curve(Path("recipe"))    a recipe's folder: its training stages in a row, its growths as marks

A curve counts what its first checkpoint had cost, if it is recorded (`grow.costs.training_cost`). It imports no torch.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from grow.costs.training_cost import TrainingCost
from grow.errors import BadInput
from grow.files.regular import is_there, read_json
from grow.spelling import command, option
from grow.training.log.metrics import METRICS, kept_lines
from grow.training.run_folder import RUN

RECIPE = "recipe.json"
GROWTHS = ("widen", "deepen", "upcycle")
SMOOTHED = 20  # a training loss is a mean over a 20th of the run


def fix() -> str:
    """The fix where a folder is not that of a run."""
    return f"a folder that {command('train')} or {command('run')} has written"


@dataclass(frozen=True)
class Point:
    """The state after `step` optimizer steps; losses in nats per predicted token, None where not measured."""

    step: int
    spent: TrainingCost
    loss: float | None = None
    val_loss: float | None = None


@dataclass(frozen=True)
class Mark:
    """A growth, and the cost at which it stands on a curve."""

    name: str
    kind: str
    at: TrainingCost


@dataclass(frozen=True)
class Curve:
    """points     in order, costs cumulative, `before` included
    marks      growths on the way
    before     what the first checkpoint had cost, None where it is not recorded
    trained    the text of the training losses, in words; None where nothing says it
    held_out   the text of the validation losses
    """

    name: str
    path: Path
    points: tuple[Point, ...]
    marks: tuple[Mark, ...] = ()
    before: TrainingCost | None = None
    trained: str | None = None
    held_out: str | None = None

    @property
    def last(self) -> Point:
        return self.points[-1]

    def losses(self, validation: bool) -> list[tuple[TrainingCost, float]]:
        """The compared losses: validation losses as measured, or training losses as means over a 20th of the run."""
        if validation:
            return [(p.spent, p.val_loss) for p in self.points if p.val_loss is not None]
        seen = [(p.spent, p.loss) for p in self.points if p.loss is not None]
        width = max(1, round(len(seen) / SMOOTHED))
        windows = ([loss for _, loss in seen[max(0, k - width + 1) : k + 1]] for k in range(len(seen)))
        return [(at, sum(window) / len(window)) for (at, _), window in zip(seen, windows)]

    def final(self, validation: bool) -> float | None:
        """The last of `losses`."""
        seen = self.losses(validation)
        return seen[-1][1] if seen else None

    def reaches(self, loss: float, validation: bool) -> TrainingCost | None:
        """The cost when the curve first reached `loss`, linear between two points; None when it never did."""
        seen = self.losses(validation)
        if seen and seen[0][1] <= loss:
            return seen[0][0]
        for (a, high), (b, low) in pairwise(seen):
            if low <= loss:
                return a + (b - a) * ((high - loss) / (high - low))
        return None


def named(text: str) -> tuple[str | None, Path]:
    """(NAME, RUN) of NAME=RUN, or (None, RUN); the name of a folder may itself contain =."""
    name, equals, path = text.partition("=")
    if equals and name and path and not Path(text).is_dir():
        return name, Path(path)
    return None, Path(text)


def read_curve(folder: Path, name: str | None = None) -> Curve:
    """The curve of a run or of a recipe. A line that a killed run cut off does not count.

    BadInput when the folder belongs to neither, or nothing was trained in it.
    """
    name = name or folder.absolute().name
    if is_there(folder / RECIPE):
        return _recipe(folder, name)
    if not is_there(folder / METRICS):
        what = f"has no {METRICS} and no {RECIPE}" if folder.is_dir() else "is not a folder"
        raise BadInput(option(runs=folder), what=what, why="they say how a run went", fix=fix())
    begun = _document(folder / RUN)
    before = TrainingCost.of(begun.get("before"))
    points = [replace(p, spent=p.spent + before) for p in _points(folder / METRICS)]
    return Curve(name, folder, tuple(points), (), before, *_texts(begun))


def _recipe(folder: Path, name: str) -> Curve:
    stages = _document(folder / RECIPE).get("stages")
    if not isinstance(stages, list) or not all(isinstance(s, dict) and _inside(folder, s) for s in stages):
        raise BadInput(str(folder / RECIPE), what="lists no stages", why="they say what was trained", fix=fix())
    curve: Curve | None = None
    grown: list[tuple[str, str]] = []
    for stage in stages:
        kind, here = str(stage.get("kind")), folder / str(stage.get("folder") or "nowhere")
        if kind in GROWTHS:
            grown.append((str(stage.get("name")), kind))
        elif kind == "train" and is_there(here / METRICS):
            if curve is None:
                curve = replace(read_curve(here, name), path=folder)
            else:
                curve = _continued(curve, here, grown)
            grown = []
    if curve is None:
        raise BadInput(
            option(runs=folder), what="has trained nothing yet", why="a curve shows training stages", fix=fix()
        )
    return curve


def _inside(recipe: Path, stage: dict[str, Any]) -> bool:
    """Whether a stage's folder, where it names one, is inside the recipe's folder."""
    folder = stage.get("folder")
    if folder is None:
        return True
    real = Path(os.path.realpath(recipe))  # a link to itself does not resolve further
    return isinstance(folder, str) and "\0" not in folder and real in Path(os.path.realpath(real / folder)).parents


def _continued(curve: Curve, here: Path, grown: list[tuple[str, str]]) -> Curve:
    """The curve, followed by a further stage, whose costs count on from the end of the curve."""
    last = curve.last
    more = [Point(p.step + last.step, p.spent + last.spent, p.loss, p.val_loss) for p in _points(here / METRICS)]
    marks = [Mark(name, kind, last.spent) for name, kind in grown]
    trained, held_out = _texts(_document(here / RUN))
    return replace(
        curve,
        points=(*curve.points, *more),
        marks=(*curve.marks, *marks),
        trained=_then(curve.trained, trained),
        held_out=_then(curve.held_out, held_out),
    )


def _then(first: str | None, second: str | None) -> str | None:
    return first if first == second else f"{first}, then {second}"


def _points(file: Path) -> list[Point]:
    points = []
    for line in kept_lines(file, 1 << 62):
        entry = json.loads(line)
        try:
            losses = [None if entry.get(k) is None else float(entry[k]) for k in ("loss", "val_loss")]
            spent = TrainingCost.of(entry)
            if spent is None or not all(math.isfinite(x) for x in losses if x is not None):
                raise ValueError("no tokens, flops, seconds, or a loss that is not finite")
            points.append(Point(int(entry["step"]), spent, *losses))
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(
                str(file), what="is not a record of a run", why=f"{error} in {line[:80]!r}", fix=fix()
            ) from None
    if not any(point.loss is not None for point in points):
        why = "no step was finished" if points else "it is empty"
        raise BadInput(str(file), what="has no loss", why=why, fix="wait for the first step, or name another run")
    return points


def _texts(begun: dict[str, Any]) -> tuple[str | None, str | None]:
    """The texts of the training and validation losses, in words that are equal exactly when the texts are."""
    try:
        settings, data = begun["settings"], begun["data"]
        apart = ", documents apart" if settings["documents"] else ""
        how = f"{begun['objective']} over {settings['length']} tokens{apart}"
        shares = [f"{d['tokens'][:12]}{'' if d['weight'] is None else ':' + str(d['weight'])}" for d in data]
        held_out = [d["validation"][:12] for d in data]
    except (KeyError, TypeError):
        return None, None
    return f"{how} of {', '.join(shares)}", f"{how} of {', '.join(held_out)}"


def _document(file: Path) -> dict[str, Any]:
    if not is_there(file):
        return {}
    document = read_json(file, fix())
    return document if isinstance(document, dict) else {}
