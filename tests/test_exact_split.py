"""Shares of a weight sum to it bit for bit in the dtype they are stored in, and differ from each other."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from models import save

import grow
from grow.applying.engine import FileSource, write_plan
from grow.checkpoint.reader import open_checkpoint
from grow.files.writer import ShardWriter
from grow.notation.dtypes import RAW
from grow.notation.numbers import Noise, narrow, representable, split_even, split_exact, split_in_two, widen

pytestmark = pytest.mark.quick

DTYPES = ("F32", "BF16", "F16", "F64")
WORK = {"F64": np.dtype(np.float64)}
LARGEST = {"F32": 0x7F7FFFFF, "BF16": 0x7F7F, "F16": 0x7BFF, "F64": 0x7FEFFFFFFFFFFFFF}
COUNTS = {"2": [2], "3": [3], "4": [4], "5": [5], "mixed": [1, 2, 3, 5, 4, 1, 2]}


def work(dtype: str) -> np.dtype:
    return WORK.get(dtype, np.dtype(np.float32))


def values(dtype: str, kind: str, shape=(64, 7)) -> np.ndarray:
    """Values that the dtype can store, in the work dtype."""
    draw = np.random.default_rng(7)
    if kind == "normal":
        return representable((0.02 * draw.standard_normal(shape)).astype(work(dtype)), dtype)
    unsigned = np.dtype(f"<u{RAW[dtype].itemsize}")
    if kind == "bits":  # any finite number at all, subnormals and the largest included
        bits = draw.integers(0, LARGEST[dtype], shape, dtype=np.uint64, endpoint=True)
    elif kind == "subnormal":
        smallest_normal = {"F32": 1 << 23, "BF16": 1 << 7, "F16": 1 << 10, "F64": 1 << 52}[dtype]
        bits = draw.integers(0, smallest_normal, shape, dtype=np.uint64)
    else:
        bits = np.full(shape, LARGEST[dtype] if kind == "largest" else 0, dtype=np.uint64)
    sign = np.uint64(1) << np.uint64(8 * unsigned.itemsize - 1)
    bits |= np.where(draw.random(shape) < 0.5, sign, np.uint64(0))
    return widen(bits.astype(unsigned).view(RAW[dtype]), dtype, work(dtype))


def counts_of(name: str, columns: int = 7) -> np.ndarray:
    return np.resize(np.array(COUNTS[name]), columns)


def sums_are_exact(parts, of: np.ndarray, counts: np.ndarray) -> bool:
    """In rational arithmetic: a float64 sum of float64 parts would round."""
    rows, columns = of.shape
    return all(
        sum(Fraction(float(parts[k][i, j])) for k in range(counts[j])) == Fraction(float(of[i, j]))
        for i in range(rows)
        for j in range(columns)
    )


@pytest.mark.parametrize("kind", ["normal", "bits", "subnormal", "largest", "zero"])
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_are_representable_and_sum_bit_for_bit(dtype, name, kind):
    w, counts = values(dtype, kind), counts_of(name)
    assert np.isfinite(w).all()
    kept = w.copy()
    parts = split_exact(w, counts, dtype, Noise(0, "w", 0))
    assert len(parts) == counts.max()
    assert sums_are_exact(parts, w, counts)
    for k, part in enumerate(parts):
        used = part[:, counts > k]
        assert np.array_equal(widen(narrow(used, dtype), dtype, used.dtype), used)
        assert (np.abs(used) <= np.abs(w[:, counts > k])).all()
        assert ((used == 0) | (np.sign(used) == np.sign(w[:, counts > k]))).all()  # no share against its weight's sign
    assert np.array_equal(w.view(np.uint8), kept.view(np.uint8))  # the caller's weights are not the scratch


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_that_is_off_by_one_bit_is_seen(dtype):
    """The check above can fail."""
    w, counts = values(dtype, "normal"), counts_of("3")
    parts = split_exact(w, counts, dtype, Noise(0, "w", 0))
    bits = narrow(parts[1], dtype).view(f"<u{RAW[dtype].itemsize}").copy()
    bits[5, 3] ^= 1
    parts[1] = widen(bits.view(RAW[dtype]), dtype, work(dtype))
    assert not sums_are_exact(parts, w, counts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_of_two_is_uniform_between_zero_and_the_weight(dtype):
    w = values(dtype, "normal", (300, 40))
    a, b = split_in_two(w, dtype, Noise(0, "w", 0))
    share = (a / w)[np.abs(w) > 1e-3]
    assert np.array_equal(a.astype(np.longdouble) + b, w)
    assert share.min() >= 0
    assert share.max() <= 1
    # 8 bits of bfloat16 round the share by up to 2^-7, towards 0
    assert np.abs(np.histogram(share, bins=4, range=(0, 1))[0] / share.size - 0.25).max() < 0.03


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_differ_per_element(dtype):
    w = values(dtype, "normal", (300, 40))
    parts = split_exact(w, np.full(40, 4), dtype, Noise(0, "w", 0))
    # bfloat16 has 8 bits: a share just above a half is stored as a half in up to one draw of 64
    few = 0.03 if dtype in ("BF16", "F16") else 1e-3
    for i in range(4):
        for j in range(i):
            assert (parts[i] == parts[j]).mean() < few
            first_larger = (np.abs(parts[i]) > np.abs(parts[j])).mean()
            assert 0.05 < first_larger < 0.95
    ratios = parts[0][w != 0] / w[w != 0]
    assert ratios.std() > 0.1  # no scalar that Adam could divide out


@pytest.mark.parametrize("dtype", DTYPES)
def test_which_of_two_copies_is_larger_is_a_fair_draw(dtype):
    w = values(dtype, "normal", (300, 40))
    a, b = split_exact(w, np.full(40, 2), dtype, Noise(0, "w", 0))
    assert 0.47 < (np.abs(a) >= np.abs(b)).mean() < 0.55


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_seed_a_name_and_a_block_are_the_split(dtype):
    w, counts = values(dtype, "normal"), counts_of("mixed")

    def parts(*noise) -> bytes:
        return b"".join(p.tobytes() for p in split_exact(w, counts, dtype, Noise(*noise)))

    assert parts(1, "w", 0) == parts(1, "w", 0)
    assert len({parts(1, "w", 0), parts(2, "w", 0), parts(1, "v", 0), parts(1, "w", 1)}) == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_even_shares_are_exact_for_powers_of_two_and_for_nothing_else(dtype):
    w = values(dtype, "normal") + work(dtype).type(0.25)  # a part of a tiny float16 would be subnormal and round
    w = representable(w, dtype)
    for c, exact in ((1, True), (2, True), (4, True), (3, False), (5, False), (6, False)):
        counts = np.full(7, c)
        parts = [representable(p, dtype) for p in split_even(w, counts)]
        assert sums_are_exact(parts, w, counts) == exact


def test_noise_has_the_scale_it_is_asked_for_and_no_zero():
    x = Noise(0, "w", 0).uniform((200, 300), 0.02, np.dtype(np.float32))
    assert abs(np.sqrt((x.astype(np.float64) ** 2).mean()) / 0.02 - 1) < 0.01
    assert abs(x.mean()) < 2e-4
    assert (x != 0).all()
    for work in (np.float32, np.float64):
        shares = Noise(0, "w", 0).one_to_two((200, 300), np.dtype(work))
        assert 1 <= shares.min() < 1.001
        assert 1.999 < shares.max() < 2


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_narrow_rounds_to_nearest_even(dtype):
    import torch

    x = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * np.float32(3)
    kind = torch.bfloat16 if dtype == "BF16" else torch.float16
    expected = torch.from_numpy(x).to(kind).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(narrow(x, dtype).view(np.uint16), expected)


# Through a file


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save("llama", tmp_path_factory.mktemp("split") / "llama", "bfloat16")


def grown_bytes(source, folder, seed: int) -> bytes:
    grow.widen(source, {"hidden": 36, "ffn": 61, "heads": 9, "kv_heads": 3}, out=folder, verify=False, seed=seed)
    return (folder / "model.safetensors").read_bytes()


def test_a_result_depends_on_the_seed_and_not_on_threads(source, tmp_path, monkeypatch):
    results = {}
    for cores in (1, 2, 16):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        results[cores] = grown_bytes(source, tmp_path / f"{cores}", seed=5)
    assert len(set(results.values())) == 1
    assert grown_bytes(source, tmp_path / "other", seed=6) != results[1]


def test_what_consumers_of_a_copied_axis_read_sums_to_the_source_bit_for_bit(source, tmp_path):
    """Through plan, apply and writer: o_proj of the copied heads, bf16 in and out."""
    grown = grow.widen(source, {"ffn": 3 * 28}, operators={"ffn": "copies"}, out=tmp_path / "out", verify=False)
    name = "model.layers.1.mlp.down_proj.weight"
    with open_checkpoint(source) as old, open_checkpoint(tmp_path / "out") as new:
        before, after = (_read(c, name) for c in (old, new))
    m = grown.plan.maps["ffn"]
    parts = [after[:, place] for _, place in m.layers]
    assert sums_are_exact(parts, before, np.full(m.n, 3))
    assert not np.array_equal(parts[0], parts[1])


def _read(checkpoint, name: str) -> np.ndarray:
    info = checkpoint.tensors[name]
    raw = np.frombuffer(checkpoint.read(info, 0, info.nbytes), dtype=RAW[info.dtype]).reshape(info.shape)
    return widen(raw, info.dtype, np.dtype(np.float32))


def test_an_engine_run_writes_every_row_once(source, tmp_path, monkeypatch):
    """Not twice and not never: the writer is told of each row of each tensor exactly once."""
    plan = grow.plan(source, {"hidden": 48, "ffn": 61, "heads": 8, "kv_heads": 4, "head_dim": 12})
    seen = {t.name: np.zeros(t.new_shape[0], dtype=int) for t in plan.tensors}

    class Counter(ShardWriter):
        def write_rows(self, name, first, rows):
            seen[name][first : first + len(rows)] += 1

        def sha256(self, name):
            return ""

    with open_checkpoint(source) as checkpoint:
        monkeypatch.setattr("grow.applying.engine.ShardWriter", Counter)
        write_plan(plan, FileSource(checkpoint), tmp_path, 10**9)
    assert {name for name, rows in seen.items() if not (rows == 1).all()} == set()
