"""Gains that are stored as w and mean 1 + w: what grows is the gain, and what need not round does not."""

from __future__ import annotations

import numpy as np
import pytest
from models import VARIANTS, difference, outputs

import grow
from grow.applying.norms import grow_norm
from grow.notation.axes import parse_signature
from grow.notation.maps import SILENT, axis_map, identity
from grow.notation.numbers import narrow, widen
from grow.notation.origins import Read, SourcePart
from grow.planning.tensor import TensorPlan, offset_shares, stays

EXACT = 1e-12
F64 = np.dtype(np.float64)
rng = np.random.default_rng(7)


def plan(axis, *, tied=False, dtype="F32") -> TensorPlan:
    old, origin = SourcePart("g", dtype, (axis.n,)), Read()
    return TensorPlan("g", "g", parse_signature("hidden 1*"), (axis,), old, (axis.m,), dtype, origin, tied=tied)


def grown_from(axis, stored: np.ndarray, factor: float = 1.0, **facts) -> np.ndarray:
    """(m,) what is stored of the grown gains, as it is stored."""
    return grow_norm(plan(axis, **facts), Read(factor), stored, "exact", 3).ravel()


def gains(axis, stored: np.ndarray, factor: float = 1.0, **facts) -> np.ndarray:
    """(m,) the grown gains, 1 + what is stored, of old ones of which `stored` is stored."""
    t = plan(axis, **facts)
    return 1 + widen(grown_from(axis, narrow(stored, t.old.dtype), factor, **facts), t.dtype, F64)


def test_copies_that_stay_are_the_stored_number_bit_for_bit():
    stored = narrow(rng.normal(size=5) * 1e-9, "F32")  # 1 + w would round all of it away
    assert (grown_from(axis_map(5, np.arange(10) % 5), stored) == np.tile(stored, 2)).all()


def test_the_gain_is_what_is_scaled():
    stored = rng.normal(size=4)
    silent = axis_map(4, [0, 1, 2, 3, SILENT], write=1.25, gain=0.8)
    grown = gains(silent, stored, dtype="F64")
    assert np.abs(grown[:4] - 0.8 * (1 + stored)).max() < 1e-15
    assert grown[4] != 0


@pytest.mark.parametrize(("copies", "factor", "active"), [(2, 1.0, 1), (4, 2.0, 2), (3, 1.0, 1), (4, 4.0, 4)])
def test_in_front_of_a_tied_head_a_whole_number_of_copies_has_the_old_gain(copies, factor, active):
    axis = axis_map(3, np.arange(3 * copies) % 3)
    assert stays(axis, factor, tied=True)
    stored = narrow(rng.normal(size=3), "F32")
    each = grown_from(axis, stored, factor, tied=True).reshape(copies, 3)
    assert (each[:active] == stored).all()
    assert (each[active:] == -1).all()


def test_else_they_share_it_evenly_and_the_plan_says_that_it_rounds():
    axis = axis_map(3, np.arange(6) % 3)
    assert not stays(axis, 2**0.5, tied=True)
    stored = rng.normal(size=3)
    shares = gains(axis, stored, 2**0.5, tied=True, dtype="F64").reshape(2, 3)
    assert np.abs(shares[0] - shares[1]).max() < 1e-15
    assert np.abs(shares.sum(axis=0) - 2**0.5 * (1 + stored)).max() < 1e-14


def test_more_than_all_copies_together_have_is_shared_evenly():
    axis = axis_map(2, [0, 1, 0, 1])
    assert (offset_shares(axis, 4.0, tied=True) == 2).all()
    assert not stays(axis, 4.0, tied=True)
    assert stays(identity(2), 1.0, tied=True)


# (variant, target, storage): what √hidden and gains of 1 + w round, and what they do not
STORAGE = [
    ("gemma", {"hidden": 72}, "bit-exact"),  # √4 is 2: half the table, and two of four copies with the old gain
    ("gemma", {"hidden": 36}, "rounded"),
    ("gemma2", {"ffn": 33, "layers": 5}, "bit-exact"),
    ("gemma3_text", {"head_dim": 12}, "rounded"),
    ("nemotron", {"hidden": 36}, "bit-exact"),
    ("nemotron", {"hidden": 25}, "rounded"),
]


@pytest.mark.parametrize(("variant", "to", "storage"), STORAGE)
def test_bit_exact_is_said_of_what_is(variant, to, storage, tiny, tmp_path):
    source = tiny(variant, "bfloat16")
    grown = grow.widen(source, to, out=tmp_path / "grown", verify=False)
    assert grown.plan.storage == storage
    apart = difference(
        outputs(source, VARIANTS[variant].lengths), outputs(tmp_path / "grown", VARIANTS[variant].lengths)
    )
    assert apart <= (EXACT if storage == "bit-exact" else 1e-3)
    assert apart > 0 or storage == "bit-exact"
    verification = grow.verify(source, tmp_path / "grown")
    assert verification.verdict == "lossless"
    assert not [check.name for check in verification.checks if check.status == "fail"]
