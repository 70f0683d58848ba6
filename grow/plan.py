"""A growth is a target config and one map per space; a `Plan` says what would happen, before a byte is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import numpy as np

from grow.axes import LOOKUPS, READ, WRITE, Dim, Label, Row, Signature
from grow.change import DRAWN, Change, Treatment, Upcycling, check_depth, depth_rounds, layer_config, layer_maps, treat
from grow.choose import grow_counts, grow_experts, low_logit, rounding
from grow.errors import BadInput, did_you_mean
from grow.family import GROWABLE, UNITS, Family
from grow.maps import AxisMap, behind, concatenate, identity, is_power_of_two, product
from grow.match import Match, Matched
from grow.methods import DEFAULT, METHODS, Request, design, method_named
from grow.operators import OPERATORS
from grow.target import Target, resolve
from grow.upcycle import read_so

BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}
DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# dtype -> the dtypes of which it can store every number; bfloat16 reaches further than float16 and is coarser
STORES = {"F64": {"F64", "F32", "F16", "BF16"}, "F32": {"F32", "F16", "BF16"}, "F16": {"F16"}, "BF16": {"BF16"}}
ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SPLITS = ("exact", "even", "noisy", "diagonal")
"""How copies share a consumer's weight.

exact     drawn per weight; the shares sum to it bit for bit
even      equal shares
noisy     even shares and noise that cancels bit for bit
diagonal  copy k of a unit reads copy k of what it reads, with the whole weight; even where the reader has no copies
"""
HALVED = ("even", "diagonal")  # splits that divide weights, which rounds unless by a power of two


@dataclass(frozen=True)
class Share:
    """One of the experts that an old one became: their down projections differ, and their mean is the old one.

    place  among the copies
    among  tensor and first row of each copy
    """

    place: int
    among: tuple[tuple[str, int], ...]


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (shape[0], 1)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result.

    canonical  the name that the family's table gives it
    maps    one per stored dim, None where nothing changes
    tied    a norm in front of a tied head: its gain (bias) is shared among copies like a consumer's weight
    fill    None: it is read from `source`; a number: it is that number; `change.DRAWN`: drawn at the source's scale
    rms     of what is drawn, None for the source's
    repeat  how many consecutive rows of what is drawn are equal
    factor  on every element
    corner  (row, column) of the source where the part begins that is read
    copy    place among the experts that come from one old one
    share   what they write together is what the old one wrote
    pieces  a stack: the row where each matrix begins, and its plan
    inserted  part of a layer that computes the identity: all of it is new
    again   a second tensor made of its source: a head that parts from its table
    low     value of the fresh rows of a bias, None where their kind says it
    above   the next layer's tensor, which further copies of a unit are read from
    redraw  (share, name, dim): of the units along dim so many are drawn anew, the same for all matrices of a name
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
    canonical: str = ""
    fill: float | str | None = None
    factor: float = 1.0
    low: float | None = None
    inserted: bool = False
    again: bool = False
    rms: float | None = None
    repeat: int = 1
    corner: tuple[int, int] = (0, 0)
    copy: int = 0
    share: Share | None = None
    pieces: tuple[tuple[int, TensorPlan], ...] = ()
    above: str = ""
    redraw: tuple[float, str, int] | None = None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of what is read; a vector is one column, a stack lies flat."""
        return _flat(self.shape)

    @property
    def new_matrix(self) -> tuple[int, int]:
        return _flat(self.new_shape)

    @property
    def parts(self) -> tuple[tuple[int, TensorPlan], ...]:
        """(first row, matrix) that this tensor is made of."""
        return self.pieces or ((0, self),)

    @property
    def nbytes(self) -> int:
        return math.prod(self.new_shape) * ITEMSIZE[self.dtype]

    @property
    def roles(self) -> tuple[str, ...]:
        """Per dim. A table that is looked up row by row is not multiplied: its rows are gathered like a producer's."""
        return tuple(
            WRITE if dim.role == READ and dim.labels[0].axis in LOOKUPS else dim.role for dim in self.signature.dims
        )

    @property
    def unchanged(self) -> bool:
        plain = self.fill is None and self.factor == 1
        return plain and all(m is None for m in self.maps) and self.dtype == self.source_dtype


