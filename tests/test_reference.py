"""The fast paths give the reference's bits: every role, operator, dtype and split, in one block and in many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest

from grow.applying import filled_rows, matrix_rows, reference, source_statistics, tensor_rows
from grow.applying.reference import grow_whole
from grow.applying.row_methods import Path, path_of
from grow.errors import BadInput, Refused
from grow.notation.axes import parse_signature
from grow.notation.dtypes import RAW
from grow.notation.maps import BLEND, AxisMap, axis_map, concatenate, identity, product
from grow.notation.numbers import narrow, widen
from grow.notation.operators import OPERATORS, grow_head_dim, grow_heads
from grow.notation.origins import Constant, Drawn, Read, Redrawn, SourcePart, Twin
from grow.planning.tensor import SPLITS, TensorPlan

DTYPES = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16", "BF16 to F32": "F32", "F32 to F64": "F64"}
MATRICES = ("ffn <- hidden", "hidden -> ffn", "vocab -> hidden")
Maps = tuple[AxisMap | None, ...]
BLOCKS = (1 << 18, 41)  # all rows, a few of them


def operator(name: str, context: str, times: float) -> Callable[[int], AxisMap]:
    return lambda n: OPERATORS[name](n, round(n * times), context)


def blended(n: int) -> AxisMap:
    return axis_map(n, [*range(n), *[BLEND] * 5])


def heads(operator: str) -> Callable[[int], AxisMap]:
    """Query heads of two groups, the size of a head being the rest: copies and unread ones beside each other."""

    def grown(n: int) -> AxisMap:
        found = grow_heads(2, 1, 6, 3, operator)
        assert found is not None
        return product([found.heads, OPERATORS["unread"](n, n + 3, "elementwise")])

    return grown


def head_dims(n: int) -> AxisMap:
    """q, k and v behind each other: a scale, silent and unread coordinates in one dim, the old ones moved."""
    return concatenate(grow_head_dim(n, n + 4, np.arange(n) + 1, scale=np.sqrt((n + 4) / n), qk_norm=False))


def raw_stream(n: int) -> AxisMap:
    """Copies whose scale nothing undoes but the reader."""
    copied = OPERATORS["copies"](n, 2 * n + 1, "rms")
    return replace(copied, gain=np.ones(copied.m), read=copied.read * copied.gain)


MAPS: dict[str, Callable[[int], AxisMap | None]] = {
    "unchanged": lambda n: None,
    "copies x2": operator("copies", "elementwise", 2),
    "copies x3": operator("copies", "rms", 3),
    "copies uneven": operator("copies", "elementwise", 2.45),
    "copies scaled": operator("copies", "rms", 1.6),
    "silent": operator("silent", "rms", 1.6),
    "silent x4": operator("silent", "rms", 4),
    "mean": operator("mean", "layernorm", 1.6),
    "unread": operator("unread", "elementwise", 1.6),
    "raw stream": raw_stream,
}
MAPS_OF_TABLES = {"unchanged": (MAPS["unchanged"], 1), "blend": (blended, 1)}
SEVERAL = {"heads copies": (heads("copies"), 2), "heads unread": (heads("unread"), 2), "head_dim": (head_dims, 3)}
"""Maps of dims that are so many times as large as what they are told."""


def planned(
    signature: str, dtype: str, maps: tuple[AxisMap | None, ...], shape: tuple[int, ...], **fields
) -> TensorPlan:
    new = tuple(n if m is None else m.m for m, n in zip(maps, shape))
    old = SourcePart("old", dtype.split(" to ")[0], shape)
    return TensorPlan("new", "", parse_signature(signature), maps, old, new, DTYPES[dtype], **fields)


def old_numbers(part: SourcePart, seed: int) -> np.ndarray:
    """N(0, 1) of several scales, signs and a row of zeros; stored."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal(part.matrix) * 2.0 ** draw.integers(-8, 2, part.matrix)
    if part.matrix[0] > 4 and part.matrix[1] > 1:
        values[3] = 0
    return narrow(values, part.dtype)


def fast(t: TensorPlan, old: np.ndarray, split: str, block: int, above: np.ndarray | None, patch) -> np.ndarray:
    """What `grow_tensor` hands out; each row once."""
    new, times = np.zeros(t.new_matrix, RAW[t.dtype]), np.zeros(t.new_matrix[0], dtype=int)

    def write(first: int, rows: np.ndarray) -> None:
        new[first : first + len(rows)] = rows
        times[first : first + len(rows)] += 1

    patch.setattr(tensor_rows, "BLOCK", block)
    stored = {t.old: old} if above is None else {t.old: old, t.origin.above: above}
    tensor_rows.grow_tensor(t, lambda part, a, b: stored[part][a:b], write, split=split, seed=7)
    assert (times == 1).all()
    return new


