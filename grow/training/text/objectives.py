"""Objectives: what a model learns from a block of tokens.

    causal   (rows, n + 1) ids -> the first n as input, the last n as labels
    masked   (rows, n) ids     -> [CLS] ids [SEP]; 15 % are labels: 80 % of them [MASK], 10 % random, 10 % as they were
    spans    (rows, n) ids     -> input with 15 % of the tokens cut out in spans of 3, each replaced by a sentinel;
                                  labels: sentinel, span, sentinel, span, …, end         T5 (arXiv 1910.10683, 3.1.4)
    infill   (rows, n) ids     -> input with 30 % of the tokens cut out in spans of 3, each replaced by one <mask>;
                                  labels: <s>, the whole text, </s>                     BART (arXiv 1910.13461, 2.2)

BART draws the length of each span from Poisson(3). Here every block has the same number of spans with the same total
length, so that blocks have one length, nothing is padded, and no span is empty.
Draws depend on the seed, the step and the row of the whole batch, so they are the same on any number of processes.
Labels are -100 where nothing is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grow.data.loader import Batch
from grow.errors import Refused
from grow.spelling import option

IGNORED = -100
SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1  # BERT (arXiv 1810.04805)
INFILLED = 0.3  # BART
SPAN = 3  # mean length of a span
SENTINEL = re.compile(r"<extra_id_(\d+)>")


@dataclass(frozen=True)
class Objective:
    """kind      "causal", "masked", "spans" or "infill"
    vocab     ids from which a random token is drawn
    special   ids that are never masked
    frame     (first, last) id around a masked or infilled block, or ()
    mask      the id of [MASK]
    sentinels ids of <extra_id_0>, <extra_id_1>, …; end: the id after input and labels; start: the decoder's first
    """

    kind: str
    vocab: int
    special: tuple[int, ...] = ()
    frame: tuple[int, ...] = ()
    mask: int = 0
    sentinels: tuple[int, ...] = ()
    end: int = 1
    start: int = 0

    def block(self, length: int) -> int:
        """Tokens of the text that fill `length` positions of the model's input."""
        if self.kind in ("masked", "infill"):
            return length - len(self.frame)
        if self.kind == "causal":
            return length
        return max((n for n in range(1, 2 * length) if sum(_kept(n)) + 1 <= length), default=0)

    def apply(self, batch: Batch, *, seed: int, step: int, first: int) -> dict[str, np.ndarray]:
        """Arguments of the model's forward, and "labels"; `first`: the batch's first row in the whole batch."""
        if self.kind == "causal":
            return causal(batch.ids, batch.segments)
        make = {"masked": masked, "spans": spans, "infill": infill}[self.kind]
        rows = [make(self, ids[:-1], draws(seed, step, first + k)) for k, ids in enumerate(batch.ids)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def objective_of(config: Any, tokenizer: Any, architecture: str) -> Objective:
    """The objective of a model's class; Refused where a block of text does not say what to predict."""
    vocab = int(getattr(config, "vocab_size", 0))
    special = tuple(sorted(tokenizer.all_special_ids)) if tokenizer is not None else ()
    if getattr(config, "is_encoder_decoder", False):
        return _encoder_decoder(config, tokenizer, vocab, architecture)
    if architecture.endswith("ForMaskedLM"):
        if tokenizer is None or tokenizer.mask_token_id is None:
            raise _refused(
                architecture, "its tokenizer has no mask token", f"{option(src='SRC')} with a tokenizer in its folder"
            )
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        frame = tuple(i for i in ends if i is not None) if None not in ends else ()
        return Objective("masked", min(vocab, len(tokenizer)), special, frame, tokenizer.mask_token_id)
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return Objective("causal", vocab, special)
    fix = "a checkpoint with a language model head: …ForCausalLM, …LMHeadModel, …ForMaskedLM, T5 or BART"
    raise _refused(architecture, "no objective on plain text is known for it", fix)


def causal(ids: np.ndarray, segments: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every token predicts the next one. With segments (rows, n + 1) documents are kept apart: positions restart,
    `attend` (rows, n, n) is True where a token sees another, and no document predicts the first token of the next."""
    inputs, labels = ids[:, :-1], ids[:, 1:].copy()
    if segments is None:
        return {"input_ids": inputs, "labels": labels}
    here = segments[:, :-1]
    at = np.arange(here.shape[1])
    starts = np.concatenate([np.ones((len(here), 1), bool), here[:, 1:] != here[:, :-1]], axis=1)
    attend = (here[:, :, None] == here[:, None, :]) & (at[:, None] >= at[None, :])
    return {
        "input_ids": inputs,
        "labels": np.where(segments[:, 1:] == here, labels, IGNORED),
        "position_ids": at - np.maximum.accumulate(np.where(starts, at, 0), axis=1),
        "attend": attend,
    }


def masked(objective: Objective, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """One block: special tokens are never chosen, and a random token is never special."""
    chosen = (draw.random(ids.shape) < SHARE) & ~np.isin(ids, objective.special)
    fate = draw.random(ids.shape)
    usual = np.setdiff1d(np.arange(objective.vocab), objective.special)
    inputs = np.where(chosen & (fate < MASKED), objective.mask, ids)
    inputs = np.where(chosen & (fate >= 1 - RANDOM), draw.choice(usual, ids.shape), inputs)
    labels = np.where(chosen, ids, IGNORED)
    if objective.frame:
        first, last = objective.frame
        inputs = np.concatenate([[first], inputs, [last]])
        labels = np.concatenate([[IGNORED], labels, [IGNORED]])
    return {"input_ids": inputs, "labels": labels}


def spans(objective: Objective, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """One block of n tokens: always as many spans of the same total length, cut at places that are drawn.

    Example: the quick brown fox jumps -> input "the <0> fox jumps end", labels "<0> quick brown <1> end"
    """
    cut, begins, count = _cut(len(ids), SHARE, draw)
    sentinels = np.asarray(objective.sentinels)
    number = np.cumsum(begins) - 1
    inputs = np.where(begins, sentinels[np.maximum(number, 0)], ids)[~cut | begins]
    marked = [
        part for k in range(count) for part in ([sentinels[k]], ids[cut & (number == k)])
    ]  # every span after its sentinel
    labels = np.concatenate([*marked, [sentinels[count]], [objective.end]])
    decoder = np.concatenate([[objective.start], labels[:-1]])
    return {"input_ids": np.append(inputs, objective.end), "labels": labels, "decoder_input_ids": decoder}


def infill(objective: Objective, ids: np.ndarray, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """One block of n tokens. Example: the quick brown fox jumps -> input "<s> the <mask> fox jumps </s>", labels
    "<s> the quick brown fox jumps </s>", and the decoder reads them one place to the right."""
    cut, begins, _ = _cut(len(ids), INFILLED, draw)
    first, last = objective.frame
    kept = np.where(begins, objective.mask, ids)[~cut | begins]
    labels = np.concatenate([[first], ids, [last]])
    return {
        "input_ids": np.concatenate([[first], kept, [last]]),
        "labels": labels,
        "decoder_input_ids": np.concatenate([[objective.start], labels[:-1]]),
    }


def draws(seed: int, step: int, row: int) -> np.random.Generator:
    """The random numbers of one row of one step."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, (step << 20) + row], dtype=np.uint64)))


def _cut(n: int, share: float, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """(n,) True for what is cut out, (n,) True where a span begins, and how many spans there are."""
    noise, count = _noise(n, share)
    lengths = np.stack([_parts(n - noise, count, draw), _parts(noise, count, draw)], axis=1).reshape(-1)
    cut = np.repeat(np.tile([False, True], count), lengths)
    return cut, np.concatenate([[False], ~cut[:-1] & cut[1:]]), count


def _noise(n: int, share: float = SHARE) -> tuple[int, int]:
    """How many of n tokens are cut out, and in how many spans."""
    noise = min(max(round(n * share), 1), n - 1)
    return noise, max(1, min(round(noise / SPAN), n - noise))


def _kept(n: int) -> tuple[int, int]:
    """How many of n tokens stay, and how many sentinels there are: one per span."""
    if n < 2:
        return n, 1
    noise, count = _noise(n)
    return n - noise, count


def _parts(total: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """`total` in `count` parts, each 1 or more; every composition is equally likely."""
    cuts = np.sort(draw.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def _encoder_decoder(config: Any, tokenizer: Any, vocab: int, architecture: str) -> Objective:
    """The objective of spans where the tokenizer has sentinels, of infilling where it has a mask."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab() if tokenizer is not None else {}
    numbered = sorted((int(hit[1]), i) for name, i in vocabulary.items() if (hit := SENTINEL.fullmatch(name)))
    sentinels = tuple(i for _, i in numbered)
    start = config.decoder_start_token_id
    start = config.pad_token_id if start is None else start
    special = tuple(tokenizer.all_special_ids) if tokenizer is not None else ()
    if sentinels and tokenizer.eos_token_id is not None:
        return Objective("spans", vocab, special, sentinels=sentinels, end=tokenizer.eos_token_id, start=start)
    if tokenizer is not None and tokenizer.mask_token_id is not None:
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        if None not in ends:
            return Objective("infill", vocab, special, ends, tokenizer.mask_token_id, start=start)
    fix = "a T5 checkpoint with its tokenizer (<extra_id_0>, …), or BART's (<mask>)"
    raise _refused(architecture, "its tokenizer has neither sentinels nor a mask", fix)


def _refused(where: str, what: str, fix: str) -> Refused:
    return Refused(where, what=what, why="causal, masked and span objectives are built from token ids alone", fix=fix)
