"""Optimizers grow with the model: k steps and then growth is growth and then k steps, for every class and policy.

All of it runs in true float64 (`models.Float64`). Weights and states are compared on the entries that carry an old one;
fresh entries and inserted layers are frozen where a trajectory is compared, because they learn what the source cannot.
"""

from __future__ import annotations

import copy
from functools import partial

import models
import numpy as np
import pytest
import torch
from models import LLAMA, Float64
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

import grow
import grow.optimizer.dual_rule
from grow.notation.axes import READ
from grow.optimizer.dual_rule import factors, grow_factored, grow_moment, new_entries_of, rates_of

# Some tens of roundings of 2^-53 per step, of gradients about 1, over some steps: measured up to 2e-14.
EXACT = 1e-12
# A gradient summed over other copies in another order: measured up to 6e-15 of the tensor's largest.
GRADIENT = 1e-13

EVEN, COPIES = {"split": "even"}, {"operators": {"ffn": "copies", "heads": "copies"}, "split": "even"}

# Growths after which γ is the gradient's factor on every carried entry.
GROWTHS = {
    "llama-hidden-2x": ("llama", {"hidden": 36}, EVEN),
    "llama-hidden-3x": ("llama", {"hidden": 54}, EVEN),
    "llama-copies": ("llama", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 40}, COPIES),
    "llama-tied-2x": ("llama-tied", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 56}, COPIES),
    "llama-tied-3x": ("llama-tied", {"hidden": 54, "ffn": 84}, COPIES),
    "llama-tied-silent": ("llama-tied", {"hidden": 24, "head_dim": 12, "heads": 8, "kv_heads": 2}, EVEN),
    "llama-uneven-copies": ("llama", {"hidden": 30, "ffn": 40}, {"operators": {"hidden": "copies"}, "split": "even"}),
    "llama-bigger-groups": ("llama", {"heads": 9, "kv_heads": 3, "ffn": 40}, EVEN),
    "llama-all": ("llama-tied", {"hidden": 24, "heads": 8, "ffn": 31, "layers": 4}, EVEN),
    "qwen3-tied": ("qwen3-biases", {"hidden": 36, "ffn": 40, "layers": 3}, EVEN),
    "gpt2-2x": ("gpt2", {"hidden": 24, "heads": 6, "ffn": 96}, COPIES),
    "gpt2-3x": ("gpt2", {"hidden": 36, "heads": 9, "ffn": 100}, COPIES),
    "gpt2-all": ("gpt2", {"hidden": 24, "layers": 4, "positions": 90}, EVEN),
    "gpt2-inverse-deep": ("gpt2-inverse", {"layers": 4}, EVEN),
    "gpt_neox": ("gpt_neox", {"hidden": 48, "heads": 6, "ffn": 45}, COPIES),
    "opt": ("opt", {"hidden": 24, "ffn": 30, "layers": 3, "positions": 80}, EVEN),
    "bert-2x": ("bert-mlm", {"hidden": 24, "heads": 6, "ffn": 44}, COPIES),
    "bert-3x": ("bert-mlm", {"hidden": 36, "heads": 9, "ffn": 50}, COPIES),
    "bert-all": ("bert-mlm", {"hidden": 24, "ffn": 30, "layers": 5, "positions": 80}, EVEN),
    "roberta-deep": ("roberta-mlm", {"layers": 3}, EVEN),
    "distilbert-all": ("distilbert-mlm", {"hidden": 24, "layers": 4}, EVEN),
}
# Growths after which it is nominal, and the tensors that it is not exact for; "" is all.
NOMINAL = {
    "mean": ("gpt2", {"hidden": 20, "heads": 5}, EVEN, ("",)),
    "qk-norm": ("qwen3", {"head_dim": 16}, EVEN, ("q_proj", "k_proj")),
    "dealt": ("llama", {"kv_heads": 6}, EVEN, ("k_proj", "v_proj")),
    "vocab": ("llama", {"vocab": 50}, EVEN, ("",)),
}
NAMED = pytest.mark.parametrize("name", GROWTHS)


