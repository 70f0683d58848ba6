"""When growing is not expected to pay, by what the literature has measured.

    doubts(4e9, 1.1e9, source_tokens=3e12)  ->  ["the source has seen 2,727 tokens per parameter: …"]

No doubt stops a growth: a lossless growth is a good start, and whether it beats training from scratch depends on the
budget. The thresholds are where the known gains begin to shrink, not where they end.
"""

from __future__ import annotations

from grow.costs.training_cost import TrainingCost
from grow.planning.parsed_record import Record

OPTIMAL = 20  # tokens per parameter: compute-optimal training from scratch (Hoffmann et al., arXiv 2203.15556)
MANY = 2 * OPTIMAL
LARGEST = 4.0  # times as many parameters, in one growth
SUNK = 2.0  # times the compute of the dense model


def doubts(
    parameters: int,
    source_parameters: int,
    *,
    tokens: int | None = None,
    source_tokens: int | None = None,
    flops: float | None = None,
    source_flops: float | None = None,
    upcycled: bool = False,
) -> list[str]:
    """Reasons why this growth may not pay, each a sentence with its source; [] when none is known.

    tokens, flops               what the grown model will be trained with; None where it is not known
    source_tokens, source_flops what its source was trained with; None where it is not recorded
    upcycled                    whether a dense model became one with experts, which does not use all parameters at once
    """
    sentences = []
    factor = parameters / max(1, source_parameters)
    if factor > LARGEST and not upcycled:
        sentences.append(
            f"one growth multiplies the parameters by {factor:.3g}; two is safe, and two to four are reported to pay "
            "(HyperCloning, arXiv 2409.12903; stacking by 4, arXiv 2405.15319)"
        )
    if source_tokens is not None and source_tokens > OPTIMAL * source_parameters:
        sentences.append(
            f"the source has seen {source_tokens / source_parameters:,.0f} tokens per parameter, more than about "
            f"{OPTIMAL}: an over-trained model starts better and improves more slowly after growth (arXiv 2510.06548)"
        )
    if tokens is not None and tokens > MANY * parameters:
        sentences.append(
            f"the run has {tokens / parameters:,.0f} tokens per parameter: a gain over training from scratch was "
            f"found below about {OPTIMAL} and fades beyond (arXiv 2605.13405)"
        )
    if upcycled and flops is not None and source_flops and flops > SUNK * source_flops:
        sentences.append(
            f"the run takes {flops / source_flops:.3g} times the compute of the dense model: beyond twice, experts "
            "trained from scratch were better (arXiv 2406.06563)"
        )
    return sentences


def doubts_of(record: Record, *, tokens: int, flops: float, source_tokens: int | None = None) -> list[str]:
    """The `doubts` about training a grown checkpoint; [] when it was trained before, or its sizes are not recorded.

    source_tokens  what its source was trained with; None: what is recorded
    """
    sizes, spent = record.raw["plan"].get("parameters"), TrainingCost.of(record.raw["source"].get("spent"))
    if "training" in record.raw or not isinstance(sizes, list) or len(sizes) != 2:
        return []
    return doubts(
        sizes[1],
        sizes[0],
        tokens=tokens,
        source_tokens=source_tokens if source_tokens is not None or spent is None else spent.tokens,
        flops=flops,
        source_flops=None if spent is None else spent.flops,
        upcycled=record.change.upcycling is not None,
    )
