"""The recording of a source's answers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.checkpoint.pickled import open_readable
from grow.errors import BadInput, Refused
from grow.files.header import show
from grow.files.locate import locate
from grow.spelling import option
from grow.verification.checks import hidden_states
from grow.verification.checks.generation import effective
from grow.verification.golden import sketch
from grow.verification.golden.content import Floor, Golden, Sketches
from grow.verification.golden.golden_file import check_target, write
from grow.verification.golden.golden_probes import OneSided, fit, to_stored
from grow.verification.golden.kept_tokenizer import fingerprint
from grow.verification.outputs import noise_floors
from grow.verification.outputs.compare import Outputs
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.pair import Pair
from grow.verification.verdict import environment

# Bytes. Wide outputs are sketched and rows left out until they fit; of images, 224 x 224 pixels of one are asked. So
# a file has at most half a megabyte, and one of a language model 0.35.
INPUTS, OUTPUTS, HIDDEN = 160_000, 224_000, 80_000
NARROW = 64  # columns; what is kept of a wider output takes as much
COLUMNS, TOP = 32, 8
DTYPES = ("float32", "bfloat16", "float16")


def record(
    src: str | os.PathLike,
    path: str | os.PathLike,
    *,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    name: str | None = None,
    budget: int = OUTPUTS,
    progress: Callable[[str], None] = lambda step: None,
) -> Golden:
    """Write what `src` answers to the standard probes into `path`, for `against`.

    name      of the source in reports, `src` without it
    budget    bytes for the outputs; all of them are stored where they fit, else sketches (`sketch.py`)
    progress  called with the name of each step

    Raises BadInput where the source or the file is at fault, Refused where the source does not fit into memory.
    """
    path = Path(path)
    if seed < 0:
        raise BadInput(
            option(seed=seed),
            what=f"must be a whole number, 0 or more, got {seed}",
            why="the probes are drawn from it",
            fix=option(seed=0),
        )
    check_target(path, overwrite)
    folder = locate(src, revision=revision)
    with open_readable(folder) as checkpoint:
        config = checkpoint.config
    try:
        with Pair(folder, folder, seed=seed) as drawn:
            given = fit(drawn.probes, INPUTS)
        with OneSided(folder, given) as pair:
            progress("float64")
            answers, states = pair.outputs("source", "float64"), pair.hidden("source", "float64")
            _alive(folder, answers)
            kept, streams = _outputs(answers, seed, budget), _hidden(states, seed)
            floors = {}
            for dtype in DTYPES:
                progress(dtype)
                floors[dtype] = _floors(pair, dtype, kept, streams, seed)
            golden = Golden(
                path,
                {
                    "name": show(src if name is None else name),
                    "class": pair.class_name("source"),
                    "config": config,
                    "ignored": list(pair.ignored()),
                    "generation": _generation(pair),
                },
                seed,
                to_stored(given),
                given.skipped,
                kept,
                streams,
                "" if streams.shapes else "the class gives no hidden states, or one that is constant",
                floors,
                fingerprint(folder),
                environment(),
            )
    except NoRoom as error:
        raise Refused(
            show(folder), what="does not fit into memory", why=str(error), fix="record it on a larger machine"
        ) from None
    write(golden, overwrite=overwrite)
    return golden


def _generation(pair: Pair) -> dict[str, Any] | None:
    """The settings of `generate`, None where the class does not generate or they do not load."""
    try:
        return effective(pair.folders["source"]) if pair.can_generate("source") else None
    except Exception:  # transformers raises a dozen types here
        return None


def _alive(folder: Path, answers: Outputs) -> None:
    """BadInput when the answers cannot tell one model from another."""
    where, fix = show(folder), "check that its weights are those that were trained"
    if not answers:
        raise BadInput(where, what="has no floating-point output", why="there is nothing to record", fix=fix)
    for key, value in answers.items():
        if not torch.isfinite(value).all():
            raise BadInput(where, what=f"{key} is NaN or Inf", why="NaN is equal to nothing", fix=fix)
    for name, std in _std(answers).items():
        if not std > 0:
            raise BadInput(where, what=f"{name} is constant", why="it cannot tell two models apart", fix=fix)


def _std(answers: Outputs) -> dict[str, float]:
    parts: dict[str, list[np.ndarray]] = {}
    for key, value in answers.items():
        parts.setdefault(key.rsplit("/", 1)[1], []).append(value.numpy())
    return {name: sketch.spread(values) for name, values in parts.items()}


def _outputs(answers: Outputs, seed: int, budget: int) -> Sketches:
    shapes = _shapes(answers)
    everything = sum(8 * n * width for n, width in shapes.values()) <= budget
    columns = {key: width if everything or width <= NARROW else COLUMNS for key, (_, width) in shapes.items()}
    return _sketched(answers, columns, TOP, budget, seed)


def _hidden(states: Outputs, seed: int) -> Sketches:
    alive = all(torch.isfinite(v).all() for v in states.values()) and all(std > 0 for std in _std(states).values())
    return _sketched(states if alive else {}, dict.fromkeys(states, 0), 0, HIDDEN, seed)


def _shapes(answers: Outputs) -> dict[str, tuple[int, int]]:
    return {key: (value.shape[0], value.shape[1]) for key, value in answers.items()}


def _sketched(answers: Outputs, columns: Mapping[str, int], top: int, budget: int, seed: int) -> Sketches:
    """Every matrix sketched; the same share of the rows of each, at least one, so that all fit the budget."""
    shapes = _shapes(answers)
    size = {key: sketch.bytes_per_row(width, columns[key], top) for key, (_, width) in shapes.items()}
    share = min(1.0, budget / max(1, sum(n * size[key] for key, (n, _) in shapes.items())))
    kept: dict[str, sketch.Sketch] = {
        key: sketch.sketch(
            value.numpy(),
            seed=seed,
            rows=max(1, math.floor(shapes[key][0] * share)),
            columns=columns[key],
            top=top,
        )
        for key, value in answers.items()
    }
    return Sketches(shapes, _std(answers), kept)


def _floors(pair: OneSided, dtype: str, kept: Sketches, streams: Sketches, seed: int) -> Floor:
    """What storing in `dtype` explains, by the ladder's measure and by that of the sketches: the larger one."""
    elements = noise_floors.storage_floor(pair, dtype)
    layers = dict(zip(streams.std, hidden_states.storage_floors(pair, dtype)))
    moved, moved_states = noise_floors.moved(pair, dtype)
    states = {name: max(layers[name], value) for name, value in _apart(streams, moved_states, seed).items()}
    floor = Floor(max(elements, *_apart(kept, moved, seed).values()), states)
    pair.memo.clear()
    if not all(map(math.isfinite, (floor.outputs, *states.values()))):
        why = "its outputs are NaN or Inf when each weight is rounded once"
        raise BadInput(show(pair.folders["source"]), what=f"is not stable in {dtype}", why=why, fix="check its weights")
    return floor


def _apart(kept: Sketches, moved: Outputs, seed: int) -> dict[str, float]:
    """Output -> the largest difference of its sketches, in units of its spread."""
    largest = dict.fromkeys(kept.std, 0.0)
    for key, parts in kept.kept.items():
        name = key.rsplit("/", 1)[1]
        largest[name] = max(largest[name], sketch.worst(parts, moved[key].numpy(), seed).delta / kept.std[name])
    return largest
