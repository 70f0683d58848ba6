"""After a default growth every new parameter learns: nothing is dead, and no two copies are locked together."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import models
import numpy as np
import pytest
import torch

import grow
from grow.notation.axes import READ
from grow.planning.layers import chain_scales
from grow.zoo import bundled_path

CASES = [
    ("llama-tied", {"hidden": 36, "heads": 12, "kv_heads": 4, "ffn": 61}),
    ("llama", {"hidden": 24, "heads": 8, "kv_heads": 2, "head_dim": 12}),
    ("qwen3", {"head_dim": 16, "hidden": 36}),
    ("qwen3", {"head_dim": 12, "ffn": 40}),
    ("gpt2", {"hidden": 24, "heads": 6, "ffn": 100}),
    ("gpt2", {"hidden": 20, "heads": 5}),
    ("gpt_neox", {"hidden": 39}),
    ("opt", {"hidden": 21, "ffn": 30}),
    ("bert-mlm", {"hidden": 24, "heads": 4, "ffn": 50}),
]
STEPS = 4


def train(model) -> dict[str, torch.Tensor]:
    """Parameter -> which entries ever got a gradient, over a few AdamW steps on tokens that use every table row."""
    model = model.double().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    draw = torch.Generator().manual_seed(0)
    vocab = model.config.vocab_size
    alive = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for _ in range(STEPS):
        ids = torch.stack([torch.randperm(vocab, generator=draw) for _ in range(6)])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                alive[name] |= p.grad != 0
        optimizer.step()
    return alive


def dead(growth) -> dict[str, int]:
    """Tensor -> how many entries never got a gradient; lookup rows that the data cannot reach are left out."""
    alive = train(growth.model)
    lookups = ("positions", "types")
    unreachable = {t.name for t in growth.plan.tensors if t.signature.dims[0].labels[0].axis in lookups}
    return {name: int((~a).sum()) for name, a in alive.items() if name not in unreachable and not a.all()}


def twins(growth) -> list[str]:
    """Tensors in which two copies of a producer's row are still equal after training."""
    state = dict(growth.model.named_parameters())
    found = []
    for t in growth.plan.tensors:
        rows = t.maps[0]
        if rows is None or t.roles[0] == READ or len(t.maps) < 2 or len(rows.layers) < 2:
            continue
        (old_a, a), (old_b, b) = rows.layers[:2]
        a = a[np.isin(old_a, old_b)]
        weight = state[t.name].detach()
        if (weight[torch.from_numpy(a)] == weight[torch.from_numpy(b)]).all(dim=1).any():
            found.append(t.name)
    return found


@pytest.mark.parametrize(
    ("variant", "to"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values()))
)
def test_everything_new_learns(variant, to):
    growth = grow.widen(models.make(variant), to, dtype="float64", verify=False)
    assert dead(growth) == {}
    assert twins(growth) == []


def losses(model, slow: tuple[str, ...] = (), factor: float = 1.0) -> tuple[float, float]:
    """Masked-LM loss on the held-out text before and after two AdamW steps at 1e-4 on other parts of it.

    slow  parts of names of the parameters that take steps of `factor` times the size
    """
    import lzma

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_path("small-bert"))
    with lzma.open(Path(grow.__file__).parent / "zoo" / "heldout.txt.xz", "rt") as file:
        ids = tokenizer(file.read(20_000), return_tensors="pt", add_special_tokens=False).input_ids[0]
    draw, model = torch.Generator().manual_seed(0), model.float().eval()

    def loss(part: int) -> torch.Tensor:
        tokens = ids[part * 512 :][:512].reshape(8, 64)
        mask = torch.rand(tokens.shape, generator=draw.manual_seed(part)) < 0.15
        given = torch.where(mask, tokenizer.mask_token_id, tokens)
        return model(input_ids=given, labels=torch.where(mask, tokens, -100)).loss

    few = [p for name, p in model.named_parameters() if any(part in name for part in slow)]
    rest = [p for name, p in model.named_parameters() if not any(part in name for part in slow)]
    groups = [{"params": rest}, *([{"params": few, "lr": 1e-4 * factor}] if few else [])]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    before = float(loss(5).detach())
    for part in (0, 1):
        optimizer.zero_grad()
        loss(part).backward()
        optimizer.step()
    return before, float(loss(5).detach())


def test_a_chain_of_layer_norms_trains_at_its_own_scale_only():
    """What the README says of training right after a post-norm insertion."""
    from transformers import AutoModelForMaskedLM

    source = AutoModelForMaskedLM.from_pretrained(bundled_path("small-bert"), dtype=torch.float32)
    assert source.config.layer_norm_eps == 1e-12
    growth = grow.deepen(source, 6, dtype="float32", verify=False)
    new = [j for j, inserted in enumerate(growth.plan.change.depth.inserted) if inserted]
    in_front = [f"layer.{j - 1}.{part}" for j in new for part in ("attention.output.LayerNorm", "output.")]
    slow = (*(f"layer.{j}." for j in new), *in_front)
    before, after = losses(source)
    usual = losses(deepcopy(growth.model))
    own = losses(growth.model, slow, chain_scales(1, 1e-12).scale)
    assert abs(usual[0] - before) < 1e-4
    assert usual[1] > after + 2  # nearly as bad as before any training
    assert abs(own[1] - after) < 0.01


def test_even_shares_lock_the_copies():
    growth = grow.widen(models.make("llama"), {"hidden": 36}, split="even", dtype="float64", verify=False)
    dead(growth)
    assert twins(growth)


def test_two_zero_factors_are_dead():
    growth = grow.widen(models.make("llama"), {"ffn": 40}, dtype="float64", verify=False)
    with torch.no_grad():
        for layer in growth.model.model.layers:
            layer.mlp.up_proj.weight[28:] = 0  # beside the zero columns of down_proj
    assert any("mlp" in name for name in dead(growth))