def source(variant: str, seed: int = 1):
    """In true float64, buffers included."""
    with Float64():
        return models.make(variant, seed).double()


def widen(model, to, options, **more) -> grow.Growth:
    with Float64():
        return grow.widen(model, to, **{"dtype": "float64", "verify": False, **options, **more})


def loss_of(model, step: int) -> torch.Tensor:
    given = models.inputs(model.config, 13)
    draw = torch.Generator().manual_seed(step)
    given["input_ids"] = torch.randint(4, 41, (3, 13), generator=draw)  # the old tokens only
    with Float64():
        return model(**given, labels=given["input_ids"]).loss


def backward(model, step: int) -> float:
    model.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    return loss.item()


def train(model, optimizer, steps) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()


def parameters(model) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters())


def carried(growth) -> list[tuple[str, grow.optimizer.dual_rule.TensorPlan, torch.Tensor]]:
    """(parameter, its plan, where it carries an old entry) without what carries none."""
    known = parameters(growth.model)
    found = [(t.name, t, rates_of(t).value != 0) for t in growth.plan.tensors if t.name in known]
    return [x for x in found if x[2].any()]


def no_gradient(name: str) -> bool:
    """A key's bias without RoPE: softmax ignores it, and its gradient is rounding."""
    return name.endswith(("key.bias", "k_lin.bias")) or (".decoder." in name and name.endswith("k_proj.bias"))


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


def growth_of(name: str, table=GROWTHS):
    variant, to, options = table[name][:3]
    model = source(variant)
    return model, widen(model, to, options)


@NAMED
def test_gradients_grow_by_gamma(name):
    model, growth = growth_of(name)
    errors = gradient_errors(growth, model)
    assert len(errors) > 10
    assert max(errors.values()) <= GRADIENT, errors


@pytest.mark.parametrize("name", NOMINAL)
def test_where_gamma_is_nominal_it_is_inexact_and_nowhere_else(name):
    """So that no line of the docstring's list stays there without need."""
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


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.02)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3, eps=1e-4, weight_decay=0.02, amsgrad=True)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3, eps=1e-4, weight_decay=0.1)


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
    """How far `growth, then steps` is from `steps, then growth`, both behind some steps of the source."""
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
def test_steps_then_growth_is_growth_then_steps(name, make):
    assert commute(name, MAKERS[make]) <= EXACT


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["llama-hidden-2x", "llama-tied-silent", "gpt2-2x", "bert-2x"])
def test_a_state_grown_like_the_weights_does_not_commute(name, make, monkeypatch):
    """Read and write not exchanged."""
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


def uniform(growth, name: str) -> tuple[float, float]:
    """v and γ where a parameter has one of each."""
    rate = grow.rates(growth.plan)[name]
    assert rate.value.unique().numel() == rate.gradient.unique().numel() == 1
    return rate.value.flatten()[0].item(), rate.gradient.flatten()[0].item()


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
    """As the docstring of `grow.optimizer.dual_rule` has it, to the last bit but two of Muon's bfloat16."""
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


# Every class: the grown state is the state that the grown model would have