def agree(t: TensorPlan, split: str, patch, blocks: tuple[int, ...] = BLOCKS) -> bool:
    old = old_numbers(t.old, 1)
    above = old_numbers(t.origin.above, 2) if isinstance(t.origin, Read) and t.origin.above else None
    for block in blocks:
        found = fast(t, old, split, block, above, patch)
        wanted = grow_whole(t, old, split=split, seed=7, block=block, above=above)
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype) or found.tobytes() != wanted.tobytes():
            return False
    return True


def matrices(signature: str, dtype: str, split: str, **fields) -> Iterator[tuple[str, TensorPlan]]:
    """Tensors of drawn sizes that differ from each other: every fourth pair of maps, another for each dtype and split,
    so that all pairs meet all splits, and all dtypes."""
    maps = {**{name: (of, 1) for name, of in MAPS.items()}, **SEVERAL}
    tables = MAPS_OF_TABLES if signature.startswith("vocab") else maps
    turn = list(DTYPES).index(dtype) + SPLITS.index(split)
    draw = np.random.default_rng(turn)
    for (i, (row, (rows, a))), (j, (col, (cols, b))) in itertools.product(
        *map(enumerate, (tables.items(), maps.items()))
    ):
        n, k = draw.choice(np.arange(5, 14), 2, replace=False).tolist()
        if (i + j + turn) % 4 == 0:
            yield f"{row}, {col}", planned(signature, dtype, (rows(n), cols(k)), (a * n, b * k), **fields)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("signature", MATRICES)
def test_matrices(signature, dtype, split, monkeypatch):
    found = {name: agree(t, split, monkeypatch) for name, t in matrices(signature, dtype, split)}
    assert [name for name, same in found.items() if not same] == []
    assert len(found) >= 6


def others(dtype: str) -> dict[str, TensorPlan]:
    """Vectors, and what is done to a tensor beside its maps."""
    small, more = operator("copies", "rms", 1.6)(7), operator("copies", "rms", 3)(11)
    unread, half = operator("unread", "elementwise", 1.6)(7), operator("copies", "rms", 2)(7)
    twice, mean = operator("copies", "rms", 2)(11), operator("mean", "layernorm", 1.6)(11)
    among, first = (("a", 0), ("b", 0), ("c", 0)), dtype.split(" to ")[0]
    origins = {
        "factor": Read(1.7),
        "factor 2": Read(2.0),
        "from above": Read(above=SourcePart("next", first, (7, 11))),
        "from above, wider": Read(above=SourcePart("next", "F32", (7, 11))),
        "from above, narrower": Read(above=SourcePart("next", "F16", (7, 11))),
        **{f"expert {k}": Read(twin=Twin(k, among)) for k in range(3)},
        "redrawn rows": Read(twin=Twin(0, redraw=Redrawn(0.5, "r", 0))),
        "redrawn columns": Read(twin=Twin(1, redraw=Redrawn(0.3, "r", 1))),
        "number": Constant(0.3),
        "drawn": Drawn(),
        "drawn twice": Drawn(rms=0.1, repeat=2),
    }
    matrix = {
        f"{name}, {of}": planned("ffn <- hidden", dtype, maps, (7, 11), origin=origin)
        for name, origin in origins.items()
        for of, maps in {"same": (None, None), "more": (half, more), "fresh": (unread, twice)}.items()
        if name != "drawn twice" or of == "more"
    }
    turned = {
        f"{name}, turned": planned("hidden -> ffn", dtype, (half, twice), (7, 11), origin=origin)
        for name, origin in origins.items()
        if "twice" not in name
    }
    norms = {
        f"norm {mark} {name}, {'tied' if tied else 'alone'}": planned(f"hidden {mark}", dtype, (m,), (n,), tied=tied)
        for mark in "*+"
        for tied in (False, True)
        for name, m, n in (("same", None, 7), ("small", small, 7), ("more", more, 11), ("mean", mean, 11))
    }
    biases = {
        f"bias {name}": planned("ffn <-", dtype, (MAPS[name](9),), (9,))
        for name in ("unchanged", "copies x2", "copies scaled", "unread", "silent", "mean")
    }
    kinds = {"b": Read(), "low": Read(low=-7.3)}
    low = {name: planned("vocab <-", dtype, (blended(23),), (23,), origin=origin) for name, origin in kinds.items()}
    return matrix | turned | norms | biases | low


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_biases_and_what_else_is_done_to_a_tensor(dtype, split, monkeypatch):
    different = [name for name, t in others(dtype).items() if not agree(t, split, monkeypatch)]
    assert different == []


