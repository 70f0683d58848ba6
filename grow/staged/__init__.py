"""Staged recipes: a TOML file says train, grow, train; `grow run` carries it out.

grow.run("small-to-base", out="run")          ->  a Finished
keys → recipe → outline → forecast → pricing → folder → stages → report → runner

A recipe is checked as a whole before anything runs, and every stage leaves a stock checkpoint in a folder of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from grow.spelling import check_flags, check_functions, check_path, check_whole

if TYPE_CHECKING:
    from grow.staged.pricing import Pricing
    from grow.staged.runner import Finished

__all__ = ["price", "run"]


def run(
    recipe: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    resume: bool = False,
    trust_checkpoint: bool = False,
    world: int | None = None,
    quiet: bool = True,
    on_stage: Callable[[str], None] = lambda stage: None,
    progress: Callable[[str], None] = lambda what: None,
) -> Finished:
    """Carry out a staged recipe: train, grow, train; `grow.staged.recipe` says what it may contain.

    recipe    a TOML file, or the name of a bundled recipe
    out       the new folder; default: the recipe's name here. Each stage leaves a stock checkpoint in it
    resume    continue the run in `out`, even inside a stage; only stages that have not begun may have changed
    world     refuse to run on any other number of processes
    on_stage  is called with a line at the beginning of each stage; progress: with what a growth is doing

    SIGTERM ends it after the current training step: see `.stopped` of the result. Raises GrowError; faults of the
    recipe, the data or a growth are found before anything runs.
    """
    check_path("recipe", recipe, "it is a TOML file, or the name of a bundled recipe")
    if out is not None:
        check_path("out", out, "a run is a folder")
    if world is not None:
        check_whole("world", world, "it is a number of processes", least=1)
    check_flags(resume=resume, trust_checkpoint=trust_checkpoint, quiet=quiet)
    check_functions(on_stage=on_stage, progress=progress)
    from grow.staged.runner import carry_out

    return carry_out(
        recipe,
        out=out,
        resume=resume,
        trust=trust_checkpoint,
        world=world,
        quiet=quiet,
        on_stage=on_stage,
        progress=progress,
    )


def price(
    recipe: str | os.PathLike, *, measured: bool = True, progress: Callable[[str], None] = lambda stage: None
) -> Pricing:
    """What every stage of a recipe costs: parameters, tokens, FLOPs, memory, disk. Nothing runs, nothing is written.

    measured  measure the time too, over a few steps of each train stage on a random model of its size
    """
    check_path("recipe", recipe, "it is a TOML file, or the name of a bundled recipe")
    check_flags(measured=measured)
    check_functions(progress=progress)
    from grow.staged.pricing import priced

    return priced(recipe, measured=measured, progress=progress)