def still(kind: str, model):
    """Optimizers that look and do not move."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    fast = {"foreach": True}
    return {
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.0, **fast),
        "adam-fused": lambda: torch.optim.Adam(model.parameters(), lr=0.0, fused=True),
        "adamw-amsgrad": lambda: torch.optim.AdamW(model.parameters(), lr=0.0, amsgrad=True, foreach=False),
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, nesterov=True, **fast),
        "adafactor": lambda: torch.optim.Adafactor(model.parameters(), lr=0.0),
        "muon-adamw": lambda: [torch.optim.Muon(matrices, lr=0.0), torch.optim.AdamW(vectors, lr=0.0)],
    }[kind]()


def as_list(optimizer) -> list:
    return optimizer if isinstance(optimizer, list) else [optimizer]


def states(optimizer, model) -> dict[str, dict]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: state for one in as_list(optimizer) for p, state in one.state.items()}


@pytest.mark.parametrize("kind", ["adam", "adam-fused", "adamw-amsgrad", "sgd", "adafactor", "muon-adamw"])
@pytest.mark.parametrize("name", ["llama-copies", "llama-tied-2x", "gpt2-3x", "bert-2x", "gpt2-all", "bert-all"])
def test_the_grown_state_is_the_state_of_the_grown_model(kind, name):
    variant, to, options = GROWTHS[name]
    model = source(variant)
    optimizer = still(kind, model)
    grown = widen(model, to, options)
    reference = still(kind, grown.model)
    for step in range(3):
        backward(model, step), backward(grown.model, step)
        for one in as_list(optimizer) + as_list(reference):
            one.step()
    growth = widen(model, to, options, optimizer=optimizer, state="carry")
    assert type(growth.optimizer) is type(optimizer)
    found, wanted = states(growth.optimizer, growth.model), states(reference, grown.model)
    assert found.keys() == wanted.keys()
    for param, t, where in carried(growth):
        assert found[param].keys() == wanted[param].keys()
        even = where.all() and all(
            f is None or np.ptp(np.bincount(f.source, f.gradient**2)) < 1e-15 for f in factors(t)
        )
        for key, value in wanted[param].items():
            got = found[param][key]
            assert got.shape == value.shape
            assert got.dtype == value.dtype
            if key == "step":
                assert got.item() == value.item() == 3
            elif key in ("row_var", "col_var") and not even:
                continue  # means over fresh entries too, or weighed ones, which the old means do not determine
            elif not no_gradient(param):
                where_ = where if got.shape == where.shape else slice(None)
                assert (got - value)[where_].abs().max() <= GRADIENT * value.abs().max(), (param, key)


@NAMED
def test_adafactors_estimate_grows_by_the_square_of_gamma(name):
    """Whatever is fresh: of V = row · col / mean(row) every carried entry is γ² times the old one."""
    _, growth = growth_of(name)
    draw = torch.Generator().manual_seed(0)
    seen = 0
    for _, t, where in carried(growth):
        if len(t.shape) == 2:
            squares = torch.rand(t.shape, generator=draw, dtype=torch.float64)
            row, col = squares.mean(1, keepdim=True), squares.mean(0, keepdim=True)
            new_row, new_col = grow_factored(t, row, col)
            estimate, new = row * col / row.mean(), new_row * new_col / new_row.mean()
            wanted = grow_moment(t, estimate, 2)
            torch.testing.assert_close(new[where], wanted[where], rtol=1e-12, atol=0)
            torch.testing.assert_close(new.mean(1, keepdim=True), new_row, rtol=1e-12, atol=0)
            torch.testing.assert_close(new.mean(0, keepdim=True), new_col, rtol=1e-12, atol=0)
            seen += 1
    assert seen > 5


def test_adafactor_that_has_seen_only_zeros_stays_finite():
    _, growth = growth_of("llama-copies")
    t = next(t for t in growth.plan.tensors if len(t.shape) == 2)
    row, col = grow_factored(t, torch.zeros(t.shape[0], 1), torch.zeros(1, t.shape[1]))
    assert not row.any()
    assert not col.any()


def test_numpy_and_torch_grow_alike():
    _, growth = growth_of("llama-copies")
    for t in growth.plan.tensors:
        moment = torch.randn(t.shape, generator=torch.Generator().manual_seed(0))
        for power in (1, 2):
            numpy = grow_moment(t, moment.numpy(), power)
            assert numpy.dtype == np.float32
            assert np.array_equal(grow_moment(t, moment, power).numpy(), numpy)


# Policies


@NAMED
def test_every_old_entry_has_one_that_is_not_new(name):
    """Numbering the old entries, each number stands once among the entries that are not new."""
    _, growth = growth_of(name)
    masks = grow.new_entries(growth.plan)
    assert list(masks) == [t.name for t in growth.plan.tensors]
    found: dict[str, list[torch.Tensor]] = {}
    shapes = {t.source: t.shape for t in growth.plan.tensors}
    for t in growth.plan.tensors:
        mask = masks[t.name]
        assert mask.dtype == torch.bool
        assert mask.shape == t.new_shape
        at = torch.arange(int(np.prod(t.shape))).reshape(t.shape)
        for dim, f in enumerate(factors(t)):
            if f is not None:
                at = at.index_select(dim, torch.from_numpy(f.source))
        found.setdefault(t.source, []).append(at[~mask])
    for key, parts in found.items():
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(int(np.prod(shapes[key])))), key


def test_nothing_is_new_where_nothing_grew():
    model = source("llama")
    plan = grow.plan(model, {"hidden": 18})
    assert not any(mask.any() for mask in grow.new_entries(plan).values())
    assert all((r.value == 1).all() and (r.gradient == 1).all() for r in grow.rates(plan).values())


def test_a_head_that_parts_from_its_table_is_new_and_may_carry():
    model = source("opt-no-final-norm")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    kept, shared = (widen(model, {"hidden": 24}, EVEN, optimizer=optimizer, state=s) for s in ("fresh-new", "carry"))
    assert kept.plan.new_config["tie_word_embeddings"] is False
    assert grow.new_entries(kept.plan)["lm_head.weight"].all()
    assert not states(kept.optimizer, kept.model)["lm_head.weight"]["exp_avg"].any()
    assert states(shared.optimizer, shared.model)["lm_head.weight"]["exp_avg"].any()


@pytest.mark.parametrize("name", ["llama-copies", "llama-all", "bert-all", "gpt2-all"])
def test_policies(name):
    variant, to, options = GROWTHS[name]
    model = source(variant)
    optimizer = adam(model.parameters())
    train(model, optimizer, range(3))
    by = {s: widen(model, to, options, optimizer=optimizer, state=s) for s in ("carry", "fresh-new", "drop")}
    default = widen(model, to, options, optimizer=optimizer)
    assert not by["drop"].optimizer.state
    full, kept = (states(by[s].optimizer, by[s].model) for s in ("carry", "fresh-new"))
    assert kept.keys() == full.keys() == parameters(default.model).keys()
    for param, t in ((t.name, t) for t in default.plan.tensors if t.name in kept):
        new = new_entries_of(t)
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert torch.equal(kept[param][key], torch.where(new, 0.0, full[param][key])), (param, key)
            assert torch.equal(kept[param][key], states(default.optimizer, default.model)[param][key])
        assert kept[param]["step"].item() == full[param]["step"].item() == 3
        assert not full[param]["exp_avg"][rates_of(t).value == 0].any()


def test_adafactor_starts_further_copies_at_zero():
    model = source("llama")
    optimizer = still("adafactor", model)
    train(model, optimizer, range(2))
    growth = widen(model, {"hidden": 36, "ffn": 40}, COPIES, optimizer=optimizer)
    matrices = {name: s for name, s in states(growth.optimizer, growth.model).items() if "row_var" in s}
    seen = {name: (s["row_var"] * s["col_var"]) != 0 for name, s in matrices.items()}
    assert not any((seen[name] & grow.new_entries(growth.plan)[name]).any() for name in seen)
    old = states(optimizer, model)
    assert all(seen[name].sum() == (old[name]["row_var"] * old[name]["col_var"]).count_nonzero() for name in seen)


def test_with_fresh_state_even_copies_part():
    """Equal shares get equal gradients; what keeps them together under "carry" is equal state."""
    apart_by = {}
    for state in ("carry", "fresh-new"):
        model = source("llama")
        optimizer = adamw(model.parameters())
        train(model, optimizer, range(3))
        growth = widen(model, {"hidden": 36}, EVEN, optimizer=optimizer, state=state)
        train(growth.model, growth.optimizer, range(3, 6))
        table = growth.model.model.embed_tokens.weight.detach()
        apart_by[state] = (table[:, :18] - table[:, 18:]).abs().max().item()
    assert apart_by["carry"] < EXACT
    assert apart_by["fresh-new"] > 1e-4


# Groups, flags and what must not change


def grouped(model, **more):
    """Two groups, decay and none, with a key of somebody's own; the embedding is frozen and left out."""
    model.model.embed_tokens.weight.requires_grad_(False)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = {"params": [(n, p) for n, p in named if p.ndim == 2], "weight_decay": 0.1, "role": "matrices"}
    vectors = {"params": [(n, p) for n, p in named if p.ndim == 1], "lr": 1e-4, "betas": (0.8, 0.9)}
    return torch.optim.AdamW([matrices, vectors | {"weight_decay": 0.0, "role": "vectors"}], lr=1e-3, **more)


