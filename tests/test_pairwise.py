"""Cases that are drawn instead of a whole product hold every pair of it."""

from __future__ import annotations

import itertools

import pytest
from pairwise import pairs_of, pairwise

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (2, 3, 4), (5, 2, 3, 2), (9, 4, 6)], ids=str)
def test_every_pair_occurs_and_few_cases_hold_them(sizes):
    whole = list(itertools.product(*(range(size) for size in sizes)))
    drawn = pairwise(whole)
    assert pairs_of(drawn) == pairs_of(whole)
    assert drawn == [case for case in whole if case in drawn]
    least = max((a * b for a, b in itertools.combinations(sizes, 2)), default=0)
    assert len(set(drawn)) == len(drawn) <= 2 * least
    assert pairwise(whole) == drawn


def test_a_pair_that_the_product_lacks_is_not_asked_for():
    some = [case for case in itertools.product("ab", "cd", "ef") if case[:2] != ("a", "c")]
    assert pairs_of(pairwise(some)) == pairs_of(some)
    assert (0, 1, "a", "c") not in pairs_of(pairwise(some))


def test_a_case_that_is_left_out_is_missed():
    whole = list(itertools.product("ab", "cd", "efg"))
    drawn = pairwise(whole)
    assert all(pairs_of(drawn[:k] + drawn[k + 1 :]) < pairs_of(whole) for k in range(len(drawn)))
