"""The chain of LayerNorms that makes an inserted post-norm layer the identity."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
import tiny
import torch
from deeper import EXACT, N, deepen
from models import difference, outputs
from safetensors.torch import load_file, save_file

from grow.errors import BadInput
from grow.planning.layers import chain_scales

# The chain of LayerNorms


EPS = (0.05, 1e-5, 1e-12)


def bert(folder: Path, eps: float) -> Path:
    return models.save("bert-mlm", folder / f"bert-{eps}", num_hidden_layers=N, layer_norm_eps=eps)


@pytest.mark.parametrize("eps", EPS)
def test_the_chain_is_exact_at_any_eps(eps, tmp_path):
    source = bert(tmp_path, eps)
    before, found = outputs(source), {}
    for layers, where in ((N + 1, "top"), (N + 1, "after:0"), (4 * N, "spread"), (4 * N, "top")):
        deepen(source, layers, tmp_path / f"{layers}{where}", place=where, dtype="float64")
        found[layers, where] = difference(before, outputs(tmp_path / f"{layers}{where}"))
    assert max(found.values()) <= EXACT, found


@pytest.mark.parametrize("eps", EPS)
def test_the_numbers_of_the_chain(eps, tmp_path):
    source = bert(tmp_path, eps)
    deepen(source, N + 2, tmp_path / "grown", place="after:1", dtype="float64")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (source, tmp_path / "grown"))
    layer = "bert.encoder.layer.{}.{}".format
    scales, gains, shifts = chain_scales(2, eps), [], []
    scale = scales.scale
    for k in (1, 2, 3):
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            gains.append(new[layer(k, f"{norm}.weight")])
            shifts.append(new[layer(k, f"{norm}.bias")])
    close = dict(rtol=1e-15, atol=0)
    for name, factor in {
        "attention.output.LayerNorm.weight": scale, "attention.output.LayerNorm.bias": scale,
        "intermediate.dense.weight": 1 / scale, "intermediate.dense.bias": 1.0,
        "output.dense.weight": scale, "output.dense.bias": scale,
    }.items():  # fmt: skip
        torch.testing.assert_close(new[layer(1, name)], old[layer(1, name)].double() * factor, **close)
    assert all(torch.all(gain == scales.gain) for gain in gains[1:-1])
    assert not any(shift.any() for shift in shifts[1:-1])
    torch.testing.assert_close(gains[-1], old[layer(1, "output.LayerNorm.weight")].double() * scales.last, **close)
    torch.testing.assert_close(shifts[-1], old[layer(1, "output.LayerNorm.bias")].double(), **close)


@pytest.mark.parametrize("eps", [*EPS, 1e-3, 0.5, 3.0])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_the_chain_divides_as_one_layer_norm_does(eps, length):
    """1 / variance, followed through the LayerNorms one by one in exact fractions of a few variances."""
    from fractions import Fraction as F

    scales = chain_scales(length, eps)
    e, gain, scale = F(eps), F(scales.gain), F(scales.scale)
    assert scale.numerator == 1  # a power of two
    assert (scale.denominator & (scale.denominator - 1)) == 0
    for variance in (F(1, 1000), F(1), F(10**6)):
        inverse = 1 / (scale**2 * variance)
        squared = scale**2 * variance  # of the factor from the old input to what stands in the chain, × variance
        for _ in range(2 * length):
            squared *= gain**2 / (1 / inverse + e)
            inverse = (1 + e * inverse) / gain**2
        squared *= F(scales.last) ** 2 / (1 / inverse + e)
        wanted = variance / (variance + e)
        # gain and last are rounded once each, and a gain stands 2K times in a row
        assert abs(squared / wanted - 1) < 1e-15 * (2 + 4 * length)


def test_the_sizes_in_the_chain_are_alike_and_larger_than_the_root_of_eps():
    """The smaller the stream, the less an optimizer's step may be."""
    for eps in (1e-12, 1e-5):
        for length in (1, 2, 3):
            scales = chain_scales(length, eps)
            assert 0.5 < scales.gain / scales.scale < 2
            assert scales.gain > 2 * eps**0.5


@pytest.mark.parametrize("eps", EPS[:2])
def test_without_the_chain_a_post_norm_layer_is_off_by_its_eps(eps, tmp_path):
    """Gain 1 and bias 0 in front, the old gain behind: what everybody would try first."""
    source = bert(tmp_path, eps)
    grown = deepen(source, N + 1, tmp_path / "grown", place="after:1", dtype="float64").path
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (source, grown))
    for name in [name for name in new if ".layer.1." in name]:
        new[name] = old[name].double()
    for name in [name for name in new if "LayerNorm" in name and (".layer.2." in name or ".layer.1.output.L" in name)]:
        new[name].fill_(float(name.endswith("weight")))
    for kind in ("weight", "bias"):
        last = f"output.LayerNorm.{kind}"
        new[f"bert.encoder.layer.2.{last}"] = old[f"bert.encoder.layer.1.{last}"].double()
    save_file(new, grown / tiny.WEIGHTS, metadata={"format": "pt"})
    assert eps / 10 < difference(outputs(source), outputs(grown)) < 10 * eps


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_eps_that_config_json_leaves_out_is_the_stock_one(kind, tmp_path):
    source = models.save(f"{kind}-mlm", tmp_path / "source", num_hidden_layers=N, layer_norm_eps=1e-12)
    tiny.edit_json(source / "config.json", lambda config: config.pop("layer_norm_eps"))
    deepen(source, N + 2, tmp_path / "grown", dtype="float64")
    assert difference(outputs(source), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("eps", [0, 0.0, -1e-5, "tiny", [1e-5], {}])
def test_an_eps_that_is_none_is_bad_input_where_it_is_needed(eps, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert", layer_norm_eps=eps)
    with pytest.raises(BadInput) as caught:
        deepen(source, 3, tmp_path / "grown")
    assert caught.value.where.startswith("config.json")
    assert not (tmp_path / "grown").exists()
