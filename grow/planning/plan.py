"""The plan of a growth: target config, tensors, dtypes, and the reasons for rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from grow.errors import BadInput, did_you_mean
from grow.families.architecture import Architecture
from grow.families.family import GROWABLE, UNITS, Family
from grow.families.match import Match
from grow.notation.dtypes import BITS, CODES, STORES
from grow.notation.maps import AxisMap, is_power_of_two
from grow.notation.operators import OPERATORS
from grow.planning.assemble import assemble
from grow.planning.change import Change, Upcycling, check_depth, depth_rounds, layer_config
from grow.planning.choose_maps import grow_counts, grow_experts, head_dim_maps, low_logit, rounding
from grow.planning.layers import Depth
from grow.planning.methods import DEFAULT, METHODS, Request, design, method_named
from grow.planning.target import Target, resolve
from grow.planning.tensor import HALVED, SPLITS, TensorPlan
from grow.planning.upcycle import read_so


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
        parts = [part for t in self.tensors for _, part in t.parts if part.fill is None]
        return list({(t.source, t.corner): t for t in reversed(parts)}.values())[::-1]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


OF_LAYERS = {"place": "spread", "fill": "copy"}
"""What is said of new layers, and what it is where nobody says it."""


def make_plan(
    matched: Match,
    target: Target,
    *,
    operators: Mapping[str, str] | None = None,
    split: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    place: str | Sequence[int] = "spread",
    fill: str = "copy",
    new_tokens: str = "blend",
    upcycling: Upcycling | None = None,
    top_k: int | None = None,
    method: str = DEFAULT,
    allow_lossy: bool = False,
) -> Plan:
    """The plan that takes `matched` to `target`; `Refused` when an axis cannot grow exactly.

    upcycling    how `matched` was read as a model with experts; `top_k` is then how many of them a token gets
    method       of `grow.planning.methods`: it chooses operators, split and layers, unless it is ours
    allow_lossy  let a method that is not exact have its way; the plan then says what is lost
    """
    source, old, new = matched.architecture, matched.architecture.sizes, target.sizes
    chosen = _check_options(operators or {}, split, dtype, seed)
    _check_method(method, chosen, split, place, fill)
    idle = _check_effect(old, new, {"place": place, "fill": fill}, new_tokens, chosen)
    request = Request(source, new, seed, chosen, place, fill, upcycling is not None)
    made = design(method, request, allow_lossy=allow_lossy)
    maps, words, depth = made.maps, made.words, made.depth
    split = split or made.split
    maps |= grow_counts(source, new, new_tokens, words)
    maps |= grow_experts(source, new, words, upcycled=upcycling is not None)
    if any(depth.inserted):
        check_depth(source, depth)
    words["layers"] = depth.describe()
    low = low_logit(source, new_tokens) if new["vocab"] > old["vocab"] else None
    change = Change(maps, depth, low, upcycling, made.above, made.redraw)
    notes = [*target.notes, *idle]
    rounded = why_rounded(matched, change, new, split)
    out_dtype = _dtypes(matched, dtype, rounded, notes)
    tensors, untied = assemble(matched, change, out_dtype)
    new_config = grown_config(source, new, depth, {t.dtype for t in tensors}, untied, top_k=top_k)
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
        seed,
        rounded=(*rounded, *why_narrowed(tensors, maps, split)),
        notes=tuple(notes),
        method=method,
        lossy=made.lossy,
    )


def plan_for(
    matched: Match,
    to: Any,
    *,
    deepen: bool = False,
    upcycling: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """`make_plan` for a target as people write it, see `grow.planning.target`.

    upcycling  as in `grow.planning.upcycle.read_so`
    """
    if upcycling is None:
        return make_plan(matched, resolve(matched.architecture, to, deepen=deepen), **options)
    matched, how, top_k = read_so(matched, **upcycling)
    target = resolve(matched.architecture, {} if to is None else to, deepen=deepen)
    target = replace(target, sizes={**target.sizes, "experts": upcycling["experts"]})
    matched.family.check_caps(target.sizes, "--experts: ")
    return make_plan(matched, target, upcycling=how, top_k=top_k, **options)


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
    depth: Depth,
    stored: Set[str],
    untied: str,
    *,
    top_k: int | None = None,
) -> dict[str, Any]:
    """The config of the result: it follows from the source's, the sizes, where the layers go, and what is stored.

    stored  the dtypes of the result's tensors
    untied  the head that had to part from its table, or ""
    top_k   where somebody chose it
    """
    changes = head_dim_maps(source, new["head_dim"])[1]
    result = _new_config(source, new, changes, top_k) | layer_config(source, depth)
    if untied:
        result["tie_word_embeddings"] = False
    if len(stored) == 1:
        name = next(name for name, code in CODES.items() if code in stored)
        result["torch_dtype" if "torch_dtype" in result and "dtype" not in result else "dtype"] = name
    return result


def why_rounded(matched: Match, change: Change, new: Mapping[str, int], split: str) -> tuple[str, ...]:
    """Why this growth rounds weights, whatever they are stored in; empty where it does not."""
    shares = rounding(change.maps, split)
    return (*shares, *depth_rounds(matched.architecture, change.depth), *_rounding_factors(matched))


def why_narrowed(tensors: Sequence[TensorPlan], maps: Mapping[str, AxisMap], split: str) -> tuple[str, ...]:
    """Why the dtypes in which the result is stored round weights; empty where they do not."""
    parts = [part for t in tensors for _, part in t.parts]
    found = sorted({f"{t.source_dtype} stored as {t.dtype}" for t in parts if t.source_dtype not in STORES[t.dtype]})
    shared = any(maps[space].counts.max() > 1 for space in ("hidden", "heads", *UNITS) if space in maps)
    if split in HALVED and shared and any(t.dtype == "F16" for t in tensors):
        found.append("float16: half of one of its smallest numbers is none")
    return tuple(found)


def _rounding_factors(matched: Match) -> tuple[str, ...]:
    factors = {t.factor for t in matched.tensors} | {part.factor for t in matched.tensors for part in t.parts}
    return tuple(f"weights × {factor:g}" for factor in sorted(factors) if not is_power_of_two(factor))


def _new_config(
    source: Architecture, new: Mapping[str, int], changes: Mapping[str, Any], top_k: int | None
) -> dict[str, Any]:
    family, config, old = source.family, source.config, source.sizes
    result = {**config, **changes}
    if family.experts:
        copies = new["experts"] // old["experts"]
        result[family.experts.top_k] = top_k or copies * source.top_k
    for axis in (*GROWABLE, *family.follows):
        if axis in family.axes and (new[axis] != old[axis] or config.get(family.axes[axis]) is not None):
            result[family.axes[axis]] = new[axis]
    for axis, name in family.axes.items():
        if name in family.synonyms and new[axis] != old[axis]:
            # older readers know one name of the experts only; for the rest, the names that are there
            both = family.experts is not None and axis == "experts"
            result |= {spot: new[axis] for spot in (name, family.synonyms[name]) if both or spot in config}
    if new["hidden"] != old["hidden"] or new["heads"] != old["heads"]:
        for axis in ("head_dim", "ffn"):  # both may have followed from hidden
            if axis in family.axes:
                result[family.axes[axis]] = new[axis]
    return result


def _check_method(name: str, operators: Mapping[str, str], split: str | None, place: Any, fill: str) -> None:
    """BadInput where something is chosen that the method chooses."""
    method = method_named(name)
    if name == DEFAULT:
        return
    given = [f"--operator {axis}={operator}" for axis, operator in operators.items()]
    given += [f"--split {split}"] if split else []
    if not method.free:
        given += [f"--place {place}"] if place != "spread" else []
        given += [f"--fill {fill}"] if fill != "copy" else []
    if given:
        raise BadInput(
            f"--method {name} {given[0]}",
            what="both choose the same",
            why=f"{name} is: {METHODS[name].law}",
            fix=f"leave {given[0].split()[0]} out, or --method {DEFAULT} {given[0]}",
        )


def _check_effect(
    old: Mapping[str, int], new: Mapping[str, int], said: Mapping[str, Any], tokens: str, operators: Mapping[str, str]
) -> list[str]:
    """Notes of what has no effect; BadInput for what was said of new layers where there are none: a slip."""
    for name, usual in OF_LAYERS.items():
        if new["layers"] == old["layers"] and said[name] != usual:
            value = said[name] if isinstance(said[name], str) else ",".join(map(str, said[name]))
            raise BadInput(
                f"--{name} {value}",
                what=f"has no effect: there are {old['layers']:,} layers before and after",
                why="it is of new layers",
                fix=f"leave it out, or --to layers={old['layers'] + 1}; --deepen takes those of a size or a config",
            )
    follow = {"heads": ("heads", "kv_heads", "head_dim")}
    idle = [
        f"--operator {axis}={name} has no effect: {axis} does not grow"
        for axis, name in operators.items()
        if all(new.get(a) == old.get(a) for a in follow.get(axis, (axis,)))
    ]
    if tokens != "blend" and new["vocab"] == old["vocab"]:
        idle.append(f"--new-tokens {tokens} has no effect: the vocabulary does not grow")
    return idle


def _check_options(operators: Mapping[str, str], split: str | None, dtype: str, seed: int) -> dict[str, str]:
    for axis, name in operators.items():
        if axis not in ("hidden", "heads", *UNITS):
            hint = did_you_mean(axis, ("hidden", "ffn", "heads"))
            raise BadInput(
                f"--operator {axis}={name}",
                what=f"no choice for {axis!r} {hint}".rstrip(),
                why="axes with a choice: hidden, ffn, heads",
                fix="--operator ffn=copies",
            )
        if name not in OPERATORS:
            hint = did_you_mean(name, OPERATORS)
            raise BadInput(
                f"--operator {axis}={name}",
                what=f"no such operator {hint}".rstrip(),
                why="operators: " + ", ".join(OPERATORS),
                fix=f"--operator {axis}=copies",
            )
    if split is not None and split not in SPLITS:
        raise BadInput(
            f"--split {split}", what="no such split", why="splits: " + ", ".join(SPLITS), fix="--split exact"
        )
    if dtype != "auto" and dtype not in CODES:
        raise BadInput(
            f"--dtype {dtype}",
            what="no such dtype",
            why="dtypes: auto, " + ", ".join(CODES),
            fix="--dtype auto",
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise BadInput(
            f"--seed {seed}",
            what="out of range",
            why="a seed is a whole number from 0 to 2^63 - 1",
            fix="--seed 0",
        )
    return dict(operators)