# The decision


def path(t: TensorPlan, split: str = "exact") -> Path:
    return path_of(t, split)


@pytest.mark.parametrize(
    ("wanted", "dtype", "rows", "cols", "split"),
    [
        (Path.MOVE, "F16", "unchanged", "unchanged", "exact"),
        (Path.MOVE, "BF16", "copies x3", "unread", "even"),
        (Path.STORE, "BF16", "unread", "copies x2", "exact"),
        (Path.STORE, "F64", "copies uneven", "copies x2", "noisy"),
        (Path.ROUND, "F32", "unchanged", "silent", "exact"),  # by √1.6, which a norm's gain undoes
        (Path.ROUND, "F32", "mean", "unchanged", "exact"),
        (Path.ROUND, "F32 to F64", "unchanged", "unchanged", "exact"),
        (Path.ROUND, "BF16", "unread", "copies x2", "even"),
        (Path.ROUND, "F32", "silent", "unread", "exact"),
        (Path.ROUND, "F16", "copies scaled", "unchanged", "exact"),
    ],
)
def test_the_path_of_a_matrix(wanted, dtype, rows, cols, split):
    assert path(planned("ffn <- hidden", dtype, (MAPS[rows](5), MAPS[cols](7)), (5, 7)), split) is wanted


def test_the_path_of_everything_else():
    t = planned("ffn <- hidden", "F32", (None, None), (5, 7))
    assert path(t) is Path.MOVE
    assert path(replace(t, origin=Read(2.0))) is Path.ROUND
    assert path(replace(t, origin=Read(twin=Twin(0, (("a", 0), ("b", 0)))))) is Path.ROUND
    assert path(replace(t, origin=Drawn())) is Path.FILL
    assert path(replace(t, origin=Constant(0.0))) is Path.FILL
    assert path(planned("hidden +", "F32", (None,), (5,))) is Path.WHOLE


def test_every_path_is_among_the_cases():
    cases = [t for dtype in DTYPES for _, t in matrices("ffn <- hidden", dtype, "exact")]
    assert {path(t) for t in [*cases, *others("BF16").values()]} == set(Path)


# Norms, which both grow in one way


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mark", "*+")
@pytest.mark.parametrize("name", ["unchanged", "copies x3", "copies scaled", "silent", "mean"])
def test_norms(name, mark, dtype):
    found = MAPS[name](11)
    m = identity(11) if found is None else found
    t = planned(f"hidden {mark}", dtype, (found,), (11,))
    old = old_numbers(t.old, 1)
    w = widen(old, t.old.dtype, np.dtype(float))[:, 0]
    wanted = np.where(m.source < 0, abs(w).mean() if mark == "*" else 0, w[m.source]) * (m.gain if mark == "*" else 1)
    assert whole(t, old).tobytes() == narrow(wanted[:, None], t.dtype).tobytes()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mark", "*+")
@pytest.mark.parametrize("name", ["copies x3", "copies scaled", "silent", "mean"])
def test_norms_in_front_of_a_tied_head_are_shared(name, mark, split):
    m = MAPS[name](11)
    t = planned(f"hidden {mark}", "F64", (m,), (11,), tied=True)
    old = old_numbers(t.old, 1)
    new, there = whole(t, old, split)[:, 0] * m.write / (m.gain if mark == "*" else 1), m.source >= 0
    total = np.bincount(m.source[there], new[there], 11)
    assert np.allclose(total, old[:, 0], rtol=1e-14, atol=0)  # products and quotients of three numbers, sums of three
    if name == "copies x3":
        assert len(set(new[there].tolist())) == (33 if split in ("exact", "noisy") else 11)


# Faults


def test_both_refuse_what_is_no_number(monkeypatch):
    t = planned("ffn <- hidden", "F32", (None, MAPS["copies x2"](7)), (5, 7))
    old = old_numbers(t.old, 1)
    old[4, 2] = np.nan
    for grown in (lambda: fast(t, old, "exact", 14, None, monkeypatch), lambda: whole(t, old)):
        with pytest.raises(BadInput, match="NaN or Inf"):
            grown()


