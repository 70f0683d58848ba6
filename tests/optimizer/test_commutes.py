"""Optimizers grow with the model: k steps and then growth is growth and then k steps, for every class and policy.

All of it runs in true float64 (`models.Float64`). Weights and states are compared on the entries that carry an old one;
fresh entries and inserted layers are frozen where a trajectory is compared, because they learn what the source cannot.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from trajectories import (
    COPIES,
    EVEN,
    EXACT,
    GRADIENT,
    GROWTHS,
    NAMED,
    adam,
    adamw,
    backward,
    carried,
    growth_of,
    no_gradient,
    parameters,
    sgd,
    source,
    train,
    uniform,
    widen,
)

import grow
import grow.optimizer.dual_rule
from grow.optimizer.dual_rule import factors, grow_moment, rates_of

# Growths after which it is nominal, and the tensors that it is not exact for; "" is all.
NOMINAL = {
    "mean": ("gpt2", {"hidden": 20, "heads": 5}, EVEN, ("",)),
    "qk-norm": ("qwen3", {"head_dim": 16}, EVEN, ("q_proj", "k_proj")),
    "dealt": ("llama", {"kv_heads": 6}, EVEN, ("k_proj", "v_proj")),
    "vocab": ("llama", {"vocab": 50}, EVEN, ("",)),
}


# The rule against autograd


def gradient_errors(growth, model) -> dict[str, float]:
    """Parameter -> max |∂L/∂W̃ - γ·∂L/∂W| over carried entries, relative to the largest that is wanted."""
    backward(model, 0), backward(growth.model, 0)
    old, new = parameters(model), parameters(growth.model)
    errors = {}
    for name, t, where in carried(growth):
        if old[t.source].grad.abs().max() > 1e-12:
            wanted = grow_moment(t, old[t.source].grad, 1)
            errors[name] = ((new[name].grad - wanted)[where].abs().max() / wanted.abs().max()).item()
    return errors


@NAMED
def test_gradients_grow_by_gamma(name):
    model, growth = growth_of(name)
    errors = gradient_errors(growth, model)
    assert len(errors) > 10
    assert max(errors.values()) <= GRADIENT, errors


@pytest.mark.parametrize("name", NOMINAL)
def test_gamma_is_inexact_exactly_where_the_docstring_says_so(name):
    """Every line of the docstring's list is needed."""
    inexact = NOMINAL[name][-1]
    errors = gradient_errors(*reversed(growth_of(name, NOMINAL)))
    assert max(errors.values()) > 1e-4
    others = {k: e for k, e in errors.items() if not any(part in k for part in inexact)}
    assert max(others.values(), default=0.0) <= GRADIENT, others


def test_with_drawn_shares_gamma_is_the_expectation():
    """The mean over draws approaches γ·old as 1/√draws: every deviation is within 6 of its own standard errors."""
    model, draws = source("llama-tied"), 60
    backward(model, 0)
    total: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    for seed in range(draws):
        growth = widen(model, {"hidden": 36}, {"split": "exact"}, seed=seed)
        backward(growth.model, 0)
        for name, p in growth.model.named_parameters():
            total[name] = total.get(name, 0) + p.grad
            squares[name] = squares.get(name, 0) + p.grad**2
    old = parameters(model)
    for name, t, _ in carried(growth):
        mean = total[name] / draws
        error = ((squares[name] / draws - mean**2).clamp(min=0) / draws).sqrt()
        wanted = grow_moment(t, old[t.source].grad, 1)
        assert ((mean - wanted).abs() <= 6 * error + 1e-9).all(), name
        assert (mean - wanted).norm() < 0.3 * wanted.norm(), name


