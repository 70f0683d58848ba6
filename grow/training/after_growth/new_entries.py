"""Which entries of a grown checkpoint are new, and that nothing was lost.

Both follow from grow.json. The setting `rewarm` scales the updates of new entries, `freeze_old` keeps the bits of old
ones; neither changes anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grow.applying.fused import wholes
from grow.architectures import FAMILIES, family_of
from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.match import Match, Matched, match
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, Refused
from grow.growth.model_source import ModelSource
from grow.notation.axes import Dim
from grow.notation.origins import SourcePart
from grow.optimizer.dual_rule import new_entries_of
from grow.planning.assemble import assemble
from grow.planning.parsed_record import Record
from grow.planning.read_as_experts import experts_of
from grow.planning.record import NAME
from grow.planning.tensor import TensorPlan
from grow.spelling import command, left_out
from grow.training.settings.schedule import rewarm
from grow.training.sharding import local, part_of

APART = ("rewarm", "freeze_old", "rates")
"""Settings that treat new entries differently from old ones."""


def knows_new(record: Record) -> bool:
    """Whether the grown sizes say which entries are new. They do not where units of experts were drawn anew."""
    return record.change.redraw is None


def tensors_of(record: Record, grown: Checkpoint | ModelSource) -> tuple[TensorPlan, ...]:
    """The growth's tensors, from its record and the grown checkpoint (or model) alone: the source is the grown one with
    the old sizes. BadInput when the record belongs to another checkpoint."""
    how = record.change.upcycling
    family = family_of(how.target if how else record.model_type)
    grown_match = match(Architecture(family, grown.config), grown.tensors, str(grown.path))
    config = dict(grown_match.config)
    for axis, size in record.sizes.items():
        field = family.axes.get(axis)
        if field and config.get(field) is not None:
            config[field] = size
    if record.config_changes.get("tie_word_embeddings") is False:
        config["tie_word_embeddings"] = True
    before, change = grown_match.architecture.with_config(config), record.change
    if not knows_new(record):
        raise Refused(
            f"{grown.path}: {NAME}",
            what="records experts whose units were drawn anew",
            why="the grown sizes alone do not say which of their entries are new",
            fix=left_out(*APART),
        )
    source: list[Matched] = []
    ffns: set[int] = set()  # layers whose FFN became experts
    for tensor in grown_match.tensors:
        layer, expert = tensor.layer, tensor.index("experts")
        depth = change.depth if layer is None else change.depth_of(tensor.row)
        if layer is not None and (layer >= depth.m or depth.inserted[layer]):
            continue
        if how is not None and layer is not None and tensor.row.name in _mixture(family):
            if layer not in ffns:
                ffns.add(layer)
                source += _named_like(tensor, family, experts_of(how, record.sizes, depth.source[layer], tensor.dtype))
            continue
        if expert is not None and expert >= record.sizes["experts"]:
            continue
        shape = tuple(_old_size(dim, n, record.sizes) for dim, n in zip(tensor.row.signature.dims, tensor.shape))
        at = {} if layer is None else {tensor.row.layers: depth.source[layer]}
        name, canonical = tensor.at(tensor.name, **at), tensor.at(tensor.canonical, **at)
        if not _parted(before, tensor):
            source.append(Matched(name, canonical, tensor.row, SourcePart(name, tensor.dtype, shape)))
    matched = Match(before, tuple(source), (), ())
    try:
        tensors, _ = assemble(matched, record.change, {t.name: t.dtype for t in source})
    except (KeyError, IndexError, ValueError) as error:
        raise _foreign(grown, f"{type(error).__name__}: {error}") from None
    stored = {t.name: t for t in grown_match.tensors}
    for made in tensors:
        other = stored.get(made.name) or next((s for s in grown_match.tensors if s.canonical == made.canonical), None)
        if other is None or other.shape != made.new_shape:
            raise _foreign(grown, f"{made.name}: {other and other.shape}, the growth made {made.new_shape}")
    return tensors


def _old_size(dim: Dim, grown: int, sizes: Mapping[str, int]) -> int:
    """`grown` where no config says a size: labels do not grow."""
    return grown if any(label.axis == "labels" for label in dim.labels) else dim.size(sizes)


def _mixture(family: Family) -> set[str]:
    """The rows of a family's table that replace a dense FFN."""
    e = family.experts
    return {e.router, *e.parts, *e.shared, e.shared_gate} if e else set()


def _named_like(stored: Matched, family: Family, made: Iterable[Matched]) -> Iterator[Matched]:
    """The tensors that were made, with the prefix in their names if `stored` has it."""
    for one in made:
        bare = stored.name != stored.canonical
        yield replace(one, name=one.canonical.removeprefix(family.prefix) if bare else one.canonical)


def _parted(before: Architecture, t: Matched) -> bool:
    """Whether it is a head that the growth wrote apart from its table, so that the source has none."""
    return before.tie is not None and t.canonical == before.tie.head


