"""The loss before the first step: measured, and held to be the source's where that is at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from grow.checkpoint.locate import locate
from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.moments.find import open_state
from grow.parallel import World
from grow.provenance import read_record
from grow.train.grown import check_losses
from grow.train.loading import load_model
from grow.train.loop import Loop
from grow.train.start import fill_weights


def first_loss(
    loop: Loop, checkpoint: Checkpoint, source: str | os.PathLike | None, world: World, *, exact: bool, trust: bool
) -> tuple[dict[str, float], list[str]]:
    """({"val_loss": …} or {} without validation text, notes); BadInput where the growth has lost something.

    source  what the checkpoint grew from, None: it is not compared
    exact   the weights are a state's in full precision, not those of the checkpoint: the source's are then read so too
    """
    found = loop.evaluated()
    grown = read_record(checkpoint.path)
    if grown is None:
        return found, []
    if source is None or not found:
        return found, ["the loss before the first step was not compared with the source's: --source SRC does"]
    with open_checkpoint(locate(source)) as opened:
        model, _ = load_model(opened, loop.settings, world)
    alike = not exact or _filled(opened.path, model, trust, world)
    before = Loop(model, [], loop.data, loop.settings, world, 0.0).evaluated()["val_loss"]
    dtypes = {info.dtype for info in checkpoint.tensors.values()}
    return found, [check_losses(before, found["val_loss"], grown, dtypes, checkpoint.path, alike)]


def _filled(path: Path, model: Any, trust: bool, world: World) -> bool:
    """Whether the source has its weights in full precision too; the model then has them."""
    with world.together():
        state = open_state(path, trust=trust)
        if state is None:
            return False
        with state:
            return fill_weights(state, model)
