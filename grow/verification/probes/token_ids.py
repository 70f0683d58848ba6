"""Probes of token ids: random, repeated, padded, far apart, long, masked, and real text."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.errors import Refused
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import quiet
from grow.verification.probes.probe import LENGTH, Probe, Subject

WINDOW_LIMIT = 1024  # the longest sliding window worth overrunning: attention costs length² on a CPU
FAR = 16_384  # positions; a model with more has rotary ones, which are relative: 128 tokens turn them as 512 do
BRIEF = 128
FULL_LIMIT = 512  # the longest row of all others, for the same reason; the whole context of BERT and its kind
CHOICES = 2  # of one question; more would repeat what two show


@dataclass(frozen=True)
class Vocabulary:
    """The ids that probes are drawn from.

    pad      fills what does not count and is never drawn: it changes RoBERTa's position ids and the pooled position
             of classifiers
    end      the last real id of every row and nowhere else, where a model pools at the end of a text
    allowed  every other id that stands for text; those of images and sounds call for inputs that are not there
    """

    size: int
    pad: int | None
    end: int | None
    allowed: np.ndarray

    @classmethod
    def of(cls, config: Any, text: Any, *, end: int | None = None, decoder: bool = False) -> Vocabulary:
        """text  the part of `config` that speaks of tokens; some have a second vocabulary for what is written"""
        fields = ("decoder_vocab_size", "tgt_vocab_size", "vocab_size") if decoder else ("vocab_size", "src_vocab_size")
        size = next((n for n in (getattr(text, field, None) for field in fields) if n), None)
        if not size:
            raise Refused(
                "config.json: vocab_size",
                what="missing",
                why="probes are drawn from the vocabulary",
                fix="add it: the number of rows of the embedding",
            )
        pads = (getattr(part, "pad_token_id", None) for part in (text, config))
        pad = next((id for id in pads if isinstance(id, int) and 0 <= id < size), None)
        end = None if end == pad or not 0 <= (end or 0) < size else end
        avoid = {id for id in (pad, end, *media_tokens(config).values()) if id is not None and id < size}
        return cls(size, pad, end, np.delete(np.arange(size), sorted(avoid)))

    def draw(self, rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
        return self.allowed[rng.integers(0, len(self.allowed), size=(rows, width))]

    def fill(self, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
        """(rows, width): `pad` where nothing is real, `end` at each row's last real position."""
        tokens = np.where(real, tokens, 0 if self.pad is None else self.pad)
        if self.end is not None:
            tokens[np.arange(len(tokens)), real.shape[1] - 1 - real[:, ::-1].argmax(1)] = self.end
        return tokens


def media_tokens(config: Any) -> dict[str, int | None]:
    """The ids of `config` that stand for a piece of an image, a video or a sound, by field."""
    kinds = ("image", "video", "audio", "vision", "boi", "eoi", "boa", "eoa")
    fields = {k: v for k, v in vars(config).items() if k.endswith(("token_id", "token_index"))}
    return {k: v for k, v in fields.items() if any(kind in k for kind in kinds)}


def end_token(config: Any) -> int | None:
    """The id that ends a text."""
    end = getattr(config, "eos_token_id", None)
    return end[0] if isinstance(end, list) else end