@pytest.mark.parametrize("state", ["fresh-new", "carry", "drop"])
def test_groups_keep_their_settings_and_inserted_layers_join_them(state):
    model = source("llama")
    optimizer = grouped(model, amsgrad=True)
    train(model, optimizer, range(2))
    growth = widen(model, {"hidden": 24, "layers": 4}, {}, optimizer=optimizer, state=state)
    new = growth.optimizer
    assert type(new) is torch.optim.AdamW
    assert new.defaults == optimizer.defaults
    assert len(new.param_groups) == 2
    for old_group, group in zip(optimizer.param_groups, new.param_groups):
        assert {k: v for k, v in old_group.items() if "param" not in k} == {
            k: v for k, v in group.items() if "param" not in k
        }
    known = parameters(growth.model)
    assert not known["model.embed_tokens.weight"].requires_grad
    assert new.param_groups[0]["param_names"] == [
        n for n, p in known.items() if p.ndim == 2 and "embed" not in n
    ]  # in the model's order, the inserted layers among them
    assert new.param_groups[1]["param_names"] == [n for n, p in known.items() if p.ndim == 1]
    assert all(known[n] is p for g in new.param_groups for n, p in zip(g["param_names"], g["params"]))
    train(growth.model, new, range(2, 4))


def test_deepen_takes_an_optimizer_too():
    model = source("gpt2")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    with Float64():
        growth = grow.deepen(model, 4, optimizer=optimizer, verify=False)
    moments = states(growth.optimizer, growth.model)
    inserted = {t.name for t in growth.plan.tensors if t.inserted}
    assert {name for name, state in moments.items() if not state["exp_avg"].any()} == inserted
    assert len(inserted) == 2 * 12
    assert {state["step"].item() for state in moments.values()} == {2}


