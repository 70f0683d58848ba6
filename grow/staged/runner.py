"""`grow.run`: the stages of a recipe, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.regular import is_there
from grow.files.staging import check_apart
from grow.processes import World, world_of
from grow.spelling import option
from grow.staged.forecast import forecast, named
from grow.staged.pricing import machine
from grow.staged.recipe import BASELINE_INIT, FINAL, RECIPE, REPORT, Recipe, Stage, read_recipe
from grow.staged.recipe_folder import DONE, RUNNING, WAITING, Book, check_out
from grow.staged.recipe_report import write_report
from grow.staged.stages import Conductor, Outcome
from grow.training.run_folder import locked
from grow.training.text.inputs import parse_sources


@dataclass(frozen=True)
class Finished:
    """A recipe that ran to its end, or was interrupted.

    path      OUT;  final: the last checkpoint, None before it exists
    stages    what recipe.json says of each, in order; baseline: likewise, None where there is none
    stopped   the signal that ended the run early, or ""
    """

    path: Path
    final: Path | None
    stages: tuple[Mapping[str, Any], ...]
    baseline: Mapping[str, Any] | None
    stopped: str = ""

    @property
    def report(self) -> Path | None:
        return None if self.stopped else self.path / REPORT

    def document(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "path": str(self.path),
            "final": str(self.final) if self.final else None,
            "report": str(self.report) if self.report else None,
            "stopped": self.stopped,
            "stages": [dict(stage) for stage in self.stages],
            "baseline": dict(self.baseline) if self.baseline else None,
        }


def carry_out(
    source: str | os.PathLike,
    *,
    out: str | os.PathLike | None,
    resume: bool,
    trust: bool,
    world: int | None,
    quiet: bool,
    on_stage: Callable[[str], None],
    progress: Callable[[str], None],
) -> Finished:
    """See `grow.run`."""
    recipe = read_recipe(Path(source) if not isinstance(source, str) else source)
    folder = Path(out if out is not None else recipe.name).absolute()
    with ExitStack() as stack:
        here = stack.enter_context(world_of(world))
        with here.together():
            if here.first:
                check_out(folder, resume)
        if not (folder / RECIPE).is_file():  # a run that was begun is compared with recipe.json instead
            needed = _check(recipe, here)
            for source in _read(recipe):
                check_apart(folder, source)
        else:
            needed = 0
        with here.together():
            if here.first:
                _check_room(folder, needed)
                folder.mkdir(exist_ok=True)
                stack.enter_context(locked(folder))
        book = _opened(folder, recipe, here)
        return _Run(recipe, book, here, quiet, trust, on_stage, progress).carry_out()


def _read(recipe: Recipe) -> list[str]:
    """The checkpoints and token files that a recipe reads."""
    stages = [*recipe.stages, *([recipe.baseline] if recipe.baseline else [])]
    data = [source.path for stage in stages for source in parse_sources(stage.options.get("data") or [])]
    return [*(stage.options["from"] for stage in stages if "from" in stage.options), *data]


def _check(recipe: Recipe, world: World) -> int:
    """The bytes that the run will leave; refuses, before anything runs, a stage that cannot be carried out."""
    stages, baseline = forecast(recipe, world.size)
    return sum(one.disk_bytes for one in (*stages, *([baseline] if baseline else [])))


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if needed > free:
        raise BadInput(
            option(out=folder),
            what=f"the stages need {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            why="a disk that fills up ends a run in the middle",
            fix=f"another {option('out')}, a smaller keep in the recipe, or make room",
        )


def _opened(folder: Path, recipe: Recipe, world: World) -> Book:
    """The document recipe.json as it is now, the same on every process."""
    book: Book | None = None
    with world.together():
        if world.first:
            if is_there(folder / RECIPE):
                book = Book.open(folder)
                book.take(recipe)
                if any(entry["status"] == WAITING for entry in book.stages):
                    forecast(recipe, world.size)  # the stages that have not begun may have changed
            else:
                book = Book.begin(folder, recipe, machine())
            book.write(recipe)
    return Book(folder, world.broadcast(book.document if book else None))


@dataclass
class _Run:
    recipe: Recipe
    book: Book
    world: World
    quiet: bool
    trust: bool
    on_stage: Callable[[str], None]
    progress: Callable[[str], None]

    def carry_out(self) -> Finished:
        conductor = Conductor(self.book.out, self.book, self.world, self.quiet, self.trust, self.progress)
        before: dict[str, Any] | None = None
        count, checked = len(self.recipe.stages), False
        for number, (stage, entry) in enumerate(zip(self.recipe.stages, self.book.stages), 1):
            if entry["status"] != DONE:
                self.on_stage(f"stage {number} of {count}: {stage.name} ({stage.kind})")
                if not checked:  # later stages begin with what this run makes
                    self._check_source(before)
                    checked = True
                with named(self.recipe, f"stage {number} ({stage.kind})", stage.kind):
                    stopped = self._do(entry, partial(conductor.carry_out, stage, entry, before))
                if stopped:
                    return self._finished(stopped)
            before = entry
        assert before is not None
        with self.world.together():
            if self.world.first:
                self.book.point(before)
                self.book.document["final"] = before["checkpoint"]
                self.book.write()
        if stopped := self._baseline(conductor, before):
            return self._finished(stopped)
        with self.world.together():
            if self.world.first:
                write_report(self.book)
        return self._finished()

    def _do(self, entry: dict[str, Any], work: Callable[[], Outcome]) -> str:
        """Do what is left of a stage; the signal that stopped it, or ""."""
        self._note(entry, {"status": RUNNING})
        outcome = work()
        self._note(entry, {**outcome, "status": RUNNING if "stopped" in outcome else DONE})
        return str(outcome.get("stopped", ""))

    def _note(self, entry: dict[str, Any], outcome: Outcome) -> None:
        entry.pop("stopped", None)
        entry.update(outcome)
        with self.world.together():
            if self.world.first:
                self.book.write()

    def _check_source(self, before: Mapping[str, Any] | None) -> None:
        """Check that the next stage begins with what the stage before it left."""
        with self.world.together():
            if self.world.first and before is not None:
                self.book.check_checkpoint(before)

    def _baseline(self, conductor: Conductor, last: Mapping[str, Any]) -> str:
        """Train the last model's config from random weights for as many FLOPs; the signal that stopped it, or ""."""
        entry, stage = self.book.baseline, self.recipe.baseline
        if entry is None or stage is None or entry["status"] == DONE:
            return ""
        flops = sum(one.get("flops", 0.0) for one in self.book.stages)
        self.on_stage(f"baseline: {last['checkpoint']} from random weights, {flops:.3g} FLOPs")
        with named(self.recipe, "[baseline]"):
            return self._do(entry, partial(self._from_scratch, conductor, stage, entry, last, flops))

    def _from_scratch(
        self, conductor: Conductor, stage: Stage, entry: Mapping[str, Any], last: Mapping[str, Any], flops: float
    ) -> Outcome:
        if not self.book.begun(entry):
            options: dict[str, Any] = {"from": str(self.book.path(last)), "revision": None, "sizes": {}}
            options |= {"dtype": "float32", "seed": stage.options["seed"], "assume_harmless": self._harmless()}
            conductor.carry_out(Stage("init", BASELINE_INIT, options), {"folder": BASELINE_INIT}, None)
        budgeted = replace(stage, options={**stage.options, "flops": flops})
        outcome = conductor.carry_out(budgeted, entry, {"checkpoint": BASELINE_INIT})
        return {**outcome, "budget_flops": flops}

    def _harmless(self) -> list[str]:
        """The config fields that any stage assumes to be harmless."""
        return sorted({name for stage in self.recipe.stages for name in stage.options.get("assume_harmless", ())})

    def _finished(self, stopped: str = "") -> Finished:
        final = self.book.out / FINAL
        stages = tuple(self.book.stages)
        return Finished(self.book.out, final if final.exists() else None, stages, self.book.baseline, stopped)
