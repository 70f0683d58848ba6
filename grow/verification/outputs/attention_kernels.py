"""A loaded model switched to another attention kernel."""

from __future__ import annotations

from typing import Any

from grow.models.true_float64 import quiet


def use_attention(model: Any, attention: str | None) -> bool:
    """Let a loaded model use another attention kernel; False where its class does not switch, or its parts differ."""
    configs = [model.config, *(getattr(model.config, name) for name in getattr(model.config, "sub_configs", {}))]
    now = {getattr(config, "_attn_implementation", None) for config in configs if config is not None}
    if now == {attention}:
        return True
    if attention is None or len(now) != 1:
        return False
    try:
        with quiet():
            model.set_attn_implementation(attention)
    except (AttributeError, ValueError, ImportError):
        return False
    return getattr(model.config, "_attn_implementation", None) == attention
