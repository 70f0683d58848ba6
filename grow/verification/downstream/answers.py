"""What a model answered on its tasks, and whether two models answered the same.

A growth may move each logit by at most D nats (0 but for rounding). Then

    |Δ log-likelihood|  <=  (e^2D - 1) · |log-likelihood|        of every request, however long it is
    two tokens change places only if they lay within 2D of each other

because d log p = Δ_t - Σ p_j Δ_j is at most 2D·(1 - p), and 1 - p <= -log p. A score is a function of the
log-likelihoods, so one that differs while all of these agree was decided by less than that: a tie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grow.verification.rungs import EXACT

LEAST = 1.0  # nats; a log-likelihood nearer to 0 is held to the limit of this one, because log-softmax itself rounds


@dataclass(frozen=True)
class Answer:
    """One sample.

    likelihoods  nats, one per request
    choices      (what was chosen, by how many nats): a text, a token, "is it the greedy one"; nan if nobody measured
    scores       metric -> this sample's share in it
    """

    likelihoods: tuple[float, ...] = ()
    choices: tuple[tuple[Any, float], ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """Everything one model answered: task -> metric -> score, task -> sample -> Answer.

    spread  standard deviation of its logits over the inputs of the tasks, in nats
    """

    scores: dict[str, dict[str, Any]]
    samples: dict[str, dict[str, Answer]]
    spread: float


def compare(source: Answers, grown: Answers, tolerance: float) -> list[dict[str, Any]]:
    """One row per task and metric, JSON-ready.

    tolerance  how far a logit may move, in standard deviations of the source's logits: D = tolerance · spread
    row        task, metric, source and grown (the scores), samples, per_sample_agree (how many scored the same);
               relative: largest |Δ log-likelihood| / max(|log-likelihood|, 1 nat), limit: how large it may be,
               where: the sample; ties: samples whose score differs although every log-likelihood agrees;
               same: None when a choice differs of which nobody knows how level it was; reason
    """
    rows = []
    for task, samples in source.samples.items():
        others = grown.samples.get(task, {})
        verdict = _verdict(samples, others, tolerance * source.spread, exact=tolerance <= EXACT)
        for metric, score in source.scores[task].items():
            moved = [
                f"#{name}"
                for name, answer in samples.items()
                if name not in others
                or not _alike(answer.scores.get(metric), others[name].scores.get(metric), verdict["limit"])
            ]
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "source": score,
                    "grown": grown.scores.get(task, {}).get(metric),
                    "samples": len(samples),
                    "per_sample_agree": len(samples) - len(moved),
                    "ties": moved if verdict["same"] else [],
                    **verdict,
                }
            )
    return rows


def _verdict(a: Mapping[str, Answer], b: Mapping[str, Answer], moves: float, *, exact: bool) -> dict[str, Any]:
    """What all rows of one task share: relative, limit, where, same, reason."""
    limit = math.expm1(min(2 * moves, 500.0))  # e^500 limits nothing, and no overflow either
    worst, where = 0.0, ""
    wrong: list[tuple[float, str]] = []
    unknown: list[str] = []
    for name, wanted in a.items():
        answer = b.get(name, Answer())
        if (len(wanted.likelihoods), len(wanted.choices)) != (len(answer.likelihoods), len(answer.choices)):
            wrong.append((math.inf, f"#{name} was answered in another number of parts"))
            continue
        far, text = max(
            ((_apart(p, q), f"{p:.9g} -> {q:.9g}") for p, q in zip(wanted.likelihoods, answer.likelihoods)),
            default=(0.0, ""),
        )
        if far > worst:
            worst, where = far, f"#{name}"
        if not far <= limit:
            wrong.append((far, f"#{name}: log-likelihood {text}, {far:.3g} > {limit:.3g}"))
            continue
        for (p, lead), (q, _) in zip(wanted.choices, answer.choices):
            if p != q and not lead <= 2 * moves:
                text = f"#{name}: {_short(p)} -> {_short(q)}"
                if math.isnan(lead) and not exact:
                    unknown.append(f"{text}, and nobody knows how level the two were")
                else:
                    wrong.append((0.0, text))
                break
    named = [text for _, text in sorted(wrong, key=lambda item: -item[0])] or unknown
    more = f" (and {len(named) - 1} more samples)" if len(named) > 1 else ""
    return {
        "relative": worst,
        "limit": limit,
        "where": where,
        "same": False if wrong else None if unknown else True,
        "reason": named[0] + more if named else "",
    }


def _apart(p: float, q: float) -> float:
    """|p - q| / max(|p|, 1 nat); infinite when either is not a number."""
    gap = 0.0 if p == q else abs(p - q) / max(abs(p), LEAST)
    return math.inf if math.isnan(gap) else gap


def _alike(x: Any, y: Any, limit: float) -> bool:
    """Whether one sample scored the same: counts exactly, log-likelihoods within their limit."""
    if isinstance(x, (tuple, list)) and isinstance(y, (tuple, list)):
        return len(x) == len(y) and all(_alike(p, q, limit) for p, q in zip(x, y))
    if isinstance(x, float) and isinstance(y, float) and not (x.is_integer() and y.is_integer()):
        return _apart(x, y) <= limit
    return bool(x == y)


def _short(choice: Any, length: int = 60) -> str:
    text = repr(choice)
    return text if len(text) <= length else f"{text[:length]}…"
