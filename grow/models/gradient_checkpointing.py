"""Gradient checkpointing, whatever this version of transformers calls it.

5.3 has gradient_checkpointing_enable(arguments); later releases warn of it and have activation_checkpointing_enable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any


def enable(model: Any, arguments: Mapping[str, Any] | None) -> None:
    """Blocks compute their activations again; `arguments` are those of torch.utils.checkpoint, None: the stock ones."""
    switch_on = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch_on(None if arguments is None else dict(arguments))


def enabled(model: Any) -> bool:
    """Whether a block computes its activations again. The blocks say it: what the model says is deprecated, or new."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def arguments(model: Any) -> dict[str, Any] | None:
    """The arguments with which it was enabled, None where they cannot be seen."""
    functions = (getattr(module, "_gradient_checkpointing_func", None) for module in model.modules())
    return next((dict(f.keywords) for f in functions if isinstance(f, partial)), None)
