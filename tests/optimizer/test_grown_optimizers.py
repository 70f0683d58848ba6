"""The grown state is the state that the grown model would have, under every policy."""

from __future__ import annotations

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
    as_list,
    backward,
    carried,
    growth_of,
    no_gradient,
    parameters,
    source,
    states,
    still,
    train,
    widen,
)

import grow
import grow.optimizer.dual_rule
from grow.optimizer.dual_rule import factors, grow_factored, grow_moment, new_entries_of, rates_of

# Every class: the grown state is the state that the grown model would have


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
    """Every carried entry of V = row · col / mean(row) is γ² times the old one, whatever is fresh."""
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


def test_moments_grow_alike_in_numpy_and_torch():
    _, growth = growth_of("llama-copies")
    for t in growth.plan.tensors:
        moment = torch.randn(t.shape, generator=torch.Generator().manual_seed(0))
        for power in (1, 2):
            numpy = grow_moment(t, moment.numpy(), power)
            assert numpy.dtype == np.float32
            assert np.array_equal(grow_moment(t, moment, power).numpy(), numpy)


# Policies


@NAMED
def test_every_old_entry_is_carried_by_exactly_one_that_is_not_new(name):
    """With old entries numbered, each number appears once among the entries that are not new."""
    _, growth = growth_of(name)
    masks = grow.new_entries(growth.plan)
    names = {growth.plan.in_memory.get(t.name, t.name): t.name for t in growth.plan.tensors}
    assert list(masks) == list(names)
    masks = {names[name]: mask for name, mask in masks.items()}
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


def test_an_untied_head_is_new_and_may_carry_the_state_of_its_table():
    model = source("opt-no-final-norm")
    optimizer = adamw(model.parameters())
    train(model, optimizer, range(2))
    kept, shared = (widen(model, {"hidden": 24}, EVEN, optimizer=optimizer, state=s) for s in ("fresh-new", "carry"))
    assert kept.plan.new_config["tie_word_embeddings"] is False
    assert grow.new_entries(kept.plan)["lm_head.weight"].all()
    assert not states(kept.optimizer, kept.model)["lm_head.weight"]["exp_avg"].any()
    assert states(shared.optimizer, shared.model)["lm_head.weight"]["exp_avg"].any()


@pytest.mark.parametrize("name", ["llama-copies", "llama-all", "bert-all", "gpt2-all"])
def test_each_policy_gives_new_entries_its_state(name):
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


def test_even_copies_diverge_with_a_fresh_state():
    """Equal shares get equal gradients; under "carry" equal state keeps them together."""
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