@NAMED
def test_the_dual_of_the_law(name):
    """Σ v·γ = 1 over the copies of every old coordinate, for each dim; and v is what the weights hold."""
    model, growth = growth_of(name)
    old, new = parameters(model), parameters(growth.model)
    for t in growth.plan.tensors:
        for f, m in zip(factors(t), t.maps):
            if f is not None:
                kept = m.source >= 0
                total = np.bincount(m.source[kept], (f.value * f.gradient)[kept], m.n)
                np.testing.assert_allclose(total, 1, rtol=0, atol=1e-12)
    for param, t, where in carried(growth):
        grown = old[t.source].detach()
        for dim, f in enumerate(factors(t)):
            if f is not None:
                grown = grown.index_select(dim, torch.from_numpy(f.source))
        wanted = (grown * rates_of(t).value)[where]
        assert torch.allclose(new[param].detach()[where], wanted, rtol=1e-13, atol=0), param


# Trajectories


class PerEntry:
    """SGD, Adam or AdamW with the per-entry rates, on a grown optimizer's state; what carries nothing is frozen."""

    def __init__(self, growth) -> None:
        self.optimizer, self.model = growth.optimizer, growth.model
        names = {id(p): name for name, p in growth.model.named_parameters()}
        found = grow.rates(growth.plan)
        self.rates = {id(p): found[names[id(p)]] for p in growth.model.parameters()}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                v, g = self.rates[id(p)]
                state, seen = self.optimizer.state[p], v != 0
                safe = torch.where(seen, v, 1.0), torch.where(seen, g, 1.0)
                p -= torch.where(seen, self.update(p, group, state, *safe), 0.0)

    def update(self, p, group, state, v, g):
        sgd, decay = isinstance(self.optimizer, torch.optim.SGD), group["weight_decay"]
        coupled = sgd or type(self.optimizer) is torch.optim.Adam
        grad = p.grad + (decay * g / v * p if coupled else 0)
        if sgd:
            state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
            return group["lr"] * v / g * state["momentum_buffer"]
        b1, b2 = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(grad, 1 - b1)
        state["exp_avg_sq"].mul_(b2).add_(grad**2, alpha=1 - b2)
        second = state["exp_avg_sq"]
        if group["amsgrad"]:
            second = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], second))
        t = state["step"].item()
        m, s = state["exp_avg"] / (1 - b1**t), (second / (1 - b2**t)).sqrt()
        decayed = 0 if coupled else group["lr"] * decay * p
        return group["lr"] * v * m / (s + group["eps"] * g) + decayed


MAKERS = {f.__name__: f for f in (sgd, adam, adamw)}


def apart(one, two) -> float:
    """The largest difference of weights and states on carried entries, relative to each tensor's largest number."""
    worst = 0.0
    a, b = parameters(one.model), parameters(two.model)
    for name, _, where in carried(two):
        pairs = [(a[name].detach(), b[name].detach())]
        pairs += [
            (one.optimizer.state[a[name]][key], value)
            for key, value in two.optimizer.state[b[name]].items()
            if key != "step" and not no_gradient(name)
        ]
        worst = max(worst, *(((x - y)[where].abs().max() / y.abs().max()).item() for x, y in pairs))
    return worst


def commute(name: str, make, before: int = 4, after: int = 5) -> float:
    """How far `growth, then steps` is from `steps, then growth`, both after some steps of the source."""
    variant, to, options = GROWTHS[name]
    model = source(variant)
    optimizer = make(model.parameters())
    train(model, optimizer, range(before))
    first = widen(model, to, options, optimizer=optimizer, state="carry")
    stepper = PerEntry(first)
    train(first.model, stepper, range(before, before + after))
    train(model, optimizer, range(before, before + after))
    return apart(first, widen(model, to, options, optimizer=optimizer, state="carry"))


