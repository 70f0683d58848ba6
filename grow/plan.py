"""A growth is a target config and one map per space; a `Plan` says what would happen, before a byte is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grow import rope
from grow.axes import Dim, Label, Signature
from grow.errors import BadInput, Refused, did_you_mean
from grow.family import WIDTHS, Family
from grow.maps import AxisMap, concatenate, identity, product
from grow.match import Match, Matched
from grow.operators import DEFAULTS, OPERATORS, default_operator, grow_head_dim, grow_heads
from grow.target import Target

BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SPLITS = ("exact", "even")


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result.

    maps    one per stored dim, None where nothing changes
    tied    a norm in front of a tied head: its gain (bias) is shared among copies like a consumer's weight
    """

    name: str
    source: str
    signature: Signature
    maps: tuple[AxisMap | None, ...]
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    tied: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.new_shape) * ITEMSIZE[self.dtype]

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dim.role for dim in self.signature.dims)

    @property
    def unchanged(self) -> bool:
        return all(m is None for m in self.maps) and self.dtype == self.source_dtype


@dataclass(frozen=True)
class Plan:
    """What `grow` will do.

    sizes, new_sizes   axis -> size
    maps               space -> AxisMap (hidden, heads, kv_heads, head_dim.q, .k, .v, ffn)
    operators          axis -> how it grows, in words
    tensors            in the order of the result's files
    rounded            why stored weights are rounded; empty for a bit-exact plan
    """

    family: Family
    config: dict[str, Any]
    new_config: dict[str, Any]
    sizes: dict[str, int]
    new_sizes: dict[str, int]
    maps: dict[str, AxisMap]
    operators: dict[str, str]
    tensors: tuple[TensorPlan, ...]
    split: str
    seed: int
    rounded: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def storage(self) -> str:
        return "rounded" if self.rounded else "bit-exact"

    @property
    def config_changes(self) -> dict[str, tuple[Any, Any]]:
        keys = [k for k in self.new_config if self.new_config[k] != self.config.get(k)]
        return {k: (self.config.get(k), self.new_config[k]) for k in keys}

    @property
    def parameters(self) -> tuple[int, int]:
        return sum(math.prod(t.shape) for t in self.tensors), sum(math.prod(t.new_shape) for t in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


def make_plan(
    family: Family,
    matched: Match,
    target: Target,
    *,
    operators: Mapping[str, str] | None = None,
    split: str = "exact",
    seed: int = 0,
    dtype: str = "auto",
) -> Plan:
    """The plan that takes `matched` to `target`; `Refused` when an axis cannot grow exactly."""
    config, old, new = matched.config, family.sizes_of(matched.config), target.sizes
    chosen = _check_options(operators or {}, split, dtype, seed)
    maps, words, changes = _maps(family, config, old, new, chosen)
    new_config = _new_config(family, config, old, new, changes)
    notes = list(target.notes)
    rounded = _rounding(maps, old, new, split)
    out_dtype = _dtypes(matched, dtype, rounded, notes)
    tensors, untied = assemble(family, matched, maps, out_dtype)
    if untied:
        new_config["tie_word_embeddings"] = False
        notes.append(f"{untied} is written apart from the embedding: no norm in front of the head can absorb the growth")
    narrowed = sorted({f"{t.source_dtype} stored as {t.dtype}" for t in tensors if BITS[t.dtype] < BITS[t.source_dtype]})
    _set_dtype(new_config, tensors)
    return Plan(
        family, dict(config), new_config, old, new, maps, words, tensors, split, seed, (*rounded, *narrowed), tuple(notes)
    )  # fmt: skip


def assemble(
    family: Family, matched: Match, maps: Mapping[str, AxisMap], dtypes: Mapping[str, str]
) -> tuple[tuple[TensorPlan, ...], str]:
    """The result's tensors, and the name of a head that has to part from its tied table (or "")."""
    tie = family.tie if family.tie and family.holds(matched.config, family.tie.when) else None
    part = bool(tie) and not maps["hidden"].is_identity and not family.holds(matched.config, tie.norms_when)
    tensors, untied = [], ""
    for t in matched.tensors:
        tied = tie is not None and not part and t.canonical in tie.norms
        tensors.append(_tensor(t, t.name, t.row.signature, maps, dtypes[t.name], tied))
        if part and t.canonical == tie.table:
            head = next(row for row in family.rows if row.name == tie.head)
            untied = tie.head
            tensors.append(_tensor(t, untied, head.signature, maps, dtypes[t.name], False))
    return tuple(tensors), untied


def dim_map(dim: Dim, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> AxisMap | None:
    """The map of a stored dimension from the maps of its spaces; None when no space in it changes."""

    def of(label: Label, side: str = "") -> AxisMap | None:
        found = maps.get(label.space) or maps.get(f"{label.axis}.{side}")
        return None if found is None or found.is_identity else found

    def joined(labels: tuple[Label, ...], side: str = "") -> AxisMap:
        return product([of(label, side) or identity(label.size(sizes)) for label in labels])

    axes = [label.axis for label in dim.labels]
    if "qkv" in axes:
        at = axes.index("qkv")
        outer, inner = dim.labels[:at], dim.labels[at + 1 :]
        if not any(of(label, side) for label in (*outer, *inner) for side in "qkv"):
            return None
        sides = concatenate([joined(inner, side) for side in "qkv"])
        return product([joined(outer), sides]) if outer else sides
    return joined(dim.labels) if any(map(of, dim.labels)) else None


def _tensor(t: Matched, name: str, signature: Signature, maps: Mapping[str, AxisMap], dtype: str, tied: bool) -> TensorPlan:
    sizes = {label.axis: size for dim, size in zip(signature.dims, t.shape) for label in dim.labels if len(dim.labels) == 1}
    sizes |= {"heads": maps["heads"].n, "kv_heads": maps["kv_heads"].n, "head_dim": maps["head_dim.v"].n}
    dims = tuple(dim_map(dim, maps, sizes) for dim in signature.dims)
    new_shape = tuple(n if m is None else m.m for m, n in zip(dims, t.shape))
    return TensorPlan(name, t.name, signature, dims, t.shape, new_shape, t.dtype, dtype, tied)


def _maps(family: Family, config, old, new, chosen) -> tuple[dict[str, AxisMap], dict[str, str], dict[str, Any]]:
    words = dict.fromkeys(WIDTHS, "unchanged")
    maps: dict[str, AxisMap] = {}
    for axis, context in (("hidden", _hidden_context(family, config)), ("ffn", "elementwise")):
        maps[axis] = identity(old[axis])
        if new[axis] != old[axis]:
            name = _operator(family, axis, old[axis], new[axis], context, chosen.get(axis))
            maps[axis] = OPERATORS[name](old[axis], new[axis], context)
            words[axis] = _describe(maps[axis])
    maps["heads"], maps["kv_heads"] = _head_maps(family, old, new, chosen, words)
    d, d2 = old["head_dim"], new["head_dim"]
    scaled = family.holds(config, family.attention.scaled)
    place, changes, how = np.arange(d), {}, "appended"
    if d2 != d and family.attention.rope:
        grown = (rope.grow_half if family.attention.rope == "half" else rope.grow_partial)(config, d, d2)
        place, changes, how = grown.place, grown.config, grown.how
    scale = math.sqrt(d2 / d) if scaled else 1.0
    sides = grow_head_dim(d, d2, place, scale=scale, qk_norm=family.attention.qk_norm)
    maps.update(zip(("head_dim.q", "head_dim.k", "head_dim.v"), sides))
    if d2 != d:
        norm = "; q and k copied, k's new gains 0" if family.attention.qk_norm else "; k's new rows 0"
        words["head_dim"] = how + norm + (f", q × √({d2}/{d})" if scaled else "")
    for space, axis_map in maps.items():
        law = axis_map.law()
        if not np.allclose(law, 1, rtol=0, atol=1e-12):  # a few roundings of √ and of shares that sum to 1
            raise AssertionError(f"{space}: the law gives {law}")
    return maps, words, changes


def _hidden_context(family: Family, config) -> str:
    norm = family.norm
    plain = family.holds(config, norm.writes_stream) or family.holds(config, norm.bare)
    return "plain" if plain or not family.holds(config, norm.affine) else norm.kind


def _operator(family: Family, axis: str, n: int, m: int, context: str, chosen: str | None) -> str:
    if chosen is None:
        name = default_operator(n, m, context)
        if name is not None:
            return name
    elif context in OPERATORS[chosen].contexts and OPERATORS[chosen].allows(n, m, context):
        return chosen
    field = family.axes.get(axis, axis)
    below, above = m // n * n, -(-m // n) * n
    exact = [f"{field}={k}" for k in sorted({below, above}) if k > n]
    if chosen is not None:
        fits = [op.name for op in OPERATORS.values() if context in op.contexts and op.allows(n, m, context)]
        raise Refused(
            f"--operator {axis}={chosen}",
            what=f"{chosen} cannot grow {axis} {n} -> {m}",
            why=_WHY[context],
            fix=" or ".join(f"--operator {axis}={name}" for name in fits) or " or ".join(exact),
        )
    raise Refused(
        axis,
        what=f"would grow {n} -> {m}, which is not a whole multiple",
        details=(("equation", "LN(u) = γ·(u - mean)/σ + β; mean and σ of [u; u; …] equal those of u, of any other longer u they do not"),),
        why=_WHY[context],
        fix="nearest exact targets: " + " or ".join(exact),
    )


_WHY = {
    "rms": "before RMSNorm an axis grows by copies or by silent coordinates",
    "layernorm": "before LayerNorm an axis grows by whole copies or by coordinates that carry the mean",
    "plain": "here a norm's output is the residual stream itself (or a reader has no norm with a gain before it), "
    "so only whole copies keep every mean and variance",
    "elementwise": "units between two matrices grow by copies or by units that nothing reads yet",
}


def _head_maps(family: Family, old, new, chosen, words) -> tuple[AxisMap, AxisMap]:
    sizes = (old["heads"], old["kv_heads"], new["heads"], new["kv_heads"])
    if sizes[:2] == sizes[2:]:
        return identity(sizes[0]), identity(sizes[1])
    name = chosen.get("heads", "unread")
    if name not in ("unread", "copies"):
        raise Refused(f"--operator heads={name}", what="heads grow by unread or copies", why=_WHY["elementwise"], fix="unread")
    grown = grow_heads(*sizes, name)
    if grown is None:
        h, k, h2, k2 = sizes
        g, g2 = h // k, h2 // k2
        need = -(-g // g2) * k
        raise Refused(
            f"--to {family.axes['heads']}={h2}" + (f",{family.axes['kv_heads']}={k2}" if "kv_heads" in family.axes else ""),
            what=f"{h} query heads in {k} groups of {g} do not fit into {k2} groups of {g2}",
            why="stock attention reads kv head ⌊q / q_per_kv⌋, so every old query head needs a group with its own kv head",
            fix=f"{family.axes.get('kv_heads', 'kv_heads')}={need} with groups of {g2}, or groups of {g}: heads={g * k2}",
        )
    words["heads"] = _describe(grown.heads)
    words["kv_heads"] = _describe(grown.kv_heads) if sizes[1] != sizes[3] else "unchanged"
    return grown.heads, grown.kv_heads


def _describe(axis_map: AxisMap) -> str:
    fresh = int((axis_map.source < 0).sum())
    if fresh:
        scale = "" if axis_map.exact_factors and axis_map.write[0] == 1 else f", stream × √({axis_map.m}/{axis_map.n})"
        return f"{fresh} {axis_map.operator}{scale}"
    counts = sorted(set(axis_map.counts.tolist()))
    return "copies × " + " and ".join(map(str, counts))


def _rounding(maps: Mapping[str, AxisMap], old, new, split: str) -> tuple[str, ...]:
    """Why weights must be rounded: factors that are no powers of two, means, or shares that do not divide."""
    reasons = []
    for space, m in maps.items():
        if not m.exact_factors:
            what = "coordinates that carry a mean" if "mean" in m.operator else "a factor that is no power of two"
            reasons.append(f"{space} {m.n} -> {m.m}: {what}")
        elif split == "even" and any(c & (c - 1) for c in m.counts.tolist()) and space in ("hidden", "heads", "ffn"):
            reasons.append(f"{space} {m.n} -> {m.m}: even shares that are no powers of two")
    return tuple(reasons)


def _dtypes(matched: Match, dtype: str, rounded: tuple[str, ...], notes: list[str]) -> dict[str, str]:
    """Stored dtype of each result tensor; a rounded plan is written in float32 at least unless told otherwise."""
    if dtype != "auto":
        return {t.name: DTYPE_NAMES[dtype] for t in matched.tensors}
    if not rounded:
        return {t.name: t.dtype for t in matched.tensors}
    wide = {t.name: t.dtype if BITS[t.dtype] >= BITS["F32"] else "F32" for t in matched.tensors}
    if any(wide[t.name] != t.dtype for t in matched.tensors):
        notes.append("written as float32: the growth rounds weights, and in the source's dtype that would show")
    return wide


def _set_dtype(config: dict[str, Any], tensors) -> None:
    stored = {t.dtype for t in tensors}
    if len(stored) == 1:
        code = stored.pop()
        config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = next(
            name for name, c in DTYPE_NAMES.items() if c == code
        )


def _new_config(family: Family, config, old, new, changes) -> dict[str, Any]:
    result = {**config, **changes}
    for axis in (*WIDTHS, "embed"):
        if axis in family.axes and (new[axis] != old[axis] or config.get(family.axes[axis]) is not None):
            result[family.axes[axis]] = new[axis]
    if new["hidden"] != old["hidden"] or new["heads"] != old["heads"]:
        for axis in ("head_dim", "ffn"):  # both may have followed from hidden
            if axis in family.axes:
                result[family.axes[axis]] = new[axis]
    return result


def _check_options(operators: Mapping[str, str], split: str, dtype: str, seed: int) -> dict[str, str]:
    for axis, name in operators.items():
        if axis not in ("hidden", "ffn", "heads"):
            hint = did_you_mean(axis, ("hidden", "ffn", "heads"))
            raise BadInput(f"--operator {axis}={name}", what=f"no choice for {axis!r} {hint}".rstrip(), why="axes with a choice: hidden, ffn, heads", fix="--operator ffn=copies")
        if name not in OPERATORS:
            hint = did_you_mean(name, OPERATORS)
            raise BadInput(f"--operator {axis}={name}", what=f"no such operator {hint}".rstrip(), why="operators: " + ", ".join(OPERATORS), fix=f"--operator {axis}={DEFAULTS['elementwise'][0]}")
    if split not in SPLITS:
        raise BadInput(f"--split {split}", what="no such split", why="splits: " + ", ".join(SPLITS), fix="--split exact")
    if dtype != "auto" and dtype not in DTYPE_NAMES:
        raise BadInput(f"--dtype {dtype}", what="no such dtype", why="dtypes: auto, " + ", ".join(DTYPE_NAMES), fix="--dtype auto")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise BadInput(f"--seed {seed}", what="out of range", why="a seed is a whole number from 0 to 2^63 - 1", fix="--seed 0")
    return dict(operators)
