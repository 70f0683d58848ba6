"""How far a model with experts is from what it grew from."""

from __future__ import annotations

import json

import torch
import transformers
from models import difference, outputs

EXACT = 1e-12  # as in test_lossless: some roundings of 2^-53 in a row


def old_vocabulary(found: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    return {name: value[..., :size] for name, value in found.items()}


def apart(source, folder) -> float:
    """How far the outputs are apart on the source's tokens, on ids and logits that both have."""
    size = json.loads((source / "config.json").read_text())["vocab_size"]
    grown = json.loads((folder / "config.json").read_text())
    before = outputs(source)
    if grown["vocab_size"] == size:
        return difference(before, outputs(folder))
    from models import Float64, inputs, load

    with Float64(), torch.no_grad():
        given = inputs(transformers.AutoConfig.from_pretrained(source), 17)
        after = {"logits of 17": load(folder)(**given).logits}
    return difference(before, old_vocabulary(after, size))
