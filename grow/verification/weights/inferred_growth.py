"""The growth that a pair without grow.json can have come from.

Of the growths that `grow` makes between the two sizes it is the one that most stored tensors follow.

    most_likely_growth(source, grown)  ->  a `Replay`, or None where most tensors follow none

It is not evidence for or against a pair: somebody else may have grown it otherwise. Where outputs differ it tells which
tensor does not do what all the others say, and what its number would have been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from grow.architectures import known_architecture
from grow.architectures.architecture import Architecture
from grow.architectures.match import Match, match
from grow.checkpoint.reader import Checkpoint
from grow.errors import GrowError
from grow.notation.dtypes import BITS, STORES
from grow.notation.operators import OPERATORS
from grow.notation.origins import Drawn
from grow.planning.change import ROUTES
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.planning.methods import DEFAULT, METHODS
from grow.planning.parsed_record import parse_record
from grow.planning.plan import Plan, plan_for
from grow.planning.read_as_experts import read_so
from grow.planning.record import record_of
from grow.planning.tensor import TensorPlan
from grow.verification.weights.certificate import fault_of
from grow.verification.weights.recorded_growth import Replay

SAMPLE = 40  # tensors by which a growth is judged: a layer or two, and the tables
LARGE = 1 << 22  # numbers of a tensor that takes long to hold against its equation: left out where others are there
FIRST = 8  # tensors that tell most wrong growths
MOST = 0.5  # of the tensors must follow: of a growth that is another one next to none does


def most_likely_growth(source: Checkpoint, grown: Checkpoint) -> Replay | None:
    """The growth that most tensors of `grown` follow, laid over both; None where there is none."""
    before, after = known_architecture(source.config), known_architecture(grown.config)
    if before is None or after is None:
        return None
    try:
        matched = match(before, source.tensors, str(source.path))
        after.sizes  # noqa: B018  a GrowError where they contradict each other
    except GrowError:
        return None
    best: tuple[float, Replay | None] = MOST, None
    for plan in _plans(matched, after):
        replay = _laid_over(plan, source, grown)
        if replay is None:
            continue
        share = _followed(replay, best[0])
        if share >= best[0]:
            best = share, replay
        if share == 1:
            break
    return best[1]


def stores_all(replay: Replay) -> bool:
    """Whether this growth rounds nothing, and what lies in the files has room for every bit of the source."""
    exact = replay.record.storage == "bit-exact"
    return exact and all(t.old.dtype in STORES[t.dtype] for whole in replay.tensors for _, t in whole.parts)


def misfit(replay: Replay) -> dict[str, Any] | None:
    """The first tensor that is not there or has another shape, as in `Verification.first`: no model loads without."""
    for t in replay.tensors:
        info = replay.grown.tensors.get(t.name)
        if info is None or info.shape != t.new_shape:
            rule = "missing" if info is None else f"has shape {list(info.shape)}, wanted {list(t.new_shape)}"
            return {"tensor": t.name, "index": None, "found": None, "wanted": None, "rule": rule}
    return None


def _laid_over(plan: Plan, source: Checkpoint, grown: Checkpoint) -> Replay | None:
    try:
        document = record_of(plan, source="", version="", tensors={})
        replay = Replay(parse_record(document, str(grown.path), ""), source, grown)
    except GrowError:
        return None
    stored = (grown.tensors.get(t.name) for t in replay.tensors)
    return replay if all(info is None or info.dtype in BITS for info in stored) else None  # quantised: nothing to hold


def _followed(replay: Replay, least: float) -> float:
    """The share of the tensors that are what the growth would have made them; 0 as soon as it is another one, or
    cannot reach `least` any more."""
    tensors = [t for t in replay.tensors if _numbers(t) <= LARGE] or list(replay.tensors)
    sample = tensors[:: max(1, len(tensors) // SAMPLE)]
    good = 0
    for k, t in enumerate(sample):
        good += _follows(replay, t)
        possible = good + len(sample) - k - 1
        if (k >= FIRST and good < k * MOST / 2) or possible / len(sample) < least:
            return 0.0
    return good / max(1, len(sample))


def _follows(replay: Replay, t: TensorPlan) -> bool:
    """Whether a tensor is what the growth makes it; of one that is drawn nobody can tell."""
    info = replay.grown.tensors.get(t.name)
    return (
        info is not None
        and info.shape == t.new_shape
        and not isinstance(t.origin, Drawn)
        and fault_of(replay, t) is None
    )


def _numbers(t: TensorPlan) -> int:
    rows, columns = t.new_matrix
    return int(rows * columns)


def _plans(matched: Match, after: Architecture) -> Iterator[Plan]:
    """Every growth to these sizes that `grow` can be asked for without a seed, the usual one first."""
    new = after.sizes
    for how in _upcyclings(matched.architecture, after):
        try:
            upcycling = UpcyclingOptions(**how) if how else None
            old = (read_so(matched, upcycling)[0] if upcycling else matched).architecture.sizes
        except GrowError:
            continue
        fixed = (*matched.architecture.followed, *after.followed, "experts")
        to = {axis: size for axis, size in new.items() if size != old.get(axis) and axis not in fixed}
        if not how and new.get("experts") != old.get("experts"):
            to["experts"] = new["experts"]
        grown = {axis: size for axis, size in new.items() if size != old.get(axis)}
        for options in _options(grown, after.family.units, new["layers"] > old["layers"]):
            with contextlib.suppress(GrowError):
                yield plan_for(matched, to, replace(options, upcycling=upcycling))


def _options(to: Mapping[str, int], units: tuple[str, ...], deeper: bool) -> Iterator[GrowthOptions]:
    """The usual ones, layers in another place, an axis or all of them by another operator, a method."""
    yield GrowthOptions()
    if deeper:
        yield from (GrowthOptions(place="top"), GrowthOptions(fill="fresh"))
    units = tuple(axis for axis in ("heads", *units) if axis in to)
    wide = [axis for axis in ("hidden", *units) if axis in to]
    yield from (GrowthOptions({axis: name}) for axis in wide for name in OPERATORS)
    for name in OPERATORS if "hidden" in to and units else ():
        yield from (GrowthOptions({"hidden": name, **dict.fromkeys(units, other)}) for other in OPERATORS)
    yield from (GrowthOptions(method=name) for name in METHODS if name != DEFAULT)


def _upcyclings(before: Architecture, after: Architecture) -> Iterator[dict[str, Any] | None]:
    """How an FFN can have become these experts; None where the family is the same."""
    if after.family is before.family:
        yield None
    elif after.family.experts and not before.family.experts:
        count, chosen = after.sizes["experts"], after.top_k
        cuts = [cut for cut in range(1, min(count, 64) + 1) if count % cut == 0 and chosen % cut == 0]
        for route in ROUTES:
            yield from ({"experts": count, "top_k": chosen, "granularity": cut, "route": route} for cut in cuts)
