"""Seeded inputs that exercise a model: every kind of position, padding and token the class accepts.

    probes(config, cls, folder, seed=0)  ->  Probes(items=[Probe("random", {input_ids: (2, 64), ...}), ...])

The *source* decides what is valid: its vocabulary and positions are a subset of the grown model's.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from grow.errors import Refused
from grow.verify.float64 import LOCAL, quiet

LENGTH = 64  # tokens per row: long enough for several periods of every RoPE frequency that turns within a context
WINDOW_LIMIT = 1024  # the longest sliding window worth overrunning: attention costs length² on a CPU


@dataclass(frozen=True)
class Probe:
    """inputs  keyword arguments of the forward pass, each (rows, length) int64
    counted   (rows, length) bool: False where a position is padding, whose output nobody may use
    """

    name: str
    inputs: dict[str, torch.Tensor]
    counted: torch.Tensor

    def row(self, i: int) -> Probe:
        """Row `i` alone, (1, length): the same question in another batch shape."""
        return Probe(self.name, {k: v[i : i + 1] for k, v in self.inputs.items()}, self.counted[i : i + 1])


@dataclass(frozen=True)
class Probes:
    seed: int
    items: list[Probe]
    skipped: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.items)

    @property
    def positions(self) -> int:
        return sum(p.counted.numel() for p in self.items)

    def record(self) -> dict[str, Any]:
        """What a report needs in order to run the same probes again."""
        shapes = {p.name: list(p.counted.shape) for p in self.items}
        return {"seed": self.seed, "shapes": shapes, "skipped": dict(self.skipped)}


def probes(config: Any, cls: type, folder: str | Path, *, seed: int = 0, length: int = LENGTH) -> Probes:
    """Inputs that are valid for the model of `config`, drawn from `seed`.

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

    Random tokens avoid the padding id: it changes RoBERTa's position ids and the pooled position of
    classifiers.
    A classifier without a padding id refuses batches, so it gets one row and no padding.
    """
    if cls.__name__.endswith("ForMultipleChoice"):
        raise Refused(
            cls.__name__,
            what="no probes for inputs of shape (rows, choices, length)",
            fix="verify its base model",
        )
    rng = np.random.default_rng(seed)
    accepts = set(inspect.signature(cls.forward).parameters)  # type: ignore[attr-defined]
    vocab, pad = config.vocab_size, config.pad_token_id
    pad = pad if isinstance(pad, int) and 0 <= pad < vocab else None
    first, end = _usable_positions(config, pad)
    t = min(length, end - first)
    batches = pad is not None or "SequenceClassification" not in cls.__name__
    items: list[Probe] = []
    skipped: dict[str, str] = {}

    def ids(rows: int, width: int) -> np.ndarray:
        drawn = rng.integers(0, vocab - (pad is not None), size=(rows, width))
        return drawn + (drawn >= pad) if pad is not None else drawn

    def add(name: str, tokens: np.ndarray, real: np.ndarray | None = None, **extra: np.ndarray) -> None:
        counted = np.ones(tokens.shape, bool) if real is None else real
        tokens = np.where(counted, tokens, 0 if pad is None else pad)
        inputs = {"input_ids": tokens, "attention_mask": counted, **extra}
        as_ids = {key: torch.from_numpy(value.astype(np.int64)) for key, value in inputs.items()}
        items.append(Probe(name, as_ids, torch.from_numpy(counted)))

    rows = 2 if batches else 1
    add("random", ids(rows, t))
    add("repeated", np.repeat(ids(1, 1), t, axis=1))
    add("single", ids(rows, 1))
    if batches and t > 2:
        half = max(3, t // 2)
        right = np.arange(half) < np.array([[half], [half // 3], [half - 1]])
        add("left_padded", ids(3, half), right[:, ::-1].copy())
        add("right_padded", ids(3, half), right)
    elif not batches:
        skipped["left_padded"] = skipped["right_padded"] = "the classifier has no pad_token_id and refuses batches"
    if "position_ids" in accepts:
        width = min(t, end - first)
        far = np.arange(end - width, end)
        if not getattr(config, "rope_parameters", None):
            far[:-1] = np.sort(rng.choice(np.arange(first, end - 1), size=width - 1, replace=False))
        add("far_positions", ids(1, width), position_ids=far[None])
    if cls.__name__.endswith("ForMaskedLM"):
        tokens = ids(rows, t)
        masked = rng.random(tokens.shape) < 0.15
        masked[:, t // 2] = True
        tokens[masked] = _mask_token(folder, vocab, pad)
        add("masked", tokens)
    if "token_type_ids" in accepts and getattr(config, "type_vocab_size", 0) > 1:
        tokens = ids(rows, t)
        add("token_types", tokens, token_type_ids=rng.integers(0, config.type_vocab_size, size=tokens.shape))
    window = getattr(config, "sliding_window", None)
    if window:
        if t < window + 8 <= end - first and window <= WINDOW_LIMIT:
            add("beyond_window", ids(1, window + 8))
        elif window + 8 > t:
            skipped["beyond_window"] = f"window {window}, positions {end - first}, limit {WINDOW_LIMIT}"
    text = _text_ids(folder, vocab, pad, t)
    if isinstance(text, str):
        skipped["text"] = text
    else:
        add("text", text[None])
    return Probes(seed, items, skipped)


def _usable_positions(config: Any, pad: int | None) -> tuple[int, int]:
    """First and one past the last position id that every table of the model has.

    Some tables start after the padding id (RoBERTa: position 0 is pad + 1) and need pad + 1 more rows than
    there are usable positions. Leaving those few positions out is valid for every other family, so no family
    is named here.
    """
    last = getattr(config, "max_position_embeddings", None) or 2 * LENGTH
    offset = pad + 1 if pad is not None and pad < 8 and pad + 1 < last // 2 else 0
    return offset, last


def _tokenizer(folder: str | Path) -> Any:
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
    if not any((Path(folder) / name).is_file() for name in names):
        return None
    return transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)


def _mask_token(folder: str | Path, vocab: int, pad: int | None) -> int:
    """The tokenizer's [MASK]; without a tokenizer any id will do, because to the network it is a row like
    others."""
    with contextlib.suppress(Exception):
        token = _tokenizer(folder).mask_token_id
        if token is not None and token < vocab:
            return token
    return vocab - 1 if vocab - 1 != pad else vocab - 2


def _text_ids(folder: str | Path, vocab: int, pad: int | None, length: int) -> np.ndarray | str:
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
    found = [token for token in found if token < vocab and token != pad][:length]
    return np.array(found) if found else "the folder has no tokenizer"