@NAMED
@pytest.mark.parametrize("make", MAKERS)
def test_steps_then_growth_equals_growth_then_steps(name, make):
    assert commute(name, MAKERS[make]) <= EXACT


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["llama-hidden-2x", "llama-tied-silent", "gpt2-2x", "bert-2x"])
def test_a_state_grown_like_the_weights_does_not_commute(name, make, monkeypatch):
    """The mutation does not exchange `read` and `write`."""
    right = grow.optimizer.dual_rule._factors

    def wrong(*arguments):
        f = right(*arguments)
        return grow.optimizer.dual_rule.Factors(f.source, f.value, f.value, f.first)

    variant, to, options = GROWTHS[name]
    model = source(variant)
    optimizer = MAKERS[make](model.parameters())
    train(model, optimizer, range(4))
    correct = widen(model, to, options, optimizer=optimizer, state="carry")
    monkeypatch.setattr(grow.optimizer.dual_rule, "_factors", wrong)
    mistaken = widen(model, to, options, optimizer=optimizer, state="carry")
    monkeypatch.undo()
    for growth in (correct, mistaken):
        train(growth.model, PerEntry(growth), range(4, 7))
    assert apart(mistaken, correct) > 1e-3


@pytest.mark.parametrize("variant", ["llama", "llama-tied", "gpt2", "bert-mlm"])
@pytest.mark.parametrize("kind", [*MAKERS, "adafactor"])
def test_stock_optimizers_with_one_group_per_parameter_commute(variant, kind):
    """Doubled throughout, each parameter has one v and one γ. Adafactor scales its steps with the weights by itself."""
    make = MAKERS.get(kind, partial(torch.optim.Adafactor, lr=3e-3, eps=(1e-8, 1e-8), weight_decay=0.1))
    model = source(variant)
    sizes = grow.plan(model, "2x").sizes
    to = {axis: 2 * sizes[axis] for axis in ("hidden", "heads", "ffn")}
    to |= {"kv_heads": 2 * sizes["kv_heads"]} if "llama" in variant else {}
    # a third of c_attn's bias has no gradient, and without an eps Adafactor makes full steps of the rounding there
    frozen = {"lr": 0.0} if kind == "adafactor" else {}
    optimizer = make(
        [{"params": [p], **(frozen if n.endswith("c_attn.bias") else {})} for n, p in model.named_parameters()]
    )
    train(model, optimizer, range(3))
    growth = widen(model, to, COPIES, optimizer=optimizer, state="carry")
    names = {id(p): name for name, p in growth.model.named_parameters()}
    for group in growth.optimizer.param_groups:
        v, g = uniform(growth, names[id(group["params"][0])])
        if kind == "adafactor":
            group["eps"] = (group["eps"][0] * g, group["eps"][1] * v)
            continue
        group["lr"] *= v / g if kind == "sgd" else v
        group["weight_decay"] *= {"sgd": g / v, "adam": g / v, "adamw": 1 / v}[kind]
        group |= {"eps": group["eps"] * g} if "eps" in group else {}
    train(growth.model, growth.optimizer, range(3, 8))
    train(model, optimizer, range(3, 8))
    later = widen(model, to, COPIES, optimizer=optimizer, state="carry")
    a, b = parameters(growth.model), parameters(later.model)
    for name in (n for n in a if not no_gradient(n) and not (frozen and n.endswith("c_attn.bias"))):
        pairs = [(a[name].detach(), b[name].detach())]
        pairs += [
            (growth.optimizer.state[a[name]][k], x) for k, x in later.optimizer.state[b[name]].items() if k != "step"
        ]
        assert all((x - y).abs().max() <= EXACT * y.abs().max() for x, y in pairs), name


def test_muons_update_of_copies_is_smaller_by_the_root_of_their_number():
    """As the docstring of `grow.optimizer.dual_rule` says, up to the last two bits of Muon's bfloat16."""
    draw = torch.Generator().manual_seed(0)
    small = torch.nn.Parameter(torch.randn(12, 20, generator=draw))
    large = torch.nn.Parameter(small.detach().repeat(2, 2))
    grad = torch.randn(12, 20, generator=draw)
    moved = []
    for p, g in ((small, grad), (large, 0.5 * grad.repeat(2, 2))):
        before, p.grad = p.detach().clone(), g
        torch.optim.Muon([p], lr=1.0, weight_decay=0.0).step()
        moved.append(p.detach() - before)
    torch.testing.assert_close(2 * moved[1], moved[0].repeat(2, 2), rtol=0, atol=2.0**-7 * moved[0].abs().max().item())
