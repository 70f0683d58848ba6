"""Where layers are inserted, how they are filled, and the largest difference of the outputs.

Sources have three layers, so that there is a first, a last and one between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import seeded

import grow

# measured 0 to 2e-14; a chain of LayerNorms makes the stream small and large again, which cancels no digits
EXACT = 1e-12

N = 3

FILLS = ("copy", "fresh")


def deepen(source: Path, layers: int, out: Path, **options: Any) -> grow.Growth:
    return grow.deepen(source, layers, out=out, verify=False, seed=3, **options)


def somewhere(variant: str, where: str, layers: int) -> str | list[int]:
    """A place of this kind, drawn from the names."""
    r = seeded(variant, where, layers)
    if where == "after":
        return f"after:{r.randrange(N)}"
    return sorted(r.randrange(N) for _ in range(layers - N)) if where == "list" else where
