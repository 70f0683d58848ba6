"""Optimizers and states without a rule are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from trajectories import adamw, source, train, widen

import grow
import grow.optimizer.dual_rule

# Refusals


class Own(torch.optim.AdamW):
    """A class of somebody's own."""


class Odd(torch.optim.AdamW):
    def __init__(self, model) -> None:
        super().__init__(model.parameters())


def refusal(model, optimizer, **options):
    with pytest.raises(grow.errors.GrowError) as caught:
        grow.widen(model, {"ffn": 40}, optimizer=optimizer, verify=False, **options)
    return caught.value


def test_a_class_without_a_rule_is_refused_but_may_start_with_a_fresh_state():
    model = source("llama")
    found = refusal(model, Own(model.parameters()))
    assert type(found) is grow.Refused
    assert found.where.endswith(f"{__name__}.Own")
    assert "Adam, AdamW, SGD, Muon, Adafactor" in found.what
    assert 'state="drop"' in found.fix
    assert type(widen(model, {"ffn": 40}, {}, optimizer=Own(model.parameters()), state="drop").optimizer) is Own
    found = refusal(model, Odd(model), state="drop")
    assert "could not be built anew" in found.what


def test_a_parameter_of_another_model_is_bad_input():
    model, other = source("llama"), source("llama")
    found = refusal(model, [adamw(model.parameters()), adamw(other.parameters())])
    assert type(found) is grow.BadInput
    assert found.where == "optimizer: param_groups[0], parameter 0 of shape (41, 18)"
    assert found.what == "is not one of the model's parameters"


def test_a_wrong_optimizer_or_policy_is_bad_input(tmp_path):
    model = source("llama")
    assert "got dict" in refusal(model, {}).what
    found = refusal(model, adamw(model.parameters()), state="fresh")
    assert "did you mean 'fresh-new'?" in found.what
    with pytest.raises(grow.BadInput, match="given for a checkpoint on disk"):
        grow.widen("small", "2x", out=tmp_path / "x", optimizer=adamw(model.parameters()))
    with pytest.raises(grow.BadInput, match="did you mean"):
        grow.widen(model, {"ffn": 40}, state="frsh-new", verify=False)
    with pytest.raises(grow.BadInput, match="given without an optimizer"):
        grow.widen(model, {"ffn": 40}, state="carry", verify=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"trace": torch.ones(3)}, "is not a state of torch.optim.AdamW"),
        (lambda s: s | {"exp_avg": s["exp_avg"].flatten()[:5]}, "shape (5,)"),
        (lambda s: s | {"exp_avg": s["exp_avg"].to(torch.int8)}, "torch.int8"),
    ],
)
def test_unknown_entries_of_a_state_are_refused(change, words):
    model = source("llama")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(1))
    p = next(model.parameters())
    optimizer.state[p] = change(optimizer.state[p])
    found = refusal(model, optimizer)
    assert type(found) is grow.Refused
    assert found.where.startswith("optimizer: state of model.embed_tokens.weight: ")
    assert words in found.what
    assert not widen(model, {"ffn": 40}, {}, optimizer=optimizer, state="drop").optimizer.state


def test_sharded_parameters_are_refused(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    model = source("llama")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        table = model.model.embed_tokens
        table.weight = torch.nn.Parameter(distribute_tensor(table.weight.detach(), mesh))
        found = refusal(model, adamw(model.parameters()))
    finally:
        dist.destroy_process_group()
    assert type(found) is grow.Refused
    assert found.where == "model.embed_tokens.weight"
    assert "DTensor" in found.what
    assert "before it is wrapped" in found.fix


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, partial(torch.compile, backend="eager")])
def test_a_wrapped_model_is_bad_input(wrap):
    model = source("llama")
    found = refusal(wrap(model), adamw(model.parameters()))
    assert type(found) is grow.BadInput
    assert "pass what it wraps" in found.fix