def _foreign(grown: Checkpoint | ModelSource, why: str) -> BadInput:
    return BadInput(
        f"{grown.path}: {NAME}",
        what="records the growth of another checkpoint",
        why=why,
        fix=f"{left_out(*APART)}, or grow again",
    )


def parts_of(model: Any, tensors: Iterable[TensorPlan]) -> Iterator[tuple[str, torch.nn.Parameter, TensorPlan]]:
    """(name, parameter, its tensor in the growth) for every parameter; BadInput where the growth made another model."""
    by_name: dict[str, TensorPlan] = {}
    for tensor in tensors:
        by_name |= {tensor.canonical: tensor, tensor.name: tensor}
    family = FAMILIES.get(model.config.model_type)
    for old, new in family.spelling if family else ():  # a module may have the name that older files have
        by_name |= {name.removesuffix(new) + old: tensor for name, tensor in by_name.items() if name.endswith(new)}
    for name, p, planned in wholes(model, by_name):
        if planned is None:
            raise BadInput(
                name,
                what=f"has shape {tuple(p.shape)} and is not a tensor of the growth",
                why="nothing says which of its entries are new",
                fix=f"{left_out(*APART)}, or give the model that this growth made",
            )
        yield name, p, planned


class NewEntries:
    """Which entries of each parameter on this process are new; parameters without a new entry are all old.

    rewarm      (ratio, steps) for the updates of new entries, see `schedule.rewarm`
    freeze_old  keep the bits of old entries
    scale       the factor of the updates of new entries in every step

    before() is called before the optimizer's step, after() after it.
    """

    def __init__(
        self,
        model: Any,
        tensors: Iterable[TensorPlan],
        *,
        rewarm: tuple[float, int] | None = None,
        freeze_old: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.rewarm, self.freeze_old, self.scale = rewarm, freeze_old, scale
        self.parts: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self.count = self.total = 0
        for _, p, t in parts_of(model, tensors):
            new = new_entries_of(t)
            self.count, self.total = self.count + int(new.sum()), self.total + new.numel()
            self.parts.append((p, part_of(new, p)))
        self._old: list[torch.Tensor] = []

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradient of frozen entries to 0, so that they count in no norm and change no moment."""
        if self.freeze_old:
            for p, new in self.parts:
                if p.grad is not None:
                    grad = local(p.grad)
                    grad.mul_(new.to(grad.device))

    @torch.no_grad()
    def before(self, step: int) -> None:
        if self.freeze_old or self._scale(step) != 1.0:
            self._old = [local(p).clone() for p, _ in self.parts]

    @torch.no_grad()
    def after(self, step: int) -> None:
        """w <- old + scale · (w - old) where an entry is new; w <- old where it is frozen."""
        scale, frozen = self._scale(step), self.freeze_old
        for (p, new), old in zip(self.parts, self._old):
            now = local(p)
            moved = old + scale * (now - old) if scale != 1.0 else now
            now.copy_(torch.where(new.to(now.device), moved, old if frozen else now))
        self._old = []

    def _scale(self, step: int) -> float:
        return self.scale * (rewarm(step, *self.rewarm) if self.rewarm else 1.0)


def check_losses(
    source: float, grown: float, apart: float, of: str, record: Record, dtypes: set[str], path: Path, alike: bool = True
) -> str:
    """A note that both losses agree; BadInput when the grown model has lost something before the first step.

    The losses are means over the same tokens in float32; `apart` is the root mean square of the difference per token,
    since a mean hides differences that cancel. A bit-exact growth, or one stored in float32, differs by summation
    order: 1e-6 for the bundled models, below 1e-4 for deep ones. A growth rounded to 16 bits differs by the noise of
    its weights: 1e-2 of the mean, and 5e-3 for a token of the bundled models, below 1e-1. So do 16-bit weights
    compared with the same weights in full precision (not `alike`).
    """
    if record.lossy:
        return f"the growth is lossy by its method: {grown:.6f} before the first step, the source {source:.6f}"
    wide = (record.storage == "bit-exact" and alike) or not dtypes & {"BF16", "F16"}
    limit = (1e-4 if wide else 1e-2) * max(1.0, abs(source))
    each = 1e-4 if wide else 1e-1
    if not math.isfinite(grown) or not abs(grown - source) <= limit or not apart <= each:
        raise BadInput(
            str(path),
            what=f"has a {of} of {grown:.6f} before the first step, its source one of {source:.6f}, "
            f"and single tokens differ by {apart:.1e}",
            why=f"a lossless growth changes the loss by {limit:.1g} at most, and that of a token by {each:.0e}",
            fix=f"{command('verify')} on source and result says which tensor differs",
        )
    return f"the {of} before the first step is the source's: {grown:.6f} and {source:.6f}"
