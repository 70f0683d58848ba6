"""Units that an activation cuts off on every probe, compared while the activation leaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from grow.errors import listing
from grow.verification.checks.unreached_findings import Search

LEAK = 0.5  # of what an activation cuts off: any scale above 0 that both models share would do


def compare_units(search: Search, cut_off: dict[str, int]) -> None:
    """The models still agree when what their activations cut off is let through; `cut_off` counts units by module."""
    cut = {name: count for name, count in cut_off.items() if count}
    search.findings.counts["units cut off"] = sum(cut.values())
    if not cut:
        return
    with _leaking(search.pair.model("source", "float64")), _leaking(search.pair.model("grown", "float64")):
        relative = search.apart(search.plain_probe)
    if not relative <= search.limit:
        why = f"{sum(cut.values())} units are switched off on every probe ({listing(sorted(cut))})"
        search.unseen(f"{why}, and where they are let through the models differ by {relative:.3g} std", *sorted(cut))


class ActiveUnits(contextlib.AbstractContextManager):
    """Inside, `cut_off` counts for each activation the units whose output was 0 on every token, unlike their input."""

    def __init__(self, model: Any) -> None:
        self.model, self.alive = model, dict[str, torch.Tensor]()

    def __enter__(self) -> ActiveUnits:
        self.hooks = [m.register_forward_hook(self._hook(name)) for name, m in _activations(self.model)]
        return self

    def __exit__(self, *exc: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        def note(module: Any, given: tuple, out: Any) -> None:
            if len(given) == 1 and isinstance(out, torch.Tensor) and out.shape == given[0].shape and out.ndim > 1:
                on = ((out != 0) | (given[0] == 0)).reshape(-1, out.shape[-1]).any(0)
                known = self.alive.get(name)
                if known is None or known.shape == on.shape:
                    self.alive[name] = on if known is None else known | on

        return note

    @property
    def cut_off(self) -> dict[str, int]:
        return {name: int((~on).sum()) for name, on in self.alive.items()}


def _activations(model: Any) -> Iterator[tuple[str, Any]]:
    """Modules without weights and parts of their own: activations are among them."""
    for name, module in model.named_modules():
        parts = (*module.children(), *module.parameters(), *module.buffers())
        if not parts and not isinstance(module, (torch.nn.Identity, torch.nn.Dropout)):
            yield name, module


@contextlib.contextmanager
def _leaking(model: Any) -> Iterator[None]:
    """Inside, what an activation makes 0 of something else is let through, `LEAK` of it. Units that share an input, or
    a positive multiple of it, share this too, so copies stay copies."""

    def leak(module: Any, given: tuple, out: Any) -> Any:
        if len(given) == 1 and isinstance(out, torch.Tensor) and out.shape == given[0].shape:
            return torch.where((out == 0) & (given[0] != 0), LEAK * given[0], out)
        return None

    hooks = [module.register_forward_hook(leak) for _, module in _activations(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
