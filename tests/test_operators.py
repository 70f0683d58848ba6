"""Every operator returns a map that obeys the law, and the operation on its axis cannot tell the difference."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grow.notation.maps import (
    MEAN,
    SILENT,
    UNREAD,
    AxisMap,
    axis_map,
    concatenate,
    identity,
    is_power_of_two,
    product,
)
from grow.notation.operators import DEFAULTS, OPERATORS, default_operator, grow_head_dim, grow_heads

pytestmark = pytest.mark.quick

# Sums of at most a few dozen shares near 1, each rounded once or twice to 2^-53.
LAW = 1e-13
CONTEXTS = ("rms", "layernorm", "plain", "elementwise")
OPERATOR_CONTEXTS = [(name, context) for name, op in OPERATORS.items() for context in sorted(op.contexts)]
small = st.integers(1, 24)


def obeys(m: AxisMap) -> bool:
    return bool(np.allclose(m.law(), 1, rtol=0, atol=LAW))


def expand(m: AxisMap, x: np.ndarray) -> np.ndarray:
    """What producers write: (n,) -> (m,)."""
    kept = m.source >= 0
    out = np.where(kept, m.write * x[np.maximum(m.source, 0)], 0.0)
    return np.where(m.source == MEAN, m.write * x.mean(), out)


def reduce(m: AxisMap, y: np.ndarray) -> np.ndarray:
    """What consumers see of it: (m,) -> (n,)."""
    kept = m.source >= 0
    return np.bincount(m.source[kept], weights=(m.read * y)[kept], minlength=m.n)


@pytest.mark.parametrize(("name", "context"), OPERATOR_CONTEXTS)
@given(n=small, more=small, data=st.data())
def test_every_operator_obeys_the_law(name, context, n, more, data):
    operator, m = OPERATORS[name], n + more - 1
    assume(operator.allows(n, m, context))
    found = operator(n, m, context)
    assert (found.n, found.m) == (n, m)
    assert obeys(found)
    fresh = found.source < 0
    assert (found.read[fresh] == 0).all()
    assert set(found.source[~fresh]) == set(range(n))
    assert found.exact_factors == (all(map(is_power_of_two, (*found.write, *found.gain))) and MEAN not in found.source)


@pytest.mark.parametrize(("name", "context"), OPERATOR_CONTEXTS)
@given(n=small, more=small, seed=st.integers(0, 2**32))
def test_the_operation_on_the_axis_cannot_tell(name, context, n, more, seed):
    operator, m = OPERATORS[name], n + more - 1
    assume(operator.allows(n, m, context))
    found = operator(n, m, context)
    draw = np.random.default_rng(seed)
    x, gain, shift = draw.normal(size=(3, n))
    eps = 0.05
    kept = found.source >= 0
    old = np.maximum(found.source, 0)
    gains = np.where(kept, found.gain * gain[old], found.gain * draw.normal(size=m))
    shifts = np.where(kept, shift[old], 0.0)
    y = expand(found, x)
    if context == "elementwise":
        y[~kept] = draw.normal(size=int((~kept).sum()))  # unread units compute anything
        before, after = np.tanh(x), np.tanh(y)
    elif context == "rms":
        before = x / np.sqrt((x**2).mean() + eps) * gain
        after = y / np.sqrt((y**2).mean() + eps) * gains
    else:
        before = (x - x.mean()) / np.sqrt(x.var() + eps) * gain + shift
        after = (y - y.mean()) / np.sqrt(y.var() + eps) * gains + shifts
    if context == "elementwise":
        assert np.allclose(reduce(found, after), before, rtol=0, atol=1e-12)
    else:  # the norm has applied write and gain already: what is left is each copy's share
        copies = np.bincount(found.source[kept], minlength=n)
        assert np.allclose(after[kept], before[old[kept]], rtol=0, atol=1e-12)
        assert np.allclose(reduce(found, after) * copies, before * copies, rtol=0, atol=1e-11)
        if name == "mean":
            assert np.allclose(after[~kept], 0, atol=1e-12)


@pytest.mark.parametrize("context", ["rms", "layernorm"])
def test_without_its_scale_an_operator_would_be_seen(context):
    """The test above can fail: zero padding without the stream's scale changes what the norm returns."""
    found = axis_map(6, np.concatenate([np.arange(6), np.full(3, SILENT)]))
    x = np.random.default_rng(0).normal(size=6)
    y = expand(found, x)
    centre = (lambda v: v) if context == "rms" else (lambda v: v - v.mean())
    before, after = (centre(v) / np.sqrt((centre(v) ** 2).mean()) for v in (x, y))
    assert abs(after[:6] - before).max() > 0.05


