"""Scaled updates of new entries, or frozen old entries, under any training loop.

Hooks of the optimizer do this, so it works inside `Trainer` and Accelerate, with any scheduler, accumulation and
clipping. The arithmetic is that of `rewarm` and `freeze_old` in `grow.train`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from grow.errors import BadInput
from grow.integrations.groups import tensors_from
from grow.training.after_growth.new_entries import NewEntries

STEPS = "new_entry_steps"  # in the optimizer's first group, so that its state_dict carries it


class NewEntryUpdates:
    """Until `remove()`, `optimizer.step()` treats new entries differently from old ones.

        updates = NewEntryUpdates(optimizer, model, growth, rewarm=(1.25, 250))

    optimizer   torch's, or Accelerate's wrapper of one; several optimizers need an object each
    growth      what made the model: a `Growth`, a `Plan`, or a folder with grow.json
    scale       the factor of the updates of new entries in every step
    rewarm      (ratio, steps): the factor rises from 0 in the first tenth of the steps, is `ratio` until they are over,
                then 1
    freeze_old  keep the bits of old entries, weight decay included; their gradient is 0 in norms and moments
    step        how many steps were taken since the growth. Default: what the optimizer's first group counts in
                "new_entry_steps", so that loading a saved optimizer state resumes it

    Masks are sharded like their parameters, so build this after the model is sharded. Raises BadInput.
    """

    def __init__(
        self,
        optimizer: Any,
        model: Any,
        growth: Any,
        *,
        scale: float = 1.0,
        rewarm: tuple[float, int] | None = None,
        freeze_old: bool = False,
        step: int | None = None,
    ) -> None:
        self.optimizer = bare(optimizer)
        check_updates(scale, rewarm)
        self.entries = NewEntries(model, tensors_from(growth), rewarm=rewarm, freeze_old=freeze_old, scale=scale)
        own = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.entries.parts = [(p, new) for p, new in self.entries.parts if id(p) in own]
        if not self.entries.parts:
            raise BadInput(
                "optimizer",
                what="has none of the model's parameters",
                why="its steps move another model",
                fix="the optimizer that was built from this model's parameters",
            )
        first = self.optimizer.param_groups[0]
        first[STEPS] = first.get(STEPS, 0) if step is None else step
        self._handles: list[Any] = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]
        if freeze_old:  # this comes before clipping, so that frozen entries count in no norm
            self._handles += [
                p.register_post_accumulate_grad_hook(partial(_mask, new))
                for p, new in self.entries.parts
                if p.requires_grad
            ]

    @property
    def step(self) -> int:
        """Steps since the growth."""
        return self.optimizer.param_groups[0].get(STEPS, 0)

    def remove(self) -> None:
        """Give the optimizer its own steps back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, *_: Any) -> None:
        self.entries.mask_gradients()
        self.entries.before(self.step)

    def _after(self, *_: Any) -> None:
        self.entries.after(self.step)
        self.optimizer.param_groups[0][STEPS] = self.step + 1


def check_updates(scale: Any, rewarm: Any) -> None:
    """BadInput for a scale or a re-warming that new entries cannot have."""
    if not isinstance(scale, (int, float)) or not 0 <= scale < 100:
        why = "it is a factor, and 0 leaves new entries as they are"
        raise BadInput(f"scale={scale}", what="must be a number from 0 to 100", why=why, fix="scale=1")
    if rewarm is None:
        return
    try:
        ratio, steps = rewarm
        good = 0 < ratio < 100 and type(steps) is int and steps > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        why = "updates of new entries are multiplied by the ratio for so many steps"
        raise BadInput(
            f"rewarm={rewarm}", what="must be (ratio, steps), both above 0", why=why, fix="rewarm=(1.25, 250)"
        )


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's wrapper; BadInput for anything else than an optimizer."""
    while type(optimizer).__module__.startswith("accelerate.") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadInput(
            "optimizer",
            what=f"must be a torch.optim.Optimizer, got {type(optimizer).__name__}",
            why="its steps are changed",
            fix="optimizer=torch.optim.AdamW(model.parameters())",
        )
    return optimizer


@torch.no_grad()
def _mask(new: torch.Tensor, p: torch.Tensor) -> None:
    if p.grad is not None:
        p.grad.mul_(new.to(p.grad.device))
