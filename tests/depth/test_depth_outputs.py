"""Layers are inserted and no output changes: every family, any place, copies and drawn weights, post-norm included.

As in `test_lossless`, each case goes through the files and is compared in a float64 that shares no code with
`grow.verify`.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tiny
import torch
from deeper import EXACT, FILLS, N, deepen, somewhere
from hypothesis import given
from hypothesis import strategies as st
from models import SHARING, VARIANTS, difference, load, make, outputs, seeded
from safetensors.torch import load_file

import grow
from grow.errors import BadInput
from grow.planning.layers import Depth, insert, place, spread

# one rounding to float32 per weight: measured up to 8e-7
FLOAT32 = 1e-5

APART = {v: variant for v, variant in VARIANTS.items() if v not in SHARING}
LANGUAGE = [v for v, (_, auto, *_) in APART.items() if auto in (models.LM, models.MLM)]
OTHERS = [v for v in APART if v not in LANGUAGE]
CHAINED = [kind for kind, family in grow.families.items() if family.norm.writes_stream == "always"]
POST = [v for v, (kind, *_) in VARIANTS.items() if kind in CHAINED or v.startswith("opt-post")]
ROUNDED = [*POST, "gpt2-inverse"]
PLACES = ("spread", "top", "after", "list")
DEPTHS = (N + 1, 2 * N, 2 * N + 1, 4 * N)  # + 1, + 3 = × 2, + 4, + 3 N


# Every output


def worst(variant: str, where: str, cases, source: Path, before, folder: Path, **options: Any) -> dict[tuple, float]:
    """The largest difference of each growth to so many layers, filled so."""
    found = {}
    for layers, fill in cases:
        at = somewhere(variant, where, layers)
        grown = deepen(source, layers, folder / str(layers), place=at, fill=fill, **options)
        assert grown.plan.new_sizes["layers"] == layers
        assert grown.plan.storage == ("rounded" if variant in ROUNDED else "bit-exact"), grown.plan.rounded
        after = outputs(folder / str(layers), VARIANTS[variant].lengths)
        found[layers, str(at), fill] = difference(before, after)
    return found


def filled(where: str, *depths: int) -> list[tuple[int, str]]:
    """The first of several depths copies layers and the second draws them, or the other way round."""
    return [(layers, FILLS[(k + PLACES.index(where)) % 2]) for k, layers in enumerate(depths)]


def drawn(variant: str, where: str) -> tuple[int, str]:
    """The depth and the fill of a place of a variant: an eighth of the product, in which every pair of what is chosen
    occurs, and every place, depth and fill together (as the test below holds)."""
    v, p = LANGUAGE.index(variant), PLACES.index(where)
    return DEPTHS[(v + p) % len(DEPTHS)], FILLS[(p + v // len(DEPTHS)) % len(FILLS)]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("variant", LANGUAGE)
def test_every_output_stays_in_float64(variant, where, deep, expected, tmp_path):
    cases = [drawn(variant, where)]
    found = worst(variant, where, cases, deep(variant), expected(variant), tmp_path, dtype="float64")
    assert {case: x for case, x in found.items() if not x <= EXACT} == {}


def test_an_eighth_of_the_product_has_every_pair():
    cases = {(v, w, *drawn(v, w)) for v in LANGUAGE for w in PLACES}
    kinds = (LANGUAGE, PLACES, DEPTHS, FILLS)
    for i, j in itertools.combinations(range(len(kinds)), 2):
        assert {(case[i], case[j]) for case in cases} == set(itertools.product(kinds[i], kinds[j]))
    assert {case[1:] for case in cases} == set(itertools.product(*kinds[1:]))


@pytest.mark.parametrize("variant", OTHERS)
def test_every_output_of_the_other_heads_stays_too(variant, deep, expected, tmp_path):
    where = seeded(variant).choice(PLACES)
    found = worst(
        variant, where, filled(where, N + 1, 2 * N), deep(variant), expected(variant), tmp_path, dtype="float64"
    )
    assert {case: x for case, x in found.items() if not x <= EXACT} == {}


@pytest.mark.parametrize("variant", [v for v in ROUNDED if v in LANGUAGE])
def test_a_rounded_plan_stays_within_float32(variant, deep, expected, tmp_path):
    found = worst(variant, "spread", filled("spread", N + 1, 4 * N), deep(variant), expected(variant), tmp_path)
    found |= worst(variant, "top", filled("top", 2 * N), deep(variant), expected(variant), tmp_path)
    assert all(x <= FLOAT32 for x in found.values()), found
    assert max(found.values()) > EXACT  # else nothing was rounded


@pytest.mark.parametrize("variant", ["bert-mlm", "distilbert-mlm", "gpt2-inverse", "opt-post"])
def test_a_rounded_plan_of_a_narrow_source_is_written_in_float32(variant, deep, expected, tmp_path):
    grown = deepen(deep(variant, "bfloat16"), N + 1, tmp_path / "grown", place="after:0")
    assert {t.dtype for t in load_file(tmp_path / "grown" / tiny.WEIGHTS).values()} == {torch.float32}
    assert any("float32" in note for note in grown.plan.notes)
    assert EXACT < difference(expected(variant, "bfloat16"), outputs(tmp_path / "grown")) <= FLOAT32


@pytest.mark.parametrize("variant", [v for v in LANGUAGE if v not in ROUNDED])
def test_a_bit_exact_plan_moves_the_old_layers_bit_for_bit(variant, deep, expected, tmp_path):
    source = deep(variant, "bfloat16")
    found = worst(variant, "list", filled("list", 2 * N + 1), source, expected(variant, "bfloat16"), tmp_path)
    assert list(found.values()) <= [EXACT]
    plan = grow.plan(source, {"layers": 2 * N + 1}, place=somewhere(variant, "list", 2 * N + 1))
    old, new = tiny.read_tensors(source), tiny.read_tensors(tmp_path / str(2 * N + 1))
    assert {t.dtype for t in new.values()} == {"BF16"}
    assert new.keys() == {t.name for t in plan.tensors}
    kept = [t for t in plan.tensors if not t.inserted]
    assert len(kept) == len(old)
    assert all(new[t.name].raw.tobytes() == old[t.source].raw.tobytes() for t in kept)


@pytest.mark.parametrize("variant", ["llama-tied", "qwen3", "gpt2", "gpt_neox", "bert-mlm", "opt-post", "gpt2-inverse"])
def test_a_model_in_memory_deepens_to_a_model_with_the_same_outputs(variant, tmp_path):
    model = make(variant).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grown = grow.deepen(model, 5, place="top", verify=False).model
    assert type(grown) is type(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in grown.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert difference(outputs(model), outputs(grown)) <= FLOAT32
    model.save_pretrained(tmp_path / "source")
    grown.save_pretrained(tmp_path / "grown")
    assert difference(outputs(tmp_path / "source"), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("variant", ["llama-base", "gpt2-base", "bert-base", "opt-post-base"])
def test_the_stream_between_old_layers_is_the_old_one(variant, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", place=[0, 0, 1], dtype="float64")
    with models.Float64(), torch.no_grad():
        a, b = (load(folder) for folder in (deep(variant), tmp_path / "grown"))
        given = models.inputs(a.config, 17)
        old, new = (m(**given, output_hidden_states=True).hidden_states for m in (a, b))
    kept = grown.plan.change.depth.kept
    assert kept == (0, 3, 5)
    places = [*kept, 2 * N]  # what each old layer reads, and the last output
    assert max(float((x - new[k]).abs().max() / x.std()) for x, k in zip(old, places)) <= EXACT


# Which layers there are


@given(st.integers(1, 40), st.data())
def test_whatever_is_inserted_the_old_layers_are_there_once_in_their_order(n, data):
    m = data.draw(st.integers(n, 5 * n + 7))
    after = data.draw(st.lists(st.integers(0, n - 1), min_size=m - n, max_size=m - n))
    where = data.draw(st.sampled_from(["spread", "top", f"after:{n - 1}", after, ",".join(map(str, after))]))
    if m == n and where == "":
        where = "top"
    depth = place(n, m, where, data.draw(st.sampled_from(FILLS)))
    assert (depth.n, depth.m, len(depth.inserted)) == (n, m, m)
    assert depth.lawful
    assert depth.is_identity == (m == n)
    assert [depth.source[j] for j in depth.kept] == list(range(n))
    assert not depth.inserted[0]
    assert all(0 <= i < n for i in depth.source)
    behind = [sum(1 for j in depth.kept if j < k) - 1 for k in range(m) if depth.inserted[k]]
    if where == "top":
        assert behind == [n - 1] * (m - n)
    elif isinstance(where, list):
        assert behind == sorted(after)
    for j in range(1, m):  # layers side by side do not start equal
        if depth.inserted[j - 1] and depth.inserted[j] and n > 1:
            assert depth.source[j - 1] != depth.source[j]
    for j in range(m):
        length, at = depth.chain(j)
        assert depth.inserted[j] == (at > 0)
        assert not depth.inserted[j - at]
        assert list(depth.inserted[j - at + 1 : j - at + 1 + length]) == [True] * length
        assert j - at + length + 1 == m or not depth.inserted[j - at + length + 1]


@given(st.integers(3, 60), st.integers(1, 200))
def test_spread_is_even_and_leaves_the_first_and_the_last_layer_alone(n, more):
    depth = place(n, n + more)
    assert depth.m == n + more
    assert (depth.source[:2], depth.inserted[:2]) == ((0, 1), (False, False))
    assert (depth.source[-1], depth.inserted[-1]) == (n - 1, False)
    counts = np.bincount(spread(n, n + more), minlength=n)[1 : n - 1]
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("n", "m", "source"), [(1, 3, (0, 0, 0)), (2, 4, (0, 0, 1, 1)), (3, 4, (0, 1, 1, 2))])
def test_spread_of_few_layers(n, m, source):
    depth = place(n, m)
    assert depth.source == source
    assert not depth.inserted[0]
    assert depth.inserted[-1] == (n == 1)


def test_neighbours_lend_their_weights_nearest_first():
    assert insert(5, [2, 2, 2, 2]).source == (0, 1, 2, 2, 3, 1, 4, 3, 4)
    assert place(4, 7, "top").source == (0, 1, 2, 3, 3, 2, 1)
    assert place(3, 6, "2,0,2").source == place(3, 6, [0, 2, 2]).source == (0, 0, 1, 2, 2, 1)


def test_lost_doubled_or_moved_layers_break_the_law():
    for source, inserted in [((0, 1), (False, True)), ((0, 1, 1), (False,) * 3), ((1, 0), (False,) * 2)]:
        assert not Depth(2, source, inserted).lawful
    assert not Depth(3, (0, 1), (False, False)).lawful
    assert Depth(2, (0, 1, 1), (False, True, False)).lawful


BAD_PLACES = {
    "a word": ("bottom", "is not a place"),
    "after nothing": ("after:", "is not a place"),
    "after a word": ("after:last", "is not a place"),
    "after a fraction": ("after:0.5", "is not a place"),
    "after a layer that is not there": ("after:3", "there is no layer 3"),
    "after a negative one": ("after:-1", "there is no layer -1"),
    "a list with a layer that is not there": ("0,7", "there is no layer 7"),
    "too few": ("1", "names 1 places for 2 new layers"),
    "too many": ("0,1,2", "names 3 places for 2 new layers"),
    "empty": ("", "names 0 places for 2 new layers"),
    "a list of fractions": ([0, 1.5], "is not a place"),
    "a list of words": (["0", "1"], "is not a place"),
    "a number": (1, "is not a place"),
    "nothing": (None, "is not a place"),
    "5000 digits": ("1" * 5000, "is not a place"),
}


@pytest.mark.parametrize(("where", "what"), BAD_PLACES.values(), ids=BAD_PLACES)
def test_a_place_that_is_none_is_bad_input(where, what):
    with pytest.raises(BadInput) as caught:
        place(3, 5, where)
    assert what in caught.value.what
    assert caught.value.where.startswith("place=")
    assert len(str(caught.value)) < 500
    fixes = re.findall(r"place=(\"[^\"]*\"|\[[^]]*\])", caught.value.fix)
    assert fixes
    for fix in map(ast.literal_eval, fixes):
        if fix not in ("after:5", [3, 7, 11]):  # shown as a form, for more layers than these
            place(3, 5, fix)
