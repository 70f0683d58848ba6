"""The variables that torchrun sets for a process, each a number in its range or one error."""

from __future__ import annotations

import os

from grow.errors import BadInput


def environment(name: str, default: int | None, most: int, least: int = 0) -> int:
    """The number that a variable holds; BadInput where it is not from `least` to `most`, or unset without a default."""
    text = os.environ.get(name, "")
    if not text:
        if default is None:
            raise misset(name, "is not set", "torchrun sets it")
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        what = f"is not a number from {least} to {most}"
        raise misset(f"{name}={text}"[:60], what, "torchrun sets it", name)
    return int(text)


def misset(where: str, what: str, why: str, name: str = "") -> BadInput:
    """The error for a variable that is not as torchrun sets it; `name` can be unset instead."""
    fix = "torchrun --nproc-per-node N -m grow …, or for one process: unset WORLD_SIZE RANK LOCAL_RANK"
    error = BadInput(where, what=what, why=why, fix=f"unset {name}, or {fix}" if name else fix)
    error.alone = True  # type: ignore[attr-defined]  # which of the processes this is cannot be said
    return error
