"""ALiBi: every old head goes to where the longer list of slopes has its slope.

Head i of H adds -2^-e_i times the distance to its scores (2108.12409, and its reference code where H is no power of
two). The exponents e_i follow from H alone. Those of H are among those of every H' ≥ H, at other places, so that an
old head that lies there sees the distances that it saw; the heads in between are new.
"""

from __future__ import annotations

import numpy as np


def exponents(heads: int) -> list[float]:
    """e_i of every head; exact, since all are sums of powers of two.

    The largest power of two p ≤ H has 8/p, 16/p, …, 8; the other heads have every other exponent of 2p heads.
    """
    p = 1 << (heads.bit_length() - 1)
    return [8 * k / p for k in range(1, p + 1)] + [4 * k / p for k in range(1, 2 * (heads - p), 2)]


def places(heads: int, new_heads: int) -> np.ndarray:
    """(heads,) where each old head lies among more: the place with its slope."""
    where = {exponent: i for i, exponent in enumerate(exponents(new_heads))}
    return np.array([where[exponent] for exponent in exponents(heads)], dtype=np.int64)
