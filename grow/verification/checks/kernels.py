"""Attention kernels and batch shapes: the grown model gives one answer under all of them."""

from __future__ import annotations

from grow.verification.outputs.compare import Outputs, difference
from grow.verification.outputs.forward_passes import guard, judge
from grow.verification.outputs.noise_floors import reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check


@guard
def kernels(pair: Pair) -> Check:
    """The grown model gives one answer, whichever attention kernel and batch shape compute it (true float64).

    What the source does under them is compared in `runtime_dtype`; here a mask, a position or a head that only one
    path reads wrongly would show.
    """
    reference = pair.outputs("grown", "float64")
    variants: dict[str, Outputs] = {}
    skipped = ""
    if not pair.streaming:  # a pass per row would read all weights as often
        variants["one_by_one"] = pair.outputs("grown", "float64", one_by_one=True)
    if pair.supports("grown", "sdpa"):
        variants["sdpa_attention"] = pair.outputs("grown", "float64", "sdpa")
    else:
        skipped = "the class has no sdpa attention"
    if not variants:
        return Check("kernels", "skip", reason=f"{skipped}, and weights come from disk in every pass")
    differences = {name: difference(reference, other) for name, other in variants.items()}
    worst = max(differences, key=lambda name: differences[name].relative)
    more = {"variants": {name: d.relative for name, d in differences.items()}, "skipped": skipped}
    limit, why = reproducible_limit(pair, differences[worst].relative, EXACT)
    return judge("kernels", differences[worst], limit, f"grown against itself, {worst}{why}", **more)
