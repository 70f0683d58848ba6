"""The loss before the first step, compared with the source's where that is at hand."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.files.locate import locate
from grow.models.float64_mode import TrueFloat64
from grow.optimizer.state.find import open_state
from grow.planning.record import read_record
from grow.processes import World
from grow.spelling import option
from grow.training.after_growth.new_entries import check_losses
from grow.training.begin.from_state import fill_weights
from grow.training.begin.loading import load_model
from grow.training.sharding import reshard
from grow.training.step.loop import Loop
from grow.training.step.model_and_loss import capacity, inputs, losses

UNCOMPARED = "the loss before the first step was not compared with the source's: "


@dataclass(frozen=True)
class Compared:
    """The mean losses of a grown model and its source, and the root mean square of their difference per token.

    what  which loss they are, in words
    """

    source: float
    grown: float
    apart: float
    what: str


def first_loss(
    loop: Loop, checkpoint: Checkpoint, source: str | os.PathLike | None, world: World, *, exact: bool, trust: bool
) -> tuple[dict[str, float], list[str]]:
    """({"val_loss": …} or {} without validation text, notes); BadInput where the growth has lost something.

    source  the checkpoint that it grew from, None: the losses are not compared
    exact   whether the weights are those of a training state, in full precision; the source's are then read so too
    """
    evaluated = loop.evaluated()
    grown = read_record(checkpoint.path)
    if grown is None:
        return evaluated, []
    if source is None:
        return evaluated, [UNCOMPARED + f"{option(source='SRC')} compares it"]
    with open_checkpoint(locate(source)) as opened:
        limit = capacity(opened.config)
        if limit is not None and loop.settings.length > limit:
            return evaluated, [UNCOMPARED + f"it has {limit} positions, and a sequence {loop.settings.length} tokens"]
        model, _ = load_model(opened, loop.settings, world)
    alike = not exact or _filled(opened.path, model, trust, world)
    compared = compare(loop, model, world)
    if compared is None:
        return evaluated, [UNCOMPARED + "the text has tokens that it does not know"]
    dtypes = {info.dtype for info in checkpoint.tensors.values()}
    c = compared
    return evaluated, [check_losses(c.source, c.grown, c.apart, c.what, grown, dtypes, checkpoint.path, alike)]


@torch.no_grad()
def compare(loop: Loop, source: Any, world: World) -> Compared | None:
    """The losses of both models on the validation text, or without one on the first batch; None where the source knows
    none of that text. Only the source's tokens count, since appended ones have logits of their own. Both compute
    in full precision, whatever the run's dtype is."""
    parts, what = list(loop.data.held_out()), "validation loss"
    if not parts:
        parts, what = list(loop.data.parts(loop.step)), "loss of the first batch"
    vocab = int(source.config.vocab_size)
    count = theirs = ours = squares = 0.0
    for part in parts:
        known = all(array.max() < vocab for name, array in part.items() if name.endswith("ids") or name == "labels")
        if world.sum(not known)[0]:  # every process leaves it out: a forward pass is done by all of them or by none
            continue
        one, other = (_losses(model, part, vocab, loop) for model in (source, loop.model))
        count, theirs, ours = count + len(one), theirs + float(one.sum()), ours + float(other.sum())
        squares += float((one - other).square().sum())
    loop.model.train()
    count, theirs, ours, squares = world.sum(count, theirs, ours, squares)
    return Compared(theirs / count, ours / count, (squares / count) ** 0.5, what) if count else None


def _losses(model: Any, part: Any, vocab: int, loop: Loop) -> torch.Tensor:
    model.eval()
    with TrueFloat64() if loop.settings.dtype == "float64" else contextlib.nullcontext():
        each = losses(model, inputs(part, loop.world.device), vocab).double()
    reshard(model)
    return each


def _filled(path: Path, model: Any, trust: bool, world: World) -> bool:
    """Whether the source's folder has weights in full precision too; `model` then has these."""
    with world.together():
        state = open_state(path, trust=trust)
        if state is None:
            return False
        with state:
            return fill_weights(state, model)