def text_probes(subject: Subject, text: Any, *, end: int | None = None) -> tuple[list[Probe], dict[str, str]]:
    """The probes, and what was left out and why.

    random          2 rows of random tokens
    repeated        one token over and over: attention weights are uniform up to position
    single          one token: no context at all
    left_padded     3 rows of different lengths, as batched generation pads them
    right_padded    the same lengths, padded as in training
    far_positions   explicit position ids: spread over a learned table up to its end; with RoPE the last ones in a
                    row. Gaps of a hundred positions, which no text has, make a RoPE model chaotic: SmolLM2-135M then
                    amplifies one rounding of each weight 50 times more than on random tokens, in float64 to 3e-12
    masked          15 % [MASK], for masked language models
    token_types     random segment ids, where the model has them
    beyond_window   longer than the sliding window, up to a window of 1024
    text            real text through the folder's tokenizer, if there is one
    full_context    as long as the positions allow, up to 512; 128 where there are more than 16,384
    global_tokens   two tokens that all others see, where attention is local otherwise
    boxes           a place on a page for every token, where the model has a table of places
    padding_read    the padding token where it is no padding: chat models end with it

    A classifier without a padding id refuses batches, so it gets one row and no padding.
    """
    rng, accepts, name = subject.rng, subject.accepts, subject.cls.__name__
    words = Vocabulary.of(subject.config, text, end=end)
    first, last = usable_positions(text, words.pad)
    t = min(subject.length, last - first)
    batches = words.pad is not None or "SequenceClassification" not in name
    items: list[Probe] = []
    skipped: dict[str, str] = {}

    def ids(rows: int, width: int) -> np.ndarray:
        return words.draw(rng, rows, width)

    def add(name: str, tokens: np.ndarray, real: np.ndarray | None = None, **extra: np.ndarray) -> None:
        counted = np.ones(tokens.shape, bool) if real is None else real
        inputs = {"input_ids": words.fill(tokens, counted), "attention_mask": counted, **extra}
        as_ids = {key: torch.from_numpy(value.astype(np.int64)) for key, value in inputs.items()}
        items.append(Probe(name, as_ids, torch.from_numpy(counted)))

    rows = 2 if batches else 1
    add("random", ids(rows, t))
    add("repeated", np.repeat(ids(1, 1), t, axis=1))
    add("single", ids(rows, 1))
    if batches and t > 2:
        right = right_padding(3, max(3, t // 2))
        add("left_padded", ids(*right.shape), right[:, ::-1].copy())
        add("right_padded", ids(*right.shape), right)
    elif not batches:
        skipped["left_padded"] = skipped["right_padded"] = "the classifier has no pad_token_id and refuses batches"
    if "position_ids" in accepts:
        far = np.arange(last - t, last)
        if not getattr(text, "rope_parameters", None):
            far[:-1] = np.sort(rng.choice(np.arange(first, last - 1), size=t - 1, replace=False))
        add("far_positions", ids(1, t), position_ids=far[None])
    if name.endswith("ForMaskedLM"):
        tokens = ids(rows, t)
        masked = rng.random(tokens.shape) < 0.15
        masked[:, t // 2] = True
        tokens[masked] = _mask_token(subject.folder, words)
        add("masked", tokens)
    if "token_type_ids" in accepts and getattr(text, "type_vocab_size", 0) > 1:
        tokens = ids(rows, t)
        add("token_types", tokens, token_type_ids=rng.integers(0, text.type_vocab_size, size=tokens.shape))
    window = getattr(text, "sliding_window", None)
    if window:
        if t < window + 8 <= last - first and window <= WINDOW_LIMIT:
            add("beyond_window", ids(1, window + 8))
        elif window + 8 > t:
            skipped["beyond_window"] = f"window {window}, positions {last - first}, limit {WINDOW_LIMIT}"
    read = read_text(subject.folder, words, t)
    if isinstance(read, str):
        skipped["text"] = read
    else:
        add("text", read[None])
    full, why = full_context(text, first, t)
    if why:
        skipped["full_context"] = why
    if full:
        add("full_context", ids(1, full))
    if "global_attention_mask" in accepts:
        add("global_tokens", ids(1, t), global_attention_mask=np.isin(np.arange(t), [0, t // 2])[None])
    places = getattr(text, "max_2d_position_embeddings", None)
    if "bbox" in accepts and places:
        corners = np.sort(rng.integers(0, places, size=(rows, t, 2, 2)), axis=2)
        add("boxes", ids(rows, t), bbox=corners.reshape(rows, t, 4))
    if words.pad is not None and t > 2:
        tokens = ids(1, t)
        tokens[:, [1, t // 2]] = words.pad
        add("padding_read", tokens)
    return items, skipped


def choices(probe: Probe) -> Probe:
    """(rows, length) -> (rows, choices, length): each row and the next are two answers to one question."""

    def pair(value: torch.Tensor) -> torch.Tensor:
        return torch.stack([value.roll(-k, 0) for k in range(CHOICES)], 1)

    return replace(probe, inputs={k: pair(v) for k, v in probe.inputs.items()}, counted=pair(probe.counted))


def right_padding(rows: int, width: int) -> np.ndarray:
    """(rows, width) bool: a whole row, a third of one, and one that lacks a single token."""
    return np.arange(width) < np.resize([width, max(1, width // 3), max(1, width - 1)], (rows, 1))


def full_context(config: Any, first: int, usual: int, most: int | None = None) -> tuple[int, str]:
    """How long a row of the whole context is, 0 for none, and what it leaves out.

    most  positions; else the config's, or those that reach the last bucket of a relative bias
    """
    bias = getattr(config, "relative_attention_max_distance", None)
    most = most or largest(config) or (bias + 8 if bias else None)
    if most is None:
        return 0, "the config names no last position"
    if most - first <= usual:
        return 0, f"the usual rows have all {most - first} positions"
    if most - first > FAR:
        return BRIEF, f"{BRIEF} of {most - first} positions: logits of a long row take gigabytes"
    if most - first > FULL_LIMIT:
        return FULL_LIMIT, f"{FULL_LIMIT} of {most - first} positions: attention costs length² on a CPU"
    return most - first, ""


def largest(config: Any, *fields: str) -> int | None:
    """How many positions the config allows; None for models without a limit, which may say -1."""
    found = (getattr(config, field, None) for field in (*fields, "max_position_embeddings"))
    return next((n for n in found if n and n > 0), None)


def usable_positions(config: Any, pad: int | None) -> tuple[int, int]:
    """First and one past the last position id that every table of the model has.

    Some tables start after the padding id (RoBERTa: position 0 is pad + 1) and need pad + 1 more rows than
    there are usable positions. Leaving those few positions out is valid for every other family, so no family
    is named here.
    """
    last = largest(config) or 2 * LENGTH
    offset = pad + 1 if pad is not None and pad < 8 and pad + 1 < last // 2 else 0
    return offset, last


def _tokenizer(folder: str | Path) -> Any:
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
    if not any((Path(folder) / name).is_file() for name in names):
        return None
    return load_tokenizer(folder)


def _mask_token(folder: str | Path, words: Vocabulary) -> int:
    """The tokenizer's [MASK]; without a tokenizer any id will do, because to the network it is a row like
    others."""
    with contextlib.suppress(Exception):
        token = _tokenizer(folder).mask_token_id
        if token is not None and token < words.size:
            return token
    return words.size - 1 if words.size - 1 != words.pad else words.size - 2


def read_text(folder: str | Path, words: Vocabulary, length: int) -> np.ndarray | str:
    """Up to `length` tokens of held-out text, or why there are none."""
    try:
        text = importlib.import_module("grow.zoo").heldout_text()
    except (ImportError, AttributeError, OSError) as error:
        return f"no held-out text: {error}"
    try:
        tokenizer = _tokenizer(folder)
        with quiet():
            found = [] if tokenizer is None else tokenizer(text[: 8 * length]).input_ids
    except Exception as error:  # a broken tokenizer is not what this rung judges
        return f"the tokenizer does not load: {type(error).__name__}"
    found = [token for token in found if token < words.size and token != words.pad][:length]
    return np.array(found) if found else "the folder has no tokenizer"