@given(n=small, more=small, context=st.sampled_from(CONTEXTS))
def test_the_default_is_an_operator_of_the_context(n, more, context):
    m = n + more - 1
    name = default_operator(n, m, context)
    if context == "plain" and m % n:
        assert name is None
    else:
        assert name in DEFAULTS[context]
        assert OPERATORS[name].allows(n, m, context)
        assert context in OPERATORS[name].contexts
    if m % n == 0 and context != "elementwise":
        assert name == "copies"


# A map that breaks the law


@given(n=small, more=small, name=st.sampled_from(("copies", "unread", "silent")), data=st.data())
def test_a_broken_map_fails_the_law(n, more, name, data):
    m = n + more - 1
    sound = OPERATORS[name](n, m, "rms")
    at = data.draw(st.sampled_from(np.flatnonzero(sound.source >= 0).tolist()))
    column = data.draw(st.sampled_from(("read", "write", "gain")))
    values = getattr(sound, column).copy()
    values[at] *= data.draw(st.sampled_from((0.0, 0.5, 1 + 1e-9, -1.0)))
    assert not obeys(dataclasses.replace(sound, **{column: values}))


@given(n=st.integers(2, 24), more=small)
def test_a_lost_coordinate_fails_the_law(n, more):
    sound = OPERATORS["copies"](n, n + more - 1, "elementwise")
    source = np.where(sound.source == n - 1, 0, sound.source)
    lost = dataclasses.replace(sound, source=source)
    assert lost.law()[n - 1] == 0
    assert not obeys(lost)


# Algebra of maps


@st.composite
def maps(draw) -> AxisMap:
    n = draw(st.integers(1, 6))
    rest = draw(st.lists(st.sampled_from([*range(n), SILENT, UNREAD, MEAN]), max_size=8))
    source = np.array(draw(st.permutations([*range(n), *rest])))
    scales = st.sampled_from((0.5, 1.0, 2.0, math.sqrt(2), 3.0))
    column = lambda: np.array(draw(st.lists(scales, min_size=len(source), max_size=len(source))))  # noqa: E731
    return axis_map(n, source, write=column(), gain=column())


def same(a: AxisMap, b: AxisMap) -> bool:
    return a.n == b.n and all(np.array_equal(getattr(a, x), getattr(b, x)) for x in ("source", "write", "read", "gain"))


@given(maps())
def test_shares_default_to_the_law(m):
    assert obeys(m)


@given(maps())
def test_runs_are_the_map_as_json(m):
    runs = m.to_runs()
    assert sum(run[0] for run in runs) == m.m
    assert same(AxisMap.from_runs(m.n, runs), m)


def test_runs_are_maximal():
    assert len(identity(500).to_runs()) == 1
    assert len(OPERATORS["copies"](7, 21, "rms").to_runs()) == 3
    assert len(OPERATORS["unread"](7, 20, "elementwise").to_runs()) == 2


@given(maps())
def test_layers_peel_off_every_copy_once(m):
    seen = np.zeros(m.m, dtype=int)
    for old, new in m.layers:
        assert (np.diff(old) > 0).all()  # each old coordinate at most once per layer
        assert (m.source[new] == old).all()
        seen[new] += 1
    assert (seen == (m.source >= 0)).all()
    assert len(m.layers) == m.counts.max()
    assert m.counts.sum() == (m.source >= 0).sum()


@given(st.lists(maps(), min_size=1, max_size=3))
def test_a_product_is_its_factors_on_a_grid(factors):
    whole = product(factors)
    assert obeys(whole)
    assert (whole.n, whole.m) == (math.prod(f.n for f in factors), math.prod(f.m for f in factors))
    for j in range(whole.m):
        at = np.unravel_index(j, [f.m for f in factors])
        sources = [int(f.source[i]) for f, i in zip(factors, at)]
        fresh = [s for s in sources if s < 0]
        expected = fresh[0] if fresh else np.ravel_multi_index(sources, [f.n for f in factors])
        assert whole.source[j] == expected
        for column in ("write", "read", "gain"):
            parts = [getattr(f, column)[i] for f, i in zip(factors, at)]
            assert math.isclose(getattr(whole, column)[j], math.prod(parts), rel_tol=1e-15)


