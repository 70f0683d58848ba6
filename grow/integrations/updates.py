"""Updates of new entries scaled, or old entries frozen, under any training loop.

Hooks of the optimizer do it, so it works inside `Trainer` and Accelerate, with any scheduler, accumulation and
clipping. The arithmetic is that of `grow train --rewarm` and `--freeze-old`.
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
    """From now on `optimizer.step()` treats new entries apart, until `remove()`.

        updates = NewEntryUpdates(optimizer, model, growth, rewarm=(1.25, 250))

    optimizer   torch's, or what Accelerate made of it; of a list, one object each
    growth      what made the model: a `Growth`, a `Plan`, or a folder with grow.json
    scale       updates of new entries are multiplied with it, in every step
    rewarm      (ratio, steps): up from 0 in the first tenth of the steps, then `ratio` until they are over, then 1
    freeze_old  old entries keep their bits, weight decay included; their gradient is 0 in norms and moments
    step        how many steps were taken since the growth. Unless given: what the optimizer's first group says in
                "new_entry_steps", where it is counted, so that saving and loading the optimizer's state resumes it

    Sharded parameters are cut like their masks: build it after they were sharded. Raises BadInput.
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
        if freeze_old:  # before anybody clips: what is frozen counts in no norm
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
        """Steps are the optimizer's own again."""
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
    """BadInput for a scale or a re-warming that is none."""
    if not isinstance(scale, (int, float)) or not 0 <= scale < 100:
        why = "0 holds new entries where they are"
        raise BadInput(f"scale={scale}", what="must be a number from 0 to 100", why=why, fix="scale=1")
    if rewarm is None:
        return
    try:
        ratio, steps = rewarm
        good = 0 < ratio < 100 and type(steps) is int and steps > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        why = "new entries take ratio times the rate at first"
        raise BadInput(
            f"rewarm={rewarm}", what="must be (ratio, steps), both above 0", why=why, fix="rewarm=(1.25, 250)"
        )


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """What Accelerate's wrapper holds; BadInput for what is not an optimizer."""
    while type(optimizer).__module__.startswith("accelerate.") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadInput(
            "optimizer",
            what=f"is a {type(optimizer).__name__}, wanted a torch.optim.Optimizer",
            why="its steps are what is changed",
            fix="optimizer=torch.optim.AdamW(model.parameters())",
        )
    return optimizer


@torch.no_grad()
def _mask(new: torch.Tensor, p: torch.Tensor) -> None:
    if p.grad is not None:
        p.grad.mul_(new.to(p.grad.device))
