"""ALiBi: old heads go where their slope is; rows that are dealt in shares grow as if one lay behind the other."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
from models import VARIANTS
from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

import grow
from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.errors import Refused
from grow.notation.alibi import exponents, places
from grow.notation.axes import parse_signature
from grow.notation.dim_maps import coordinates, dim_map
from grow.notation.maps import UNREAD, axis_map
from grow.notation.operators import grow_heads
from grow.planning.target import resolve


@pytest.mark.quick
@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 71, 112])
def test_the_exponents_are_those_of_stock_code(heads):
    # stock code raises a float32 to a power up to 2 heads; measured up to 1.2e-6
    stock = _get_alibi_slopes(heads, torch.device("cpu")).double().numpy()
    assert np.allclose(stock, [2.0**-e for e in exponents(heads)], rtol=1e-5, atol=0)


@pytest.mark.quick
def test_every_old_head_finds_its_slope_among_more():
    for heads in range(1, 65):
        for more in range(heads, 130, 3):
            where = places(heads, more)
            assert len(set(where.tolist())) == heads
            assert [exponents(more)[i] for i in where] == exponents(heads)
    assert places(3, 4).tolist() == [1, 3, 0]


@pytest.mark.quick
def test_placed_heads_must_fit_into_groups():
    """4 -> 8 heads over 2 kv heads: 0, 1, 2, 3 -> 1, 3, 5, 7, so the first four share kv head 0."""
    grown = grow_heads(4, 2, 8, 2, "unread", places(4, 8))
    assert grown.kv_heads.source.tolist() == [0, 1]
    assert grown.heads.source[::2].tolist() == [UNREAD] * 4
    assert grow_heads(4, 2, 6, 2, "unread", places(4, 6)) is None


@pytest.mark.quick
def test_rows_dealt_in_shares_are_the_same_rows():
    """Of 2 groups with 2 query heads each: the shares are q q k v, q q k v."""
    dim = parse_signature("(kv_heads: kv_heads q_per_kv head_dim.q | kv_heads head_dim.k) <-").dims[0]
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 1}
    assert dim.size(sizes) == 6
    assert coordinates(dim.space, "head_dim.k", sizes).tolist() == [False, False, True] * 2
    q, kv = axis_map(4, [0, 1, UNREAD, 2, 3, UNREAD]), axis_map(2, [0, 1])
    found = dim_map(dim, {"heads": q, "kv_heads": kv}, sizes)
    assert found.source.tolist() == [0, 1, UNREAD, 2, 3, 4, UNREAD, 5]
    kv = axis_map(2, [0, 1, UNREAD])
    q = axis_map(4, [0, 1, 2, 3, UNREAD, UNREAD])
    assert dim_map(dim, {"heads": q, "kv_heads": kv}, sizes).source.tolist() == [0, 1, 2, 3, 4, 5] + [UNREAD] * 3


def test_a_head_at_another_slope_is_another_function(tmp_path):
    """The control: the heads appended, as without ALiBi, change the outputs."""
    source = models.save("bloom", tmp_path / "source")
    grow.widen(source, {"hidden": 24, "heads": 6}, out=tmp_path / "grown", verify=False)
    assert models.difference(models.outputs(source), models.outputs(tmp_path / "grown")) <= 1e-12
    model = models.load(tmp_path / "grown")
    with models.Float64(), torch.no_grad():
        for block in model.transformer.h:
            rows = block.self_attention.query_key_value
            rows.weight.copy_(rows.weight.view(6, -1).roll(1, 0).view_as(rows.weight))
            rows.bias.copy_(rows.bias.view(6, -1).roll(1, 0).view_as(rows.bias))
            out = block.self_attention.dense.weight
            out.copy_(out.view(24, 6, -1).roll(1, 1).reshape_as(out))
    assert models.difference(models.outputs(source), models.outputs(model)) > 1e-3


@pytest.mark.parametrize("operator", ["copies"])
def test_no_head_is_copied(operator, tmp_path):
    source = models.save("bloom", tmp_path / "source")
    with pytest.raises(Refused, match="heads grow by unread"):
        grow.plan(source, {"hidden": 24, "heads": 6}, operators={"heads": operator})


@pytest.mark.quick
def test_what_alibi_and_fused_rows_refuse():
    def model(kind: str, variant: str) -> Architecture:
        return Architecture(FAMILIES[kind], VARIANTS[variant].fields)

    with pytest.raises(Refused, match="divides ALiBi by √head_dim"):
        resolve(model("falcon", "falcon-alibi"), "hidden_size=48")
    assert resolve(model("falcon", "falcon"), "hidden_size=48").sizes["head_dim"] == 16
    with pytest.raises(Refused, match="heads 10 is no multiple of 4") as caught:
        resolve(model("codegen", "codegen"), "n_head=10,n_embd=60")
    fix = caught.value.fix.split(" or ")[0]
    assert resolve(model("codegen", "codegen"), fix).sizes["heads"] % 4 == 0
    with pytest.raises(Refused, match=r"ffn 50 != 4 × hidden 12"):
        resolve(model("bloom", "bloom"), "ffn=50")
    assert resolve(model("bloom", "bloom"), "2x").sizes["ffn"] == 96