@given(st.lists(maps(), min_size=1, max_size=4))
def test_a_concatenation_keeps_each_slice(parts):
    whole = concatenate(parts)
    assert obeys(whole)
    old = new = 0
    for part in parts:
        source = whole.source[new : new + part.m]
        assert (np.where(source >= 0, source - old, source) == part.source).all()
        old, new = old + part.n, new + part.m
    assert (whole.n, whole.m) == (old, new)


def test_identity_is_recognised():
    assert identity(5).is_identity
    assert not OPERATORS["copies"](5, 10, "rms").is_identity
    assert not axis_map(5, np.arange(5)[::-1]).is_identity
    assert not axis_map(5, np.arange(5), write=2.0).is_identity


@pytest.mark.parametrize("x", [0, 1, -2, 0.5, 2.0**-1074, 2.0**1023])
def test_powers_of_two(x):
    assert is_power_of_two(x)


@pytest.mark.parametrize("x", [3, 0.1, math.sqrt(2), 1 + 2**-52, math.inf, math.nan])
def test_other_numbers(x):
    assert not is_power_of_two(x)


# Heads


@given(
    k=st.integers(1, 4), g=st.integers(1, 5), k2=st.integers(1, 12), g2=st.integers(1, 8),
    operator=st.sampled_from(("unread", "copies")),
)  # fmt: skip
def test_every_old_head_still_reads_its_own_keys(k, g, k2, g2, operator):
    assume(k2 * g2 >= k * g and k2 >= k)
    found = grow_heads(k * g, k, k2 * g2, k2, operator)
    # an old group needs ⌈g/g2⌉ new ones for itself
    assert (found is None) == (-(-g // g2) * k > k2)
    if found is None:
        return
    heads, kv_heads = found.heads, found.kv_heads
    assert obeys(heads)
    assert obeys(kv_heads)
    for new, old in enumerate(heads.source):
        if old >= 0:
            assert kv_heads.source[new // g2] == old // g
    if operator == "copies":
        assert (heads.source >= 0).all()
        assert (kv_heads.source >= 0).all()


def test_heads_repeat_in_place_and_regroup():
    found = grow_heads(6, 2, 6, 6, "unread")
    assert found.heads.source.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.kv_heads.source.tolist() == [0, 0, 0, 1, 1, 1]
    bigger = grow_heads(4, 2, 6, 2, "unread").heads.source.tolist()
    assert bigger == [0, 1, UNREAD, 2, 3, UNREAD]


# head_dim


@given(
    d=st.integers(1, 8), more=st.integers(0, 9), scaled=st.booleans(), qk_norm=st.booleans(), seed=st.integers(0, 2**32)
)
def test_scores_come_out_scaled(d, more, scaled, qk_norm, seed):
    d2 = d + more
    draw = np.random.default_rng(seed)
    place = np.sort(draw.permutation(d2)[:d])
    scale = math.sqrt(d2 / d) if scaled else 1.0
    maps_of = grow_head_dim(d, d2, place, scale=scale, qk_norm=qk_norm)
    q_map, k_map, v_map = maps_of
    assert all(map(obeys, maps_of))
    assert (q_map.source[place] == np.arange(d)).all()
    assert (k_map.source[place] == np.arange(d)).all()
    q, k, q_gain, k_gain = draw.normal(size=(4, d))
    q2, k2 = expand(q_map, q), expand(k_map, k)
    q2[q_map.source == UNREAD] = 7.0
    if qk_norm:

        def normed(x, gain, m=None):
            gain = gain if m is None else m.gain * gain[m.source]
            return x / np.sqrt((x**2).mean() + 0.05) * gain

        q, k, q2, k2 = normed(q, q_gain), normed(k, k_gain), normed(q2, q_gain, q_map), normed(k2, k_gain, k_map)
    assert math.isclose(q2 @ k2, scale * (q @ k), rel_tol=0, abs_tol=1e-12 * (1 + abs(scale) * d * 10))
    assert v_map.source.tolist() == [*range(d), *[UNREAD] * more]


def test_a_misplaced_pair_changes_scores():
    """The test above can fail: q and k must agree on the places."""
    q_map = grow_head_dim(4, 8, np.arange(4), scale=1.0, qk_norm=False)[0]
    k_map = grow_head_dim(4, 8, np.arange(4) * 2, scale=1.0, qk_norm=False)[1]
    q, k = np.random.default_rng(0).normal(size=(2, 4))
    assert abs(expand(q_map, q) @ expand(k_map, k) - q @ k) > 0.1
