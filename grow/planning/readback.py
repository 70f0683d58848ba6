"""Where the old coordinates are in a grown hidden state.

maps = read_record(grown).change.maps
source, factor, shared = stream_readback(architecture, maps, final=False)    # compare.Readback's fields
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grow.architectures.architecture import Architecture
from grow.notation.maps import AxisMap
from grow.planning.row_maps import tie_factor


def output_readback(source: Architecture, maps: Mapping[str, AxisMap]) -> tuple[np.ndarray, np.ndarray] | None:
    """How to read an output of hidden size: behind a last norm with a gain every copy is the old coordinate."""
    hidden = maps["hidden"]
    if hidden.is_identity:
        return None
    return np.maximum(hidden.source, -1), hidden.gain * hidden.write if source.norm_is_affine else hidden.write


def stream_readback(
    source: Architecture, maps: Mapping[str, AxisMap], *, final: bool
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """How to read a hidden state: (source, factor, shared) as in `compare.Readback`, None when unchanged.

    final  the last one; behind a final norm every copy is the old coordinate, or its share in front of a tied head
    """
    hidden = maps["hidden"]
    if hidden.is_identity:
        return None
    normed = final and not source.stream_is_bare and source.norm_is_affine and source.holds(source.family.norm.last)
    tied = normed and shares_final_norm(source)
    factor = hidden.gain * hidden.write if normed and not tied else hidden.write
    if tied:
        factor = factor / tie_factor(source, maps)
    return np.maximum(hidden.source, -1), factor, tied


def shares_final_norm(source: Architecture) -> bool:
    """Whether the norm in front of a tied head shares its gain among copies, as `grow.planning.assemble` decides it."""
    rows = {row.name: row for row in source.rows}
    table = rows.get(source.tie.table) if source.tie else None
    return table is not None and "hidden" in table.signature.axes and any(name in rows for name in source.tie_norms)


def fold(
    y: np.ndarray, n: int, source: np.ndarray, factor: np.ndarray, shared: bool = False
) -> tuple[np.ndarray, float, str]:
    """(rows, m) grown -> (rows, n) in the source's coordinates, how far copies of one are apart, and what is wrong.

    The first copy of each coordinate is taken, so with the second number 0 all of them are what was taken.
    """
    old = np.flatnonzero(source >= 0)
    if source.shape != factor.shape or source.shape != (y.shape[1],):
        return y, 0.0, f"grow.json maps to a width of {len(source)}, the model has {y.shape[1]}"
    if not np.array_equal(np.unique(source[old]), np.arange(n)):
        return y, 0.0, f"grow.json covers {len(np.unique(source[old]))} of the {n} old coordinates"
    if not (np.isfinite(factor[old]).all() and factor[old].all()):
        return y, 0.0, "grow.json has a factor that is 0 or not finite"
    where = source[old]
    if shared:
        folded = np.zeros((n, len(y)))
        np.add.at(folded, where, (y[:, old] * factor[old]).T)
        return np.ascontiguousarray(folded.T), 0.0, ""
    copies = y[:, old] / factor[old]
    folded = copies[:, np.unique(where, return_index=True)[1]]
    return folded, float(np.abs(copies - folded[:, where]).max(initial=0.0)), ""
