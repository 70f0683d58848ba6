"""Growths, losses and stock optimizers, and how trajectories are compared on the entries that carry an old one."""

from __future__ import annotations

import models
import pytest
import torch
from models import Float64

import grow
import grow.optimizer.dual_rule
from grow.optimizer.dual_rule import rates_of

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


def growth_of(name: str, table=GROWTHS):
    variant, to, options = table[name][:3]
    model = source(variant)
    return model, widen(model, to, options)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.02)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=3e-3, eps=1e-4, weight_decay=0.02, amsgrad=True)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3, eps=1e-4, weight_decay=0.1)


def uniform(growth, name: str) -> tuple[float, float]:
    """v and γ where a parameter has one of each."""
    rate = grow.rates(growth.plan)[name]
    assert rate.value.unique().numel() == rate.gradient.unique().numel() == 1
    return rate.value.flatten()[0].item(), rate.gradient.flatten()[0].item()


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
