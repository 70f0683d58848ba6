"""Probes of token ids: random, repeated, padded, far apart, long, masked, and real text."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.verification.probes.probe import Probe, Subject
from grow.verification.probes.token_ids import (
    Vocabulary,
    _tokenizer,
    full_context,
    read_text,
    right_padding,
    usable_positions,
)

WINDOW_LIMIT = 1024  # the longest sliding window worth overrunning: attention costs length² on a CPU
CHOICES = 2  # of one question; more would repeat what two show


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
    padding_read    the padding token where it is not padding: chat models end with it
    X_ids           random ids of another kind, where the config has an X_vocab_size: task types

    A classifier without a padding id refuses batches, so it gets one row and no padding.
    """
    drawn = _Drawn(subject, text, end)
    drawn.plain()
    drawn.padded()
    drawn.far_positions()
    drawn.masked()
    drawn.token_types()
    drawn.beyond_window()
    drawn.real_text()
    drawn.full_context()
    drawn.global_tokens()
    drawn.boxes()
    drawn.padding_read()
    drawn.other_ids()
    return drawn.items, drawn.skipped


class _Drawn:
    """The probes drawn so far. Each method adds one kind where the model has it; all draw from one stream, so
    their order is part of what a seed means.

    batches  whether the model takes several rows;  t  tokens of a usual row
    """

    def __init__(self, subject: Subject, text: Any, end: int | None) -> None:
        self.subject, self.text, self.rng = subject, text, subject.rng
        self.words = Vocabulary.of(subject.config, text, end=end)
        self.first, self.last = usable_positions(text, self.words.pad)
        self.t = min(subject.length, self.last - self.first)
        self.batches = self.words.pad is not None or "SequenceClassification" not in subject.cls.__name__
        self.rows = 2 if self.batches else 1
        self.items: list[Probe] = []
        self.skipped: dict[str, str] = {}

    def ids(self, rows: int, width: int) -> np.ndarray:
        return self.words.draw(self.rng, rows, width)

    def add(self, name: str, tokens: np.ndarray, real: np.ndarray | None = None, **extra: np.ndarray) -> None:
        counted = np.ones(tokens.shape, bool) if real is None else real
        inputs = {"input_ids": self.words.fill(tokens, counted), "attention_mask": counted, **extra}
        as_ids = {key: torch.from_numpy(value.astype(np.int64)) for key, value in inputs.items()}
        self.items.append(Probe(name, as_ids, torch.from_numpy(counted)))

    def plain(self) -> None:
        self.add("random", self.ids(self.rows, self.t))
        self.add("repeated", np.repeat(self.ids(1, 1), self.t, axis=1))
        self.add("single", self.ids(self.rows, 1))

    def padded(self) -> None:
        if self.batches and self.t > 2:
            right = right_padding(3, max(3, self.t // 2))
            self.add("left_padded", self.ids(*right.shape), right[:, ::-1].copy())
            self.add("right_padded", self.ids(*right.shape), right)
        elif not self.batches:
            why = "the classifier has no pad_token_id and refuses batches"
            self.skipped["left_padded"] = self.skipped["right_padded"] = why

    def far_positions(self) -> None:
        if "position_ids" in self.subject.accepts:
            far = np.arange(self.last - self.t, self.last)
            if not getattr(self.text, "rope_parameters", None):
                usable = np.arange(self.first, self.last - 1)
                far[:-1] = np.sort(self.rng.choice(usable, size=self.t - 1, replace=False))
            self.add("far_positions", self.ids(1, self.t), position_ids=far[None])

    def masked(self) -> None:
        if self.subject.cls.__name__.endswith("ForMaskedLM"):
            tokens = self.ids(self.rows, self.t)
            masked = self.rng.random(tokens.shape) < 0.15
            masked[:, self.t // 2] = True
            tokens[masked] = _mask_token(self.subject.folder, self.words)
            self.add("masked", tokens)

    def token_types(self) -> None:
        types = getattr(self.text, "type_vocab_size", 0)
        if "token_type_ids" in self.subject.accepts and types > 1:
            tokens = self.ids(self.rows, self.t)
            self.add("token_types", tokens, token_type_ids=self.rng.integers(0, types, size=tokens.shape))

    def other_ids(self) -> None:
        for name in self.subject.accepts:
            kinds = getattr(self.text, f"{name.removesuffix('_ids')}_vocab_size", 0)
            if name.endswith("_ids") and name != "token_type_ids" and isinstance(kinds, int) and kinds > 1:
                tokens = self.ids(self.rows, self.t)
                self.add(name, tokens, **{name: self.rng.integers(0, kinds, size=tokens.shape)})

    def beyond_window(self) -> None:
        window, positions = getattr(self.text, "sliding_window", None), self.last - self.first
        if window:
            if self.t < window + 8 <= positions and window <= WINDOW_LIMIT:
                self.add("beyond_window", self.ids(1, window + 8))
            elif window + 8 > self.t:
                self.skipped["beyond_window"] = (
                    f"the window has {window} positions, the model {positions}, and probes have {WINDOW_LIMIT} at most"
                )

    def real_text(self) -> None:
        read = read_text(self.subject.folder, self.words, self.t)
        if isinstance(read, str):
            self.skipped["text"] = read
        else:
            self.add("text", read[None])

    def full_context(self) -> None:
        length, why = full_context(self.text, self.first, self.t)
        if why:
            self.skipped["full_context"] = why
        if length:
            self.add("full_context", self.ids(1, length))

    def global_tokens(self) -> None:
        if "global_attention_mask" in self.subject.accepts:
            seen_by_all = np.isin(np.arange(self.t), [0, self.t // 2])[None]
            self.add("global_tokens", self.ids(1, self.t), global_attention_mask=seen_by_all)

    def boxes(self) -> None:
        places = getattr(self.text, "max_2d_position_embeddings", None)
        if "bbox" in self.subject.accepts and places:
            corners = np.sort(self.rng.integers(0, places, size=(self.rows, self.t, 2, 2)), axis=2)
            self.add("boxes", self.ids(self.rows, self.t), bbox=corners.reshape(self.rows, self.t, 4))

    def padding_read(self) -> None:
        if self.words.pad is not None and self.t > 2:
            tokens = self.ids(1, self.t)
            tokens[:, [1, self.t // 2]] = self.words.pad
            self.add("padding_read", tokens)


def choices(probe: Probe) -> Probe:
    """(rows, length) -> (rows, choices, length): each row and the next are two answers to one question."""

    def pair(value: torch.Tensor) -> torch.Tensor:
        return torch.stack([value.roll(-k, 0) for k in range(CHOICES)], 1)

    return replace(probe, inputs={k: pair(v) for k, v in probe.inputs.items()}, counted=pair(probe.counted))


def _mask_token(folder: str | Path, words: Vocabulary) -> int:
    """The tokenizer's [MASK]; without a tokenizer any id will do, because to the network it is a row like
    others."""
    with contextlib.suppress(Exception):
        token = _tokenizer(folder).mask_token_id
        if token is not None and token < words.size:
            return token
    return words.size - 1 if words.size - 1 != words.pad else words.size - 2
