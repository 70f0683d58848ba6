"""Tasks for encoders: masked words and the similarity of sentences.

mlm_heldout   accuracy and mean -log p of words masked in held-out text
similarity    cosine similarities of 40 sentences, by three usual poolings of the last hidden state
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from grow.checkpoint.pickled import open_readable
from grow.errors import BadInput
from grow.models.true_float64 import forward
from grow.planning.record import read_record
from grow.spelling import option
from grow.verification.downstream.answers import Answer, Answers
from grow.verification.weights.recorded_growth import Replay

DATA = Path(__file__).parent / "data"
OWN = ("mlm_heldout", "similarity")
LONGEST = 128  # tokens of a text
MASKED = 0.15  # share of the tokens, as BERT was trained
POOLINGS = ("mean of the tokens", "first token", "last token")


def masked_words(model: Any, tokenizer: Any, *, limit: int | None = None) -> Answers:
    """What a masked LM answers on the first `limit` of 20 passages; a sample is a masked token, "3.17" the 17th of
    passage 3. The masks are drawn from a fixed seed."""
    if tokenizer.mask_token_id is None:
        what, why = "the tokenizer has no mask token", "the task masks words"
        raise BadInput(option(tasks=["mlm_heldout"]), what=what, why=why, fix=option(tasks=["similarity"]))
    lines = (DATA / "grow_heldout.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    draw = np.random.default_rng(0)
    samples: dict[str, Answer] = {}
    spreads = []
    for number, line in enumerate(lines):
        ids = _ids(model, tokenizer, json.loads(line)["text"])
        special = set(tokenizer.all_special_ids)
        words = [k for k, token in enumerate(ids[0].tolist()) if token not in special]
        chosen = [k for k, u in zip(words, draw.random(len(words))) if u < MASKED] or words[:1]
        masked = ids.clone()
        masked[0, chosen] = tokenizer.mask_token_id
        with forward(model):
            logits = model(input_ids=masked, attention_mask=torch.ones_like(masked)).logits[0].double()
        spreads.append(float(logits.std()))
        for k in chosen:
            right = int(ids[0, k])
            p = torch.log_softmax(logits[k], -1)
            best = p.topk(2)
            lead = float(best.values[0] - best.values[1])
            first, nats = int(best.indices[0]), -float(p[right])
            samples[f"{number}.{k}"] = Answer((-nats,), ((first, lead),), {"acc": float(first == right), "nats": nats})
    scores = {name: float(np.mean([a.scores[name] for a in samples.values()])) for name in ("acc", "nats")}
    spread = math.sqrt(float(np.mean(np.square(spreads))))
    return Answers({"mlm_heldout": scores}, {"mlm_heldout": samples}, spread)


class Embeddings(NamedTuple):
    """pooled (3 poolings, sentences, hidden); spread: standard deviation of the last hidden states"""

    pooled: torch.Tensor
    spread: float


def embed(model: Any, tokenizer: Any, *, limit: int | None = None) -> Embeddings:
    """The first `limit` of 40 sentences, one at a time, so that no pooling sees padding; heads are left out."""
    base = model.base_model
    rows, spreads = [], []
    for sentence in (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()[:limit]:
        ids = _ids(model, tokenizer, sentence)
        with forward(model):
            hidden = base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].double()
        spreads.append(float(hidden.std()))
        rows.append(torch.stack([hidden.mean(0), hidden[0], hidden[-1]]))
    return Embeddings(torch.stack(rows, 1), math.sqrt(float(np.mean(np.square(spreads)))))


def compare_cosines(source: Embeddings, grown: Embeddings, tolerance: float, unequal: str) -> list[dict[str, Any]]:
    """One row per pooling, keys as in `answers.compare`; the score is the mean cosine of two sentences.

    Cosines stay when each old coordinate weighs as much as every other one: at whole multiples, where all have the
    same number of copies, and with `silent` or `mean` coordinates, which scale the old ones alike and are 0 behind
    the last norm. They change when copies are uneven or carry shares; the model's outputs are the same even so.

    tolerance  how far a hidden coordinate may move, in standard deviations of the source's: a pooled vector x turns
               by at most tolerance · spread / rms(x), and a cosine changes by at most the turns of both
    unequal    why the coordinates weigh differently, "" when they do not: rows that differ then say same = None
    """
    rows = []
    for pooling, x, y in zip(POOLINGS, source.pooled, grown.pooled):
        limit = 2 * tolerance * source.spread / float(x.square().mean(-1).sqrt().min())
        a, b = _cosines(x), _cosines(y)
        apart = (a - b).abs().nan_to_num(nan=math.inf)
        worst = float(apart.max())
        i, j = divmod(int(apart.argmax()), len(a))
        same = worst <= limit or (None if unequal else False)
        text = f"#{i} and #{j}: cosine {float(a[i, j]):.9g} -> {float(b[i, j]):.9g}, {worst:.3g} > {limit:.3g}"
        rows.append(
            {
                "task": "similarity",
                "metric": f"cosine, {pooling}",
                "source": _mean(a),
                "grown": _mean(b),
                "samples": len(a),
                "per_sample_agree": int((apart.amax(1) <= limit).sum()),
                "ties": [],
                "relative": worst,
                "limit": limit,
                "where": f"#{i} and #{j}",
                "same": same,
                "reason": "" if same else unequal or text,
            }
        )
    return rows


def unequal_weights(source: Path, grown: Path) -> str:
    """Why old coordinates weigh differently in the grown model's last hidden state, "" if they do not or no grow.json
    says how they grew."""
    record = read_record(grown)
    if record is None:
        return ""
    with open_readable(source) as a, open_readable(grown) as b:
        stream = Replay(record, a, b).stream(final=True)
    if stream is None:
        return ""
    old, factor, shared = stream
    if shared:
        return "not comparable: in front of a tied head each copy carries its own share of the old coordinate"
    weights = np.bincount(old[old >= 0], weights=factor[old >= 0] ** 2)
    if weights.max() - weights.min() <= 1e-9 * weights.max():
        return ""
    return f"not comparable: old coordinates weigh {weights.min():.3g} to {weights.max():.3g} times as much as before"


def _ids(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    # RoBERTa's table of positions begins behind its padding id, so two of its rows are not for tokens
    window = min(LONGEST, getattr(model.config, "max_position_embeddings", LONGEST) - 2)
    return tokenizer(text, truncation=True, max_length=window, return_tensors="pt").input_ids


def _cosines(x: torch.Tensor) -> torch.Tensor:
    unit = x / x.norm(dim=-1, keepdim=True)
    return unit @ unit.T


def _mean(cosines: torch.Tensor) -> float:
    """Over pairs of two different sentences."""
    n = len(cosines)
    return float((cosines.sum() - cosines.diagonal().sum()) / max(n * (n - 1), 1))
