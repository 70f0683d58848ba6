"""One plain training loop for every method."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from grow.comparison.summary import Curve
from grow.comparison.text_batches import BATCH, Text
from grow.models.true_float64 import LOCAL, load, model_class, quiet

CLIP = 1.0  # the largest norm of the gradient
WARM = 0.1  # the share of the steps in which the rate rises; then it falls to 0 linearly
POINTS = 10  # how often the held-out loss is measured
BACKWARD = 3  # a step costs as much as so many forward passes


def loss_of(model: Any, text: Text) -> float:
    """Nats per predicted token of the held-out text."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in text.held_out_batches():
            predicted = int((batch["labels"][:, 1:] if text.mask is None else batch["labels"]).ge(0).sum())
            total, count = total + float(model(**batch).loss) * predicted, count + predicted
    return total / count


def opened(folder: Path) -> Any:
    """The checkpoint in float32."""
    return load(folder, "float32").model


def from_scratch(folder: Path, seed: int) -> Any:
    """A stock model with the checkpoint's config and the initialisation that transformers gives it."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
        model: Any = model_class(folder)
        return model(config).float().eval()


def schedule(step: int, steps: int) -> float:
    """The share of the rate at step 1 … steps: it rises linearly, then falls linearly."""
    warm = max(1.0, WARM * steps)
    return min(step / warm, (steps - step + 1) / (steps - warm + 1))


def train(
    model: Any,
    text: Text,
    steps: int,
    rate: float,
    flops_per_token: float,
    progress: Callable[[int], None] = lambda step: None,
) -> Curve:
    """`steps` steps of AdamW (weight decay 0, gradients clipped to norm 1) on batches of `text`; changes `model`."""
    started = time.monotonic()
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    per_step = BACKWARD * flops_per_token * BATCH * text.length
    every = max(1, steps // POINTS)
    losses, heldout = [], [(0, 0.0, loss_of(model, text))]
    for step, batch in enumerate(text.batches(steps), 1):
        progress(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps)
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % every == 0 or step == steps:
            heldout.append((step, step * per_step, loss_of(model, text)))
    return Curve(tuple(losses), tuple(heldout), time.monotonic() - started)
