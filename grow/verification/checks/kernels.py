"""Attention kernels and batch shapes: the grown model gives one answer under all of them."""

from __future__ import annotations

from grow.architectures import known_architecture
from grow.verification.outputs.compare import Outputs, difference
from grow.verification.outputs.forward_passes import ReadbackArg, guard, judge
from grow.verification.outputs.noise_floors import reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

SDPA = "sdpa"


@guard
def kernels(pair: Pair, *, limit: float = EXACT, readback: ReadbackArg = None) -> Check:
    """The grown model gives one answer, whichever attention kernel and batch shape compute it (true float64).

    What the source does under them is compared in `runtime_dtype`; here a mask, a position or a head that only one
    path reads wrongly would show. Where heads have ALiBi slopes stock code has two answers for the source, too (some
    of it adds the slopes once more without a kernel), and each is compared with its own.
    """
    reference = pair.outputs("grown", "float64")
    variants: dict[str, Outputs] = {}
    skipped = ""
    if not pair.streaming:  # a pass per row would read all weights as often
        variants["one_by_one"] = pair.outputs("grown", "float64", one_by_one=True)
    if pair.supports("grown", SDPA):
        variants["sdpa_attention"] = pair.outputs("grown", "float64", SDPA)
    else:
        skipped = "the class has no sdpa attention"
    if not variants:
        return Check("kernels", "skip", reason=f"{skipped}, and weights come from disk in every pass")
    differences = {name: difference(reference, other) for name, other in variants.items()}
    worst = max(differences, key=lambda name: differences[name].relative)
    more = {"variants": {name: d.relative for name, d in differences.items()}, "skipped": skipped}
    most, why = reproducible_limit(pair, differences[worst].relative, EXACT)
    known = known_architecture(pair.config("source").to_dict())
    twice = known is not None and known.alibi and worst == "sdpa_attention"
    if twice and differences[worst].relative > most and pair.supports("source", SDPA):
        source = pair.outputs("source", "float64", SDPA)
        own = difference(pair.outputs("source", "float64"), source)
        if own.relative > EXACT:
            apart = difference(source, variants[worst], readback)
            limit, why = reproducible_limit(pair, apart.relative, limit)
            claim = f"grown against source, {worst}{why}; the source disagrees with itself there by {own.relative:.3g}"
            return judge("kernels", apart, limit, claim, **more)
    return judge("kernels", differences[worst], most, f"grown against itself, {worst}{why}", **more)
