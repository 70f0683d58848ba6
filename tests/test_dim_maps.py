"""The map of a stored dimension is made of the maps of its spaces, and what stands in front of a gain is part of it."""

from __future__ import annotations

import numpy as np
import pytest

from grow.notation.axes import parse_signature
from grow.notation.dim_maps import coordinates, dim_map
from grow.notation.maps import SILENT, UNREAD, appended, axis_map, identity, product

pytestmark = pytest.mark.quick

SIZES = {"hidden": 6, "heads": 3, "kv_heads": 1, "head_dim": 2, "ffn": 4, "positions": 5}
HEADS = axis_map(3, [0, UNREAD, 1, 2], operator="unread")
Q = axis_map(2, [1, UNREAD, 0], write=[1.5, 1.0, 1.5], read=[2 / 3, 0.0, 2 / 3])
V = axis_map(2, [0, 1, UNREAD])
MAPS = {"heads": HEADS, "kv_heads": identity(1), "head_dim.q": Q, "head_dim.k": identity(2), "head_dim.v": V}
MAPS |= {"ffn": axis_map(4, [0, 1, 2, 3, 1]), "positions": appended(5, 7, SILENT), "hidden": identity(6)}


def grown(text: str) -> tuple[np.ndarray, np.ndarray]:
    dim = parse_signature(text).dims[0]
    found = dim_map(dim, MAPS, SIZES)
    assert found.n == dim.size(SIZES)
    return found.source, found.write


def test_a_product_is_the_product_of_its_maps():
    wanted = product([HEADS, Q])
    source, write = grown("(heads head_dim.q) <- hidden")
    assert (source == wanted.source).all()
    assert (write == wanted.write).all()


def test_parts_lie_one_behind_the_other_each_with_its_own_map():
    source, write = grown("(heads head_dim.q | kv_heads head_dim.k | kv_heads head_dim.v) <- hidden")
    q = product([HEADS, Q])
    assert (source[:12] == q.source).all()
    assert source[12:].tolist() == [6, 7, 8, 9, UNREAD]
    assert (write[:12] == q.write).all()
    assert (write[12:] == 1).all()


def test_parts_inside_a_product_are_there_for_each_outer_one():
    source, _ = grown("(heads (head_dim.q | head_dim.v)) <- hidden")
    old = [[1, UNREAD, 0, 2, 3, UNREAD], [UNREAD] * 6]
    old += [[5, UNREAD, 4, 6, 7, UNREAD], [9, UNREAD, 8, 10, 11, UNREAD]]
    assert source.tolist() == [i for row in old for i in row]


def test_one_axis_may_stand_twice():
    source, _ = grown("(ffn | ffn) <- hidden")
    assert source.tolist() == [0, 1, 2, 3, 1, 4, 5, 6, 7, 5]


def test_rows_that_are_no_axis_stay_where_they_are():
    source, _ = grown("(2 | positions) -> hidden")
    assert source.tolist() == [0, 1, 2, 3, 4, 5, 6, SILENT, SILENT]


@pytest.mark.parametrize("text", ["(kv_heads head_dim.k) <- hidden", "1 <- hidden", "hidden *>", "types -> hidden"])
def test_what_does_not_change_has_no_map(text):
    assert dim_map(parse_signature(text).dims[0], MAPS, {**SIZES, "types": 2}) is None


def test_a_gain_behind_a_branch_keeps_its_size():
    stream = axis_map(4, [0, 1, 2, 3, SILENT], write=1.25, gain=0.8)
    front, behind = (
        dim_map(parse_signature(text).dims[0], {"hidden": stream}, {"hidden": 4}) for text in ("hidden *", "hidden *>")
    )
    assert (front.gain == 0.8).all()
    assert (behind.gain == 1).all()
    assert np.abs(behind.law() - 1).max() < 1e-15  # so that values and gradients go together, see the dual rule
    assert (behind.source == stream.source).all()


def test_the_coordinates_of_one_space_are_told_from_the_others():
    dim = parse_signature("(heads (head_dim.q | head_dim.k | head_dim.v)) <-").dims[0]
    assert coordinates(dim.space, "head_dim.k", SIZES).tolist() == [False, False, True, True, False, False] * 3
    dim = parse_signature("(2 | positions) -> hidden").dims[0]
    assert coordinates(dim.space, "positions", SIZES).tolist() == [False] * 2 + [True] * 5
    assert not coordinates(dim.space, "head_dim.k", SIZES).any()