def test_a_group_in_another_order_keeps_it():
    model = source("llama")
    order = list(reversed(list(model.parameters())))
    growth = widen(model, {"ffn": 40}, {}, optimizer=torch.optim.SGD(order, lr=0.1))
    assert [id(p) for p in growth.optimizer.param_groups[0]["params"]] == [
        id(p) for p in reversed(list(growth.model.parameters()))
    ]


def test_a_saved_state_loads_into_an_optimizer_of_all_parameters():
    model = source("llama")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    growth = widen(model, {"hidden": 24, "layers": 4}, {}, optimizer=optimizer)
    again = adamw(growth.model.parameters())
    again.load_state_dict(growth.optimizer.state_dict())
    for p, state in growth.optimizer.state.items():
        assert all(torch.equal(again.state[p][k], v) for k, v in state.items())


def test_flags_and_tensor_rates_stay():
    model = source("llama")
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True, decoupled_weight_decay=True, maximize=True)
    group = widen(model, {"ffn": 40}, {}, optimizer=optimizer).optimizer.param_groups[0]
    assert group["fused"] is group["maximize"] is group["decoupled_weight_decay"] is True
    assert group["lr"] == rate
    assert group["lr"] is not rate


@pytest.mark.parametrize("kind", ["adam", "sgd", "adafactor", "muon-adamw"])
def test_source_and_optimizer_stay_as_they_were(kind):
    model = source("llama-tied")
    optimizer = still(kind, model)
    train(model, type("All", (), {"step": lambda self: [o.step() for o in as_list(optimizer)]})(), range(2))
    before = copy.deepcopy([o.state_dict() for o in as_list(optimizer)])
    weights, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    growth = widen(model, {"hidden": 36, "layers": 3}, {}, optimizer=optimizer, state="carry")
    assert torch.equal(random, torch.get_rng_state())
    for state in states(growth.optimizer, growth.model).values():
        for value in state.values():
            value.fill_(7.0)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    for old, one in zip(before, as_list(optimizer)):
        now = one.state_dict()
        assert now["param_groups"] == old["param_groups"]
        assert all(torch.equal(now["state"][i][k], v) for i, s in old["state"].items() for k, v in s.items())


