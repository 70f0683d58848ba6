"""The plan of a growth: target config, tensors, dtypes, and the reasons for rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from grow.architectures.architecture import Architecture
from grow.architectures.family import Family
from grow.architectures.match import Match
from grow.notation.dim_maps import dim_map
from grow.notation.dtypes import BITS, CODES, STORES
from grow.notation.maps import AxisMap, is_power_of_two
from grow.notation.origins import Read
from grow.planning.assemble import assemble
from grow.planning.change import Change, Upcycling, check_depths, depth_rounds, layer_config
from grow.planning.choose_maps import grow_counts, low_logit, rounding, scored_maps, shared
from grow.planning.expert_maps import grow_experts, new_top_k
from grow.planning.growth_options import USUAL, GrowthOptions
from grow.planning.layers import Depth
from grow.planning.methods import DEFAULT, Request, design
from grow.planning.read_as_experts import read_so
from grow.planning.row_maps import root_factor, row_maps, tie_factor, tied_rows
from grow.planning.sparse_layers import in_order
from grow.planning.target import Target, resolve
from grow.planning.tensor import HALVED, TensorPlan, stays
from grow.spelling import option


@dataclass(frozen=True)
class Plan:
    """What `grow` will do.

    source             the model that grows: a family read with a config
    new_config         of the result
    new_sizes          axis -> size
    change             the maps (hidden, heads, kv_heads, head_dim.q, .k, .v, ffn, vocab, positions) and the layers
    operators          axis -> how it grows, in words
    tensors            in the order of the result's files
    rounded            why stored weights are rounded; empty for a bit-exact plan
    method             of `grow.planning.methods`
    lossy              what is lost and why, whatever is stored; empty for an exact growth
    in_memory          name of a tensor -> what the model in memory calls it, where that is another name than in files
    """

    source: Architecture
    new_config: dict[str, Any]
    new_sizes: dict[str, int]
    change: Change
    operators: dict[str, str]
    tensors: tuple[TensorPlan, ...]
    split: str
    seed: int
    rounded: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    method: str = DEFAULT
    in_memory: Mapping[str, str] = field(default_factory=dict)
    lossy: str = ""

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.source.config)

    @property
    def sizes(self) -> dict[str, int]:
        """Axis -> size, of the source."""
        return dict(self.source.sizes)

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes in the order in which people read them: widths first."""
        widths = [axis for axis in self.family.widths if axis in self.sizes]
        return (*widths, *(axis for axis in self.sizes if axis not in widths))

    @cached_property
    def grown(self) -> Architecture:
        """The model of the result."""
        return self.source.with_config(self.new_config)

    @property
    def maps(self) -> Mapping[str, AxisMap]:
        return self.change.maps

    @property
    def storage(self) -> str:
        return "rounded" if self.rounded else "bit-exact"

    @property
    def config_changes(self) -> dict[str, tuple[Any, Any]]:
        keys = [k for k in self.new_config if self.new_config[k] != self.source.config.get(k)]
        return {k: (self.source.config.get(k), self.new_config[k]) for k in keys}

    @property
    def parameters(self) -> tuple[int, int]:
        return sum(math.prod(t.shape) for t in self.read), sum(math.prod(t.new_shape) for t in self.tensors)

    @property
    def read(self) -> list[TensorPlan]:
        """One tensor of the result for each of the source's, or for each part of it that is read on its own."""
        parts = [part for t in self.tensors for _, part in t.parts if isinstance(part.origin, Read)]
        return list({(t.old.tensor, t.old.corner): t for t in reversed(parts)}.values())[::-1]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