def test_both_refuse_what_does_not_fit(monkeypatch):
    t = planned("ffn <- hidden", "F16", (None, None), (5, 7), origin=Read(512.0))
    old = np.full((5, 7), 300, dtype=np.float16)
    for grown in (lambda: fast(t, old, "exact", 14, None, monkeypatch), lambda: whole(t, old)):
        with pytest.raises(Refused, match="does not fit into F16"):
            grown()


def whole(t: TensorPlan, old: np.ndarray, split: str = "exact", block: int = 14) -> np.ndarray:
    return grow_whole(t, old, split=split, seed=7, block=block)


def last_bit(of: Callable) -> Callable:
    """The same function; one bit of one number of its result is another."""

    def off(*given):
        found = of(*given)
        some = found[0] if isinstance(found, list) else found
        if some.size:
            raw = np.array(some, order="C")
            raw.view(np.uint8).reshape(-1)[0] ^= 1
            return [raw, *found[1:]] if isinstance(found, list) else raw
        return found

    return off


def larger(of: Callable) -> Callable:
    return lambda *given: of(*given) * (1 + 2.0**-20)


def nowhere(of: Callable) -> Callable:
    return lambda *given: np.zeros_like(of(*given))


def unseen(of: Callable) -> Callable:
    """What its first argument is, as it is."""
    return lambda self, values, *rest: values


def instead(one: Path, other: Path) -> Callable:
    def swapped(of: Callable) -> Callable:
        return lambda *given: other if of(*given) is one else of(*given)

    return swapped


Rows, Whole, Seen = matrix_rows.MatrixRows, reference._Matrix, source_statistics.SourceStatistics
FAULTS: dict[str, tuple[object, str, Callable]] = {
    "fast: share": (Rows, "_shares", last_bit),
    "fast: columns": (Rows, "_columns", last_bit),
    "fast: factor": (Rows, "_multiplied", unseen),
    "fast: last rounding": (Rows, "_late", last_bit),
    "fast: drawn rows": (Rows, "_random", last_bit),
    "fast: blends": (Rows, "_blended", last_bit),
    "fast: pairs": (Rows, "_apart", nowhere),
    "fast: from above": (Rows, "_from_above", unseen),
    "fast: scale": (Seen, "rms", larger),
    "fast: mean": (Seen, "mean", larger),
    "fast: groups": (Seen, "means", larger),
    "fast: filled": (filled_rows, "source_rms", larger),
    "fast: redrawn": (tensor_rows, "redrawn", lambda of: lambda t, read, write, *rest: write),
    "decision: not rounded": (tensor_rows, "path_of", instead(Path.ROUND, Path.STORE)),
    "decision: only moved": (tensor_rows, "path_of", instead(Path.STORE, Path.MOVE)),
    "reference: share": (Whole, "shares", last_bit),
    "reference: columns": (Whole, "columns", last_bit),
    "reference: share of an expert": (Whole, "share_of_expert", unseen),
    "reference: last rounding": (reference, "rounded", last_bit),
    "reference: drawn": (Whole, "drawn", larger),
    "reference: drawn rows": (Whole, "random_rows", last_bit),
    "reference: blends": (Whole, "blended", last_bit),
    "reference: pairs": (Whole, "apart", nowhere),
    "reference: from above": (Whole, "further", nowhere),
    "reference: filled": (reference, "_rms", larger),
    "reference: redrawn": (reference, "_redraw", lambda of: lambda *given: None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_either_is_seen(fault, monkeypatch):
    where, name, planted = FAULTS[fault]
    before = getattr(where, name)
    if isinstance(before, property):
        monkeypatch.setattr(where, name, property(planted(before.fget)))
    elif isinstance(before, cached_property):
        monkeypatch.setattr(where, name, property(planted(before.func)))
    else:
        monkeypatch.setattr(where, name, planted(before))
    dtype = "F16" if fault == "decision: only moved" else "F32"  # bits of float32 are its numbers: nothing would differ
    cases = itertools.chain(others(dtype).values(), *(dict(matrices(s, dtype, "exact")).values() for s in MATRICES))
    assert not all(agree(t, split, monkeypatch, BLOCKS[1:]) for t in cases for split in ("exact", "diagonal"))