def test_no_step_yet_and_sgd_without_momentum():
    model = source("llama")
    assert not widen(model, {"ffn": 40}, {}, optimizer=adamw(model.parameters())).optimizer.state
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, range(1))
    growth = widen(model, {"ffn": 40}, {}, optimizer=optimizer)
    train(growth.model, growth.optimizer, range(1))


def test_a_moment_in_its_weights_dtype_follows_it_and_another_keeps_its_own():
    """bfloat16 moments: of a bit-exact plan they stay, of a rounded one they become float32 as the weights do."""
    model = models.make("llama").bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    step_in_own_dtype(model, optimizer)
    same = grow.widen(model, {"hidden": 36}, optimizer=optimizer, state="carry", verify=False)
    wide = grow.widen(model, {"hidden": 24}, optimizer=optimizer, state="carry", verify=False)
    assert {s["exp_avg"].dtype for s in same.optimizer.state.values()} == {torch.bfloat16}
    assert {s["exp_avg_sq"].dtype for s in wide.optimizer.state.values()} == {torch.float32}
    for growth in (same, wide):
        step_in_own_dtype(growth.model, growth.optimizer)
    model = models.make("llama").bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    step_in_own_dtype(model, optimizer)
    for state in optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].float()
    mixed = grow.widen(model, {"hidden": 36}, optimizer=optimizer, verify=False).optimizer
    assert {(s["exp_avg"].dtype, s["exp_avg_sq"].dtype) for s in mixed.state.values()} == {
        (torch.float32, torch.bfloat16)
    }


def step_in_own_dtype(model, optimizer) -> None:
    ids = models.inputs(model.config, 9)["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_an_example_with_sizes():
    """The one in `grow_moment`'s docstring."""
    model = source("llama")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(1))
    growth = widen(model, {"hidden": 36}, {}, optimizer=optimizer, state="carry")
    name = "model.layers.0.mlp.down_proj.weight"
    old = optimizer.state[parameters(model)[name]]
    new = growth.optimizer.state[parameters(growth.model)[name]]
    assert torch.equal(new["exp_avg"], torch.cat([old["exp_avg"] / 2] * 2))
    assert torch.equal(new["exp_avg_sq"], torch.cat([old["exp_avg_sq"] / 4] * 2))


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


def test_a_class_without_a_rule_is_refused_and_may_start_anew():
    model = source("llama")
    found = refusal(model, Own(model.parameters()))
    assert type(found) is grow.Refused
    assert found.where.endswith("test_optimizer.Own")
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
    assert found.what == "is none of the model's parameters"