def make_plan(
    matched: Match,
    target: Target,
    options: GrowthOptions = USUAL,
    *,
    upcycling: Upcycling | None = None,
    top_k: int | None = None,
) -> Plan:
    """The plan that takes `matched` to `target`; `Refused` when an axis cannot grow exactly.

    upcycling  how `matched` was read as a model with experts; `top_k` is then how many of them a token gets
    """
    source, old, new = matched.architecture, matched.architecture.sizes, target.sizes
    idle = options.check_effect(old, new, source.family.depths)
    chosen, tokens = dict(options.operators or {}), options.new_tokens
    request = Request(source, new, options.seed, chosen, options.place, options.fill, upcycling is not None)
    made = design(options.method, request, allow_lossy=options.allow_lossy)
    maps, words, depths = made.maps, made.words, dict(made.depths)
    for stack in source.family.stacks:
        if source.first_lacks(stack):
            depths[stack.layers] = depths[stack.layers].without_first()
    split = options.split or made.split
    maps |= grow_counts(source, new, tokens, words)
    maps |= grow_experts(source, new, words, chosen.get("experts", ""), upcycled=upcycling is not None)
    depths = {axis: in_order(source, depth) for axis, depth in depths.items()}
    check_depths(source, depths)
    words |= {axis: depth.describe() for axis, depth in depths.items()}
    low = low_logit(source, tokens) if _more(old, new, "vocab") else None
    change = Change(maps, depths, low, upcycling, made.above, made.redraw)
    notes = [*target.notes, *idle]
    rounded = why_rounded(matched, change, new, split)
    out_dtype = _dtypes(matched, options.dtype, rounded, notes)
    tensors, untied = assemble(matched, change, out_dtype)
    top_k = top_k or new_top_k(source, maps)
    new_config = grown_config(source, new, depths, {t.dtype for t in tensors}, untied, top_k=top_k)
    if untied:
        notes.append(
            f"{untied} is written apart from the embedding: no norm in front of the head can absorb the growth"
        )
    return Plan(
        source,
        new_config,
        new,
        change,
        words,
        tensors,
        split,
        options.seed,
        rounded=(*rounded, *why_narrowed(tensors, maps, split)),
        notes=tuple(notes),
        method=options.method,
        lossy=made.lossy,
    )


def _more(old: Mapping[str, int], new: Mapping[str, int], axis: str) -> bool:
    return axis in old and new[axis] > old[axis]


def plan_for(matched: Match, to: Any, options: GrowthOptions = USUAL) -> Plan:
    """`make_plan` for a target as people write it, see `grow.planning.target`."""
    asked = options.upcycling
    if asked is None:
        return make_plan(matched, resolve(matched.architecture, to, deepen=options.deepen), options)
    matched, how, top_k = read_so(matched, asked)
    target = resolve(matched.architecture, {} if to is None else to, deepen=options.deepen)
    target = replace(target, sizes={**target.sizes, "experts": asked.experts})
    field = matched.family.axes["experts"]
    matched.family.check_caps(target.sizes, lambda name, size: option(experts=size if name == field else asked.experts))
    return make_plan(matched, target, options, upcycling=how, top_k=top_k)


def _dtypes(matched: Match, dtype: str, rounded: tuple[str, ...], notes: list[str]) -> dict[str, str]:
    """Stored dtype of each result tensor; a rounded plan is written in float32 at least unless told otherwise."""
    if dtype != "auto":
        return {t.name: CODES[dtype] for t in matched.tensors}
    if not rounded:
        return {t.name: t.dtype for t in matched.tensors}
    wide = {t.name: t.dtype if BITS[t.dtype] >= BITS["F32"] else "F32" for t in matched.tensors}
    if any(wide[t.name] != t.dtype for t in matched.tensors):
        notes.append("written as float32: the growth rounds weights, and in the source's dtype that would show")
    return wide


def grown_config(
    source: Architecture,
    new: Mapping[str, int],
    depths: Mapping[str, Depth],
    stored: Set[str],
    untied: str,
    *,
    top_k: int,
) -> dict[str, Any]:
    """The config of the result: it follows from the source's, the sizes, where the layers go, and what is stored.

    stored  the dtypes of the result's tensors
    untied  the head that had to part from its table, or ""
    top_k   how many experts a token gets
    """
    changes = scored_maps(source, new)[1]
    result = _new_config(source, new, changes, top_k) | layer_config(source, depths)
    if untied:
        result["tie_word_embeddings"] = False
    if len(stored) == 1:
        name = next(name for name, code in CODES.items() if code in stored)
        result["torch_dtype" if "torch_dtype" in result and "dtype" not in result else "dtype"] = name
    return result


def why_rounded(matched: Match, change: Change, new: Mapping[str, int], split: str) -> tuple[str, ...]:
    """Why this growth rounds weights, whatever they are stored in; empty where it does not."""
    shares = rounding(change.maps, split)
    source = matched.architecture
    return (*shares, *depth_rounds(source, change.depths), *_rounding_rows(source, change), *_rounding_factors(matched))


