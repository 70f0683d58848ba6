"""The sentence embeddings of a sentence-transformers folder must be the source's.

The modules run here, on the transformer's last hidden state in true float64. Where sentence-transformers is installed
and the folder has a tokenizer, it loads both folders itself and reads sentences, with each prompt, as its users do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from grow.applying.sentence_growth import Followed, follow
from grow.applying.sentence_modules import SETTINGS, Module, read_modules
from grow.applying.sentence_vectors import vectors
from grow.checkpoint.reader import Checkpoint
from grow.errors import GrowError
from grow.files.allowed_files import inside
from grow.files.header import show
from grow.files.regular import MAX_BESIDE, read_file
from grow.models.float64_mode import TrueFloat64
from grow.planning.readback import fold
from grow.verification.checks.run_sentence_modules import LIBRARY, CannotRunModules, NotRun, run_by_grow, run_by_library
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Differs
from grow.verification.verdict import Check
from grow.verification.weights.recorded_growth import Replay

NAME = "embeddings"
# A module's weight that is multiplied by a root is rounded to float32 once, by 6e-8 of itself; an embedding sums a
# width of such errors, of either sign, and its own numbers are not smaller than their standard deviation by more.
ROUNDED = 16 * 2.0**-24
FIELDS: dict[str, Any] = {
    "prompts": {},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
    "truncate_dim": None,
}
TEXT_FIELDS: dict[str, Any] = {"max_seq_length": None, "do_lower_case": False}


def has_modules(source: Checkpoint, grown: Checkpoint) -> bool:
    return any("modules.json" in side.companions for side in (source, grown))


def embeddings(pair: Pair, source: Checkpoint, grown: Checkpoint, replay: Replay | None, *, limit: float) -> Check:
    """The embeddings of both folders agree to `limit` of their standard deviation, read back where they are wider."""
    claim = "the embeddings behind all modules are the source's"
    try:
        before = read_modules(source)
    except GrowError as error:
        return Check(NAME, "skip", limit=claim, reason=f"the source's modules cannot be read: {error.what}")
    if not before:
        return Check(NAME, "skip", limit=claim, reason="only the grown folder has modules behind its transformer")
    try:
        after = read_modules(grown)
    except GrowError as error:
        return Check(NAME, "fail", limit=claim, reason=f"sentence-transformers cannot load it: {error.what}")
    if not after:
        return Check(NAME, "fail", limit=claim, reason="the grown folder has lost modules.json")
    if unequal := _unequal_settings(source, grown):
        return Check(NAME, "fail", limit=claim, reason=unequal)
    try:
        followed = _followed(source, before, replay)
    except GrowError as error:
        return Check(NAME, "fail", limit=claim, reason=error.what)
    if followed.rounded or (replay is None and before != after):
        limit = max(limit, ROUNDED)
    measured: dict[str, Any] = {"modules": [module.kind for module in after], "run_by": []}
    reasons = []
    for name, run in {"grow": run_by_grow, LIBRARY: run_by_library}.items():
        try:
            with torch.no_grad(), TrueFloat64():
                both = run(pair, "source", source, before), run(pair, "grown", grown, after)
        except NotRun as error:
            reasons.append(str(error))
            continue
        except NoRoom as error:
            reasons.append(str(error))
            continue
        except CannotRunModules as error:
            if error.side == "grown":
                return Check(NAME, "fail", measured, claim, f"{name} cannot run the grown modules: {error}")
            reasons.append(f"{name} cannot run the source's modules: {error}")
            continue
        except Differs as error:
            return Check(NAME, "fail", measured, claim, str(error))
        measured["run_by"].append(name)
        relative, wrong = _apart(both[0], both[1], followed, known=replay is not None)
        measured["relative"] = max(relative, measured.get("relative", 0.0))
        if wrong or not relative <= limit:
            return Check(NAME, "fail", measured, claim, wrong or f"embeddings differ by {relative:.2e} of their std")
    if measured["run_by"]:
        return Check(NAME, "pass", measured, f"{claim}, to {limit:.1e} of their std")
    if before == after and followed.end is None and _same_files(source, grown):
        return Check(NAME, "pass", {**measured, "identical": True}, claim)
    return Check(NAME, "skip", {**measured, "unseen": ["modules"]}, claim, f"the modules were not run: {reasons[0]}")


def _followed(source: Checkpoint, modules: Sequence[Module], replay: Replay | None) -> Followed:
    if replay is None:
        return Followed()
    record = replay.record
    start = vectors(replay.matched.architecture, record.change.maps, record.split)
    changed = frozenset(axis for axis, size in record.sizes.items() if size != record.new_sizes[axis])
    return follow(source, modules, start, changed)


def _unequal_settings(source: Checkpoint, grown: Checkpoint) -> str:
    """The first thing beside the modules that changes what a text becomes."""
    for a, b, fields, name in (
        (_settings(source, SETTINGS), _settings(grown, SETTINGS), FIELDS, SETTINGS),
        (_transformer(source), _transformer(grown), TEXT_FIELDS, "the transformer's settings"),
    ):
        for field, default in fields.items():
            old, new = (_stated(side.get(field), default) for side in (a, b))
            if old != new:
                return f"{name}: {field} is {show(repr(new), 80)}, wanted {show(repr(old), 80)}"
    return ""


def _stated(value: Any, default: Any) -> Any:
    if isinstance(default, dict):  # an empty prompt is none
        return {k: v for k, v in value.items() if v} if isinstance(value, dict) else default
    return default if value is None else value


def _settings(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    if name not in checkpoint.companions:
        return {}
    settings = checkpoint._json(inside(checkpoint.path, name))
    return settings if isinstance(settings, dict) else {}


def _transformer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    names = sorted(n for n in checkpoint.companions if n.startswith("sentence_") and n.endswith("_config.json"))
    return _settings(checkpoint, names[0]) if names else {}


def _same_files(source: Checkpoint, grown: Checkpoint) -> bool:
    def files(side: Checkpoint) -> dict[str, bytes]:
        inner = [name for name in side.companions if "/" in name]
        return {name: read_file(side.path / name, most=MAX_BESIDE) for name in inner}

    return files(source) == files(grown)


def _apart(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], followed: Followed, *, known: bool
) -> tuple[float, str]:
    """(largest difference, relative to the source's standard deviation; what is wrong beside it)."""
    worst = 0.0
    for name, before in a.items():
        x, y = (t.double().numpy().reshape(-1, t.shape[-1]) for t in (before, b[name]))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return math.inf, f"{name}: embeddings are not finite"
        end = followed.end
        if end is not None:
            y, apart, wrong = fold(y, end.n, np.maximum(end.source, -1), end.factor, end.shares)
            if wrong:
                return math.inf, wrong
            worst = max(worst, apart / (x.std() or 1.0))
        elif x.shape != y.shape:
            if known:
                return math.inf, f"{name}: embeddings have {y.shape[1]} numbers, wanted {x.shape[1]}"
            x, y = _cosines(x), _cosines(y)
        if not np.array_equal(x.shape, y.shape):
            return math.inf, f"{name}: {len(y)} embeddings, wanted {len(x)}"
        worst = max(worst, float(np.abs(x - y).max(initial=0.0)) / (x.std() or 1.0))
    return worst, ""


def _cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    return unit @ unit.T