def test_what_is_no_optimizer_or_no_policy_is_bad_input(tmp_path):
    model = source("llama")
    assert "is a dict" in refusal(model, {}).what
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
        (lambda s: s | {"trace": torch.ones(3)}, "is no state of torch.optim.AdamW"),
        (lambda s: s | {"exp_avg": s["exp_avg"].flatten()[:5]}, "shape (5,)"),
        (lambda s: s | {"exp_avg": s["exp_avg"].to(torch.int8)}, "torch.int8"),
    ],
)
def test_states_that_are_not_understood_are_refused(change, words):
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


# In a training loop


SCHEDULES = {
    "lambda": lambda o: LambdaLR(o, lambda step: min(1.0, (step + 1) / 8) * 0.99**step),
    "step": lambda o: StepLR(o, 4, gamma=0.5),
    "cosine": lambda o: CosineAnnealingLR(o, 30),
    "one-cycle": lambda o: OneCycleLR(o, 0.01, total_steps=40),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("steps", [3, 8])
def test_a_schedule_goes_on(kind, steps):
    """As the README does it: a scheduler of the same kind on the new optimizer, and the old one's state."""

    def rates_over(optimizer, scheduler, count) -> list[float]:
        found = []
        for _ in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    model = source("llama")
    optimizer = adamw(model.parameters())
    scheduler = SCHEDULES[kind](optimizer)
    rates_over(optimizer, scheduler, steps)
    new = widen(model, {"ffn": 40}, {}, optimizer=optimizer).optimizer
    again = SCHEDULES[kind](new)
    again.load_state_dict(scheduler.state_dict())
    for group, rate in zip(new.param_groups, again.get_last_lr()):
        group["lr"] = rate
    assert rates_over(new, again, 12) == rates_over(optimizer, scheduler, 12)


@pytest.mark.parametrize("state", ["fresh-new", "carry", "drop"])
def test_training_goes_on_where_it_was(state):
    """20 steps, all axes grown at once, the same loss to 1e-9 (1e-12 measured), and down from there."""
    model = source("llama-tied").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        backward(model, 0)
        optimizer.step()
    before = loss_of(model, 0).item()
    to = {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 61, "layers": 3, "positions": 80}
    growth = widen(model, to, {}, optimizer=optimizer, state=state)
    model, optimizer = growth.model, growth.optimizer
    assert model.training
    assert loss_of(model, 0).item() == pytest.approx(before, abs=1e-9)
    for _ in range(20):
        backward(model, 0)
        optimizer.step()
    assert loss_of(model, 0).item() < 0.8 * before


def test_new_entries_can_be_trained_alone():
    model = source("llama")
    growth = widen(model, {"ffn": LLAMA["intermediate_size"] + 9}, {}, optimizer=sgd(model.parameters()))
    masks, known = grow.new_entries(growth.plan), parameters(growth.model)
    before = {name: p.detach().clone() for name, p in known.items()}
    for name, p in known.items():
        p.register_hook(masks[name].double().mul)
    for group in growth.optimizer.param_groups:
        group["weight_decay"] = 0.0
    train(growth.model, growth.optimizer, range(3))
    moved = {name: p.detach() != before[name] for name, p in known.items()}
    assert not any((moved[name] & ~masks[name]).any() for name in known)
    down = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(moved[down], masks[down])


def test_reads_and_writes_are_exchanged_in_the_table():
    """Hidden × 2 by even copies, spelled out: producers keep v = 1 and halve γ, consumers the other way round."""
    _, growth = growth_of("llama-hidden-2x")
    found = grow.rates(growth.plan)
    for t in growth.plan.tensors:
        v, g = uniform(growth, t.name)
        reads, writes = READ in t.roles, t.name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight"))
        norm = "norm" in t.name
        assert (v, g) == ((1.0, 0.5) if norm or writes else (0.5, 1.0)), t.name
        assert norm or reads or writes
    assert len(found) == len(growth.plan.tensors)