def why_narrowed(tensors: Sequence[TensorPlan], maps: Mapping[str, AxisMap], split: str) -> tuple[str, ...]:
    """Why the dtypes in which the result is stored round weights; empty where they do not."""
    parts = [part for t in tensors for _, part in t.parts]
    reasons = sorted({f"{t.old.dtype} stored as {t.dtype}" for t in parts if t.old.dtype not in STORES[t.dtype]})
    copied = any(m.counts.max() > 1 for space, m in maps.items() if shared(space))
    if split in HALVED and copied and any(t.dtype == "F16" for t in tensors):
        reasons.append("float16: half of one of its smallest numbers is none")
    return tuple(reasons)


def _rounding_rows(source: Architecture, change: Change) -> tuple[str, ...]:
    """Rows that a growth rounds although none of its maps does."""
    hidden, reasons = change.maps["hidden"], []
    for row in dict.fromkeys((*source.rows, *tied_rows(source).values())):
        maps = row_maps(source, change, row, None)
        if row.root and not is_power_of_two(root_factor(row, maps)):
            axis, n, m = row.root[0], hidden.n, hidden.m
            reasons.append(f"{axis} {n} -> {m}: stock code multiplies {row.name} by a root of it")
        dim = row.signature.dims[0]
        grown = dim_map(dim, maps, source.sizes) if dim.offset else None
        tied = row.name in source.tie_norms
        if grown is not None and not stays(grown, tie_factor(source, change.maps) if tied else 1.0, tied=tied):
            reasons.append(
                f"{dim} {grown.n} -> {grown.m}: gains that are stored as their difference from {dim.offset:g}"
            )
    return tuple(dict.fromkeys(reasons))


def _rounding_factors(matched: Match) -> tuple[str, ...]:
    origins = [part.origin for t in matched.tensors for part in t.parts]
    factors = {origin.factor for origin in origins if isinstance(origin, Read)}
    return tuple(f"weights × {factor:g}" for factor in sorted(factors) if not is_power_of_two(factor))


def _new_config(source: Architecture, new: Mapping[str, int], changes: Mapping[str, Any], top_k: int) -> dict[str, Any]:
    family, config, old = source.family, source.config, source.sizes
    result = {**config, **changes}
    if family.experts:
        name = family.experts.top_k
        result |= {spot: top_k for spot in (name, family.synonyms.get(name, name)) if spot == name or spot in config}
    for axis in (*family.growable, *family.mirrors):
        if (
            axis in family.axes
            and axis in new
            and (new[axis] != old[axis] or config.get(family.axes[axis]) is not None)
        ):
            result[family.axes[axis]] = new[axis]
    for name in (family.axes[axis] for axis in family.computed if axis in family.axes):
        result |= _unread(source, name, result)
    for axis, name in family.axes.items():
        if name in family.synonyms and new.get(axis) != old.get(axis):
            # older readers know one name of the experts only; for the rest, the names that are there
            both = family.experts is not None and axis == "experts"
            result |= {spot: new[axis] for spot in (name, family.synonyms[name]) if both or spot in config}
    for name, value in family.defaults.items():  # a field that would have followed another one stays what it was
        if isinstance(value, str) and value.startswith("=") and config.get(name) is None and name not in result:
            followed = source.with_config(result).get(name)
            if followed != source.get(name):
                result[name] = source.get(name)
    follows = {axis for axis in ("head_dim", *family.default_sizes) if axis in family.axes}
    if follows and any(new[axis] != old[axis] for axis in ("hidden", "heads") if axis in old):
        result |= {family.axes[axis]: new[axis] for axis in follows}  # where no field says them, they follow from these
    read = source.with_config(result)
    for axis, name in family.axes.items():  # a size that stock code would take from another field, which has grown
        follows_a_field = axis in old and axis not in family.computed and str(family.defaults.get(name)).startswith("=")
        if follows_a_field and read.get(name) != new[axis]:
            result[name] = new[axis]
    return result


def _unread(source: Architecture, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a field says whose size stock code computes: it stays, or goes on repeating the field that it repeats."""
    said, default = source.config.get(name), str(source.family.defaults.get(name))
    if said is None or said == source.sizes[{field: axis for axis, field in source.family.axes.items()}[name]]:
        return {}
    repeats = default.startswith("=") and said == source.get(default[1:])
    return {name: result.get(default[1:], said) if repeats else said}
