"""A growth is a target config and one map per space; a `Plan` says what would happen, before a byte is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grow.axes import Dim, Label, Signature
from grow.choose import choose_maps, rounding
from grow.errors import BadInput, did_you_mean
from grow.family import WIDTHS, Family
from grow.maps import AxisMap, concatenate, identity, product
from grow.match import Match, Matched
from grow.operators import OPERATORS
from grow.target import Target

BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# dtype -> the dtypes of which it can store every number; bfloat16 reaches further than float16 and is coarser
STORES = {"F64": {"F64", "F32", "F16", "BF16"}, "F32": {"F32", "F16", "BF16"}, "F16": {"F16"}, "BF16": {"BF16"}}
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
    maps, words, changes = choose_maps(family, config, old, new, chosen)
    new_config = _new_config(family, config, old, new, changes)
    notes = list(target.notes)
    rounded = rounding(maps, old, new, split)
    out_dtype = _dtypes(matched, dtype, rounded, notes)
    tensors, untied = assemble(family, matched, maps, out_dtype)
    if untied:
        new_config["tie_word_embeddings"] = False
        notes.append(
            f"{untied} is written apart from the embedding: no norm in front of the head can absorb the growth"
        )
    narrowed = sorted(
        {f"{t.source_dtype} stored as {t.dtype}" for t in tensors if t.source_dtype not in STORES[t.dtype]}
    )
    shared = any(maps[space].counts.max() > 1 for space in ("hidden", "heads", "ffn"))
    if split == "even" and shared and any(t.dtype == "F16" for t in tensors):
        narrowed.append("float16: half of one of its smallest numbers is none")
    _set_dtype(new_config, tensors)
    return Plan(
        family,
        dict(config),
        new_config,
        old,
        new,
        maps,
        words,
        tensors,
        split,
        seed,
        rounded=(*rounded, *narrowed),
        notes=tuple(notes),
    )


def assemble(
    family: Family, matched: Match, maps: Mapping[str, AxisMap], dtypes: Mapping[str, str]
) -> tuple[tuple[TensorPlan, ...], str]:
    """The result's tensors, and the name of a head that has to part from its tied table (or "")."""
    tie = family.tie if family.tie and family.holds(matched.config, family.tie.when) else None
    if tie and not any(t.canonical == tie.table and "hidden" in t.row.signature.axes for t in matched.tensors):
        tie = None  # the table lives in another space than the one that grows: OPT's word_embed_proj_dim
    grows = not maps["hidden"].is_identity
    parted = tie if tie and grows and not family.holds(matched.config, tie.norms_when) else None
    tensors, untied = [], ""
    for t in matched.tensors:
        tied = tie is not None and parted is None and t.canonical in tie.norms
        tensors.append(_tensor(t, t.name, t.row.signature, maps, dtypes[t.name], tied))
        if parted and t.canonical == parted.table:
            head = next(row for row in family.rows if row.name == parted.head)
            untied = parted.head
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


def _tensor(
    t: Matched, name: str, signature: Signature, maps: Mapping[str, AxisMap], dtype: str, tied: bool
) -> TensorPlan:
    sizes = {
        label.axis: size for dim, size in zip(signature.dims, t.shape) for label in dim.labels if len(dim.labels) == 1
    }
    sizes |= {"heads": maps["heads"].n, "kv_heads": maps["kv_heads"].n, "head_dim": maps["head_dim.v"].n}
    dims = tuple(dim_map(dim, maps, sizes) for dim in signature.dims)
    new_shape = tuple(n if m is None else m.m for m, n in zip(dims, t.shape))
    return TensorPlan(name, t.name, signature, dims, t.shape, new_shape, t.dtype, dtype, tied)


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
    if split not in SPLITS:
        raise BadInput(
            f"--split {split}", what="no such split", why="splits: " + ", ".join(SPLITS), fix="--split exact"
        )
    if dtype != "auto" and dtype not in DTYPE_NAMES:
        raise BadInput(
            f"--dtype {dtype}",
            what="no such dtype",
            why="dtypes: auto, " + ", ".join(DTYPE_NAMES),
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