@dataclass(frozen=True)
class Plan:
    """What `grow` will do.

    sizes, new_sizes   axis -> size
    change             the maps (hidden, heads, kv_heads, head_dim.q, .k, .v, ffn, vocab, positions) and the layers
    operators          axis -> how it grows, in words
    tensors            in the order of the result's files
    rounded            why stored weights are rounded; empty for a bit-exact plan
    method             of `grow.methods`
    lossy              what is lost and why, whatever is stored; empty for an exact growth
    """

    family: Family
    config: dict[str, Any]
    new_config: dict[str, Any]
    sizes: dict[str, int]
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
    def maps(self) -> Mapping[str, AxisMap]:
        return self.change.maps

    @property
    def storage(self) -> str:
        return "rounded" if self.rounded else "bit-exact"

    @property
    def config_changes(self) -> dict[str, tuple[Any, Any]]:
        keys = [k for k in self.new_config if self.new_config[k] != self.config.get(k)]
        return {k: (self.config.get(k), self.new_config[k]) for k in keys}

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


def make_plan(
    family: Family,
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
    method       of `grow.methods`: it chooses operators, split and layers, unless it is ours
    allow_lossy  let a method that is not exact have its way; the plan then says what is lost
    """
    config, old, new = matched.config, family.sizes_of(matched.config), target.sizes
    chosen = _check_options(operators or {}, split, dtype, seed)
    _check_method(method, chosen, split, place, fill)
    request = Request(family, config, old, new, seed, chosen, place, fill, upcycling is not None)
    made = design(method, request, allow_lossy=allow_lossy)
    maps, words, depth = made.maps, made.words, made.depth
    split = split or made.split
    maps |= grow_counts(family, config, old, new, new_tokens, words)
    maps |= grow_experts(family, config, old, new, words, upcycled=upcycling is not None)
    if any(depth.inserted):
        check_depth(family, config, depth)
    words["layers"] = depth.describe()
    low = low_logit(family, config, new_tokens) if new["vocab"] > old["vocab"] else None
    change = Change(maps, depth, low, upcycling, made.above, made.redraw)
    new_config = _new_config(family, config, old, new, made.config, top_k) | layer_config(family, config, depth)
    notes = list(target.notes)
    rounded = (*rounding(maps, old, new, split), *depth_rounds(family, config, depth), *_rounding_factors(matched))
    out_dtype = _dtypes(matched, dtype, rounded, notes)
    tensors, untied = assemble(family, matched, change, out_dtype)
    if untied:
        new_config["tie_word_embeddings"] = False
        notes.append(
            f"{untied} is written apart from the embedding: no norm in front of the head can absorb the growth"
        )
    narrowed = sorted(
        {f"{t.source_dtype} stored as {t.dtype}" for t in tensors if t.source_dtype not in STORES[t.dtype]}
    )
    shared = any(maps[space].counts.max() > 1 for space in ("hidden", "heads", *UNITS) if space in maps)
    if split in HALVED and shared and any(t.dtype == "F16" for t in tensors):
        narrowed.append("float16: half of one of its smallest numbers is none")
    _set_dtype(new_config, tensors)
    return Plan(
        family,
        dict(config),
        new_config,
        old,
        new,
        change,
        words,
        tensors,
        split,
        seed,
        rounded=(*rounded, *narrowed),
        notes=tuple(notes),
        method=method,
        lossy=made.lossy,
    )


def plan_for(
    family: Family,
    matched: Match,
    to: Any,
    *,
    deepen: bool = False,
    upcycling: Mapping[str, Any] | None = None,
    **options: Any,
) -> Plan:
    """`make_plan` for a target as people write it, see `grow.target`; `upcycling` as in `grow.upcycle.read_so`."""
    if upcycling is None:
        return make_plan(family, matched, resolve(family, matched.config, to, deepen=deepen), **options)
    family, matched, how, top_k = read_so(family, matched, **upcycling)
    target = resolve(family, matched.config, {} if to is None else to, deepen=deepen)
    target = replace(target, sizes={**target.sizes, "experts": upcycling["experts"]})
    return make_plan(family, matched, target, upcycling=how, top_k=top_k, **options)


def assemble(
    family: Family, matched: Match, change: Change, dtypes: Mapping[str, str]
) -> tuple[tuple[TensorPlan, ...], str]:
    """The result's tensors, and the name of a head that has to part from its tied table (or "")."""
    config = matched.config
    tie = family.tie if family.tie and family.holds(config, family.tie.when) else None
    if tie and not any(t.canonical == tie.table and "hidden" in t.row.signature.axes for t in matched.tensors):
        tie = None  # the table lives in another space than the one that grows: OPT's word_embed_proj_dim
    grows = not change.maps["hidden"].is_identity
    parted = tie if tie and grows and not family.holds(config, tie.norms_when) else None
    stored = {(t.row.name, t.index("layers"), t.index("experts")): t for t in matched.tensors}
    tensors, untied = [], ""
    for row, name, canonical, layer, expert in _in_order(matched, change):
        maps = layer_maps(family, config, change.maps, change.depth, layer)
        treated = Treatment(0) if layer is None else treat(family, config, change, row, layer, expert)
        old_expert = None if expert is None else int(maps["experts"].source[expert])
        t = stored[row.name, None if layer is None else treated.layer, old_expert]
        tied = tie is not None and parted is None and canonical in tie.norms
        new = layer is not None and change.depth.new[layer] and not treated.moved
        grown = _tensor(t, name, row.signature, maps, dtypes[t.name], change.low)
        grown = replace(grown, canonical=canonical, tied=tied, inserted=new)
        if change.above and layer is not None and treated.fill is None:
            grown = replace(grown, above=_above(grown, stored.get((row.name, treated.layer + 1, old_expert))))
        if expert is not None:
            copies = change.copies(expert).tolist()
            among = tuple((t.at(t.at(t.name, layers=layer or 0), experts=k), 0) for k in copies)
            place = copies.index(expert)
            grown = replace(grown, copy=place, share=Share(place, among) if change.shared(row) else None)
            grown = replace(grown, redraw=_redraw(family, change, row.signature, layer, expert, place))
        tensors.append(_treated(grown, treated))
        if row.signature.stacked and tensors[-1].fill is None:
            tensors[-1] = _stack(family, t, tensors[-1], row, maps, change, layer)
        if parted and canonical == parted.table:
            head = next(row for row in family.rows if row.name == parted.head)
            untied = parted.head
            second = _tensor(t, untied, head.signature, maps, dtypes[t.name])
            tensors.append(replace(second, canonical=untied, again=True))
    return tuple(tensors), untied


def _treated(t: TensorPlan, treated: Treatment) -> TensorPlan:
    """What the layer asks for comes before how the tensor came about."""
    if treated.fill is None:
        return replace(t, factor=t.factor * treated.factor)
    return replace(t, fill=treated.fill, share=None)


def _above(t: TensorPlan, upper: Matched | None) -> str:
    """The next layer's tensor where it has one and this one writes copies."""
    copied = any(m is not None and role == WRITE and m.counts.max() > 1 for m, role in zip(t.maps, t.roles))
    return upper.name if upper is not None and copied else ""


def _redraw(
    family: Family, change: Change, signature: Signature, layer: int | None, expert: int, place: int
) -> tuple[float, str, int] | None:
    """Which share of an expert's units is drawn anew, by which name, and along which dim they are."""
    if change.redraw is None or family.experts is None or (place == 0 and not change.redraw.first):
        return None
    dims = [
        d for d, dim in enumerate(signature.dims) if any(label.axis == family.experts.width for label in dim.labels)
    ]
    return (change.redraw.share, f"redraw {layer}.{expert}", dims[0]) if dims else None


def _stack(
    family: Family,
    t: Matched,
    grown: TensorPlan,
    row: Row,
    maps: Mapping[str, AxisMap],
    change: Change,
    layer: int | None,
) -> TensorPlan:
    """The stack with the plans of its matrices; what tells twins of experts apart is decided for each."""
    pieces: list[tuple[int, TensorPlan]] = []
    begin, of, experts = 0, row.signature.part, maps["experts"]
    rows = t.shape[1]
    each = len(t.parts) // experts.n
    for j, i in enumerate(experts.source.tolist()):
        alone = replace(
            t, row=replace(row, signature=of), shape=t.shape[1:], source=grown.source, corner=(i * rows, 0), parts=()
        )
        copies = change.copies(j).tolist()
        height = grown.new_shape[1]
        for p, part in enumerate(t.parts[i * each : (i + 1) * each] or (alone,)):
            piece = _tensor(part, f"{grown.name}[{j}.{p}]", part.row.signature, maps, grown.dtype)
            piece = replace(piece, canonical=grown.canonical, inserted=grown.inserted, copy=copies.index(j))
            piece = replace(piece, redraw=_redraw(family, change, part.row.signature, layer, j, piece.copy))
            if change.shared(row):
                among = tuple((grown.name, k * height) for k in copies)
                piece = replace(piece, share=Share(copies.index(j), among))
            elif grown.inserted and change.upcycling is None and copies[0] < j:
                piece = replace(piece, fill=DRAWN)
            pieces.append((begin, piece))
            begin += piece.new_matrix[0]
    return replace(grown, pieces=tuple(pieces))


def _in_order(matched: Match, change: Change) -> Iterator[tuple[Row, str, str, int | None, int | None]]:
    """(row, stored name, canonical name, new layer, new expert) of every tensor of the result; layers stand where the
    first did, and copies of an expert behind each other."""

    def placed(t: Matched, layer: int | None) -> Iterator[tuple[Row, str, str, int | None, int | None]]:
        expert = t.index("experts")
        new = (None,) if expert is None else np.flatnonzero(change.maps["experts"].source == expert).tolist()
        for j in new:
            at = {} if layer is None else {"layers": layer}
            at |= {} if j is None else {"experts": j}
            yield t.row, t.at(t.name, **at), t.at(t.canonical, **at), layer, j

    if change.depth.is_identity:
        for t in matched.tensors:
            yield from placed(t, t.index("layers"))
        return
    layers: dict[int | None, list[Matched]] = {}
    for t in matched.tensors:
        layers.setdefault(t.index("layers"), []).append(t)
    once = layers.get(None, [])
    before = len(list(takewhile(lambda t: t.index("layers") is None, matched.tensors)))
    for t in once[:before]:
        yield from placed(t, None)
    for j, source in enumerate(change.depth.source):
        for t in layers[source]:
            yield from placed(t, j)
    for t in once[before:]:
        yield from placed(t, None)


def dim_map(dim: Dim, maps: Mapping[str, AxisMap], sizes: Mapping[str, int]) -> AxisMap | None:
    """The map of a stored dimension from the maps of its spaces; None when no space in it changes."""

    def of(label: Label, side: str = "") -> AxisMap | None:
        found = maps.get(label.space) or maps.get(f"{label.axis}.{side}")
        if found is None or found.is_identity:
            return None
        return found if not label.extra else behind(label.extra, found)

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
    t: Matched, name: str, signature: Signature, maps: Mapping[str, AxisMap], dtype: str, low: float | None = None
) -> TensorPlan:
    sizes = {
        label.axis: size - label.extra
        for dim, size in zip(signature.dims, t.shape)
        for label in dim.labels
        if len(dim.labels) == 1
    }
    sizes |= {"heads": maps["heads"].n, "kv_heads": maps["kv_heads"].n, "head_dim": maps["head_dim.v"].n}
    dims = tuple(dim_map(dim, maps, sizes) for dim in signature.dims)
    new_shape = tuple(n if m is None else m.m for m, n in zip(dims, t.shape))
    biased = low if len(dims) == 1 and any(label.axis == "vocab" for label in signature.dims[0].labels) else None
    return TensorPlan(
        name,
        t.source or t.name,
        signature,
        dims,
        t.shape,
        new_shape,
        t.dtype,
        dtype,
        low=biased,
        fill=t.fill,
        rms=t.rms,
        repeat=t.repeat,
        factor=t.factor,
        corner=t.corner,
    )


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


def _rounding_factors(matched: Match) -> tuple[str, ...]:
    factors = {t.factor for t in matched.tensors} | {part.factor for t in matched.tensors for part in t.parts}
    return tuple(f"weights × {factor:g}" for factor in sorted(factors) if not is_power_of_two(factor))


def _new_config(family: Family, config, old, new, changes, top_k: int | None = None) -> dict[str, Any]:
    result = {**config, **changes}
    if family.experts:
        copies = new["experts"] // old["experts"]
        result[family.experts.top_k] = top_k or copies * family.get(config, family.experts.top_k)
    for axis in (*GROWABLE, "embed"):
        if axis in family.axes and (new[axis] != old[axis] or config.get(family.axes[axis]) is not None):
            result[family.axes[axis]] = new[axis]
    for name, other in family.synonyms.items():
        if name in result or other in result:
            result[name] = result[other] = family.get(result, name)
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
