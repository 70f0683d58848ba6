"""The training loss of both models on the same labels."""

from __future__ import annotations

import torch

from grow.models.true_float64 import forward, quiet
from grow.verification.outputs.compare import RUN_ERRORS, spread
from grow.verification.outputs.forward_passes import guard
from grow.verification.outputs.noise_floors import reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import SIDES, Side
from grow.verification.probes import Probe
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

LABELLED = ("random", "left_padded", "right_padded", "masked", "merged")
IGNORED = -100  # the label that a loss of transformers leaves out


@guard
def loss(pair: Pair, *, limit: float = EXACT) -> Check:
    """The training loss on the model's own inputs as labels is the same in true float64.

    A log-likelihood moves by at most twice the largest change of a logit, so the limit is 2 x `limit` x the std of
    the logits (nats).
    """
    if not asks_loss(pair):
        return Check("loss", "skip", reason="the class takes no labels")
    outputs = pair.outputs("source", "float64")
    if not any(key.endswith("/logits") for key in outputs):
        return Check("loss", "skip", reason="the class has no logits")
    std = spread(outputs)["logits"]
    grew = pair.more_tokens
    losses = {side: losses_of(pair, side) for side in SIDES}  # all of one model, then of the other
    by_probe = {name: {side: losses[side][name] for side in SIDES} for name in losses["source"]}
    if not by_probe:
        return Check("loss", "skip", reason="no labels are known for this class")
    worst = max(by_probe, key=lambda name: abs(by_probe[name]["source"] - by_probe[name]["grown"]))
    apart = abs(by_probe[worst]["source"] - by_probe[worst]["grown"])
    limit, _ = reproducible_limit(pair, apart / (2 * std), limit)
    bound = 2 * limit * std
    measured = {"losses": by_probe, "max_abs": apart, "relative": apart / std}
    claim = f"|Δ loss| <= {bound:.3g} nats (2 x the limit of the logits)" + (", among the old tokens" if grew else "")
    passed = apart <= bound
    reason = "" if passed else f"{apart:.3g} > {bound:.3g} on the probe {worst!r}"
    return Check("loss", "pass" if passed else "fail", measured, claim, reason)


def asks_loss(pair: Pair) -> bool:
    """Whether the class takes labels."""
    return pair.accepts("source", "labels")


def losses_of(pair: Pair, side: Side) -> dict[str, float]:
    """Probe -> loss, of one side; asked once."""
    return pair.once(("losses", side), lambda: _losses(pair, side))


def _losses(pair: Pair, side: Side) -> dict[str, float]:
    outputs = pair.outputs("source", "float64")
    vocab = next(outputs.shape(key)[1] for key in outputs if key.endswith("/logits")) if pair.more_tokens else None
    labelled = {p.name: (p, _labels(pair, p)) for p in pair.probes if p.name in LABELLED}
    return {name: _loss(pair, side, p, labels, vocab) for name, (p, labels) in labelled.items() if labels is not None}


def _labels(pair: Pair, probe: Probe) -> torch.Tensor | None:
    """Labels for a probe: its own tokens for a language model, drawn classes for a classifier; else None."""
    name = pair.class_name("source")
    ids = probe.inputs.get("decoder_input_ids", probe.inputs.get("input_ids"))
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")):
        if ids is None or ids.shape != probe.counted.shape:
            return None
        return torch.where(probe.counted, ids, IGNORED)
    draw = torch.Generator().manual_seed(pair.seed)
    classes = getattr(pair.config("source"), "num_labels", 0)
    problem = getattr(pair.config("source"), "problem_type", None)
    if name.endswith("ForSequenceClassification") and problem in ("multi_label_classification", "regression"):
        shape = (len(probe.counted), classes) if classes > 1 or problem != "regression" else (len(probe.counted),)
        return torch.randint(2, shape, generator=draw).to(torch.float64)
    if name.endswith(("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")) and classes > 1:
        return torch.randint(classes, (len(probe.counted),), generator=draw)
    if name.endswith("ForTokenClassification") and classes > 1:
        return torch.where(probe.counted, torch.randint(classes, probe.counted.shape, generator=draw), IGNORED)
    return None


def _loss(pair: Pair, side: Side, probe: Probe, labels: torch.Tensor, vocab: int | None) -> float:
    """The model's own loss; over the first `vocab` tokens where one model has more of them."""
    model = pair.model(side, "float64")
    inputs = {key: value for key, value in probe.arguments(model.dtype).items() if key != "decoder_input_ids"}
    try:
        with forward(model), quiet():
            if vocab is None:
                return float(model(**inputs, labels=labels).loss)
            decoder = {"labels": labels} if "decoder_input_ids" in probe.inputs else {}  # it reads them shifted
            logits = model(**inputs, **decoder).logits[..., :vocab]
    except RUN_ERRORS as error:
        raise pair.blame(side, f"{probe.name!r} with labels: {error}") from error
    if pair.class_name(side).endswith(("ForCausalLM", "LMHeadModel")):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits.reshape(-1, vocab), labels.reshape(-1)))
