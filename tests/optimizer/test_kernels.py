"""Kernels and other tensors of several dims grow in memory, and the state of an optimizer with them."""

from __future__ import annotations

import models
import pytest
import torch

import grow
from grow.models.fused_experts import called
from grow.models.same_outputs import tokens_for
from grow.notation.axes import parse_signature
from grow.optimizer.dual_rule import grow_factored, grow_moment, rates_of

TO = {"hidden": 24, "layers": 3}
EXACT = 1e-12


def backward(model: torch.nn.Module) -> None:
    model(**tokens_for(model)).logits.square().mean().backward()


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, grow.Growth]:
    """A ViT and its growth by copies, in float64 and with a gradient each."""
    model = models.make("vit-image").double()
    growth = grow.widen(model, TO, split="even", verify=False)
    backward(model), backward(growth.model)
    return model, growth


def test_a_tensor_lies_flat_as_its_arrow_says():
    kernel, table = parse_signature("hidden <- channels, patch, patch"), parse_signature("1, positions -> hidden")
    assert kernel.flat((12, 3, 4, 4)) == (12, 48)
    assert table.flat((1, 17, 12)) == (17, 12)
    assert [str(dim) for dim in kernel.matrix.dims] == ["hidden", "(channels patch patch)"]
    assert parse_signature("1, vocab <-").matrix.flat((41,)) == (41, 1)
    assert parse_signature("ffn <- hidden").matrix == parse_signature("ffn <- hidden")


def test_gradients_grow_by_gamma(pair):
    model, growth = pair
    old, new = ({called(m)[name]: p for name, p in m.named_parameters()} for m in (model, growth.model))
    several = [t for t in growth.plan.tensors if len(t.shape) > 2]
    assert {len(t.shape) for t in several} == {3, 4}
    for t in several:
        wanted = grow_moment(t, old[t.source].grad, 1)
        assert (new[t.name].grad - wanted).abs().max() <= EXACT * wanted.abs().max(), t.name
        rate = rates_of(t)
        assert torch.allclose(new[t.name], rate.value * old[t.source].repeat(*_times(t)), rtol=EXACT), t.name


def _times(t) -> list[int]:
    return [m // n for m, n in zip(t.new_shape, t.shape)]


def test_a_factored_moment_of_a_kernel_is_gamma_squared_times_the_old_one(pair):
    draw = torch.Generator().manual_seed(0)
    for t in (t for t in pair[1].plan.tensors if len(t.shape) > 2):
        row = torch.rand(*t.shape[:-1], 1, generator=draw, dtype=torch.float64)
        col = torch.rand(*t.shape[:-2], 1, t.shape[-1], generator=draw, dtype=torch.float64)
        col *= row.mean(-2, keepdim=True) / col.mean(-1, keepdim=True)  # two means of one matrix have one mean
        wanted = grow_moment(t, row * col / row.mean(-2, keepdim=True), 2)
        rows, cols = grow_factored(t, row, col)
        assert torch.allclose(rows * cols / rows.mean(-2, keepdim=True), wanted, rtol=EXACT), t.name


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adafactor])
def test_a_model_in_memory_and_its_optimizer_grow(kind):
    model = models.make("vit-pixels")
    optimizer = kind(model.parameters(), lr=1e-3)
    model(**tokens_for(model)).reconstruction.square().mean().backward()
    optimizer.step()
    grown = grow.widen(model, TO, optimizer=optimizer)
    assert grown.verification.verdict == "lossless"
    assert len(grown.optimizer.state) == len(list(grown.model.parameters())) - 1  # no mask was given, so no mask token
    grown.model(**tokens_for(grown.model)).reconstruction.square().mean().backward()
    grown.optimizer.step()
