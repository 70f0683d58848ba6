"""The token ids and positions that a model allows, and held-out text as such ids."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grow.errors import Refused
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import quiet
from grow.verification.probes.probe import LENGTH

FAR = 16_384  # positions; a model with more has rotary ones, which are relative: 128 tokens turn them as 512 do
BRIEF = 128
FULL_LIMIT = 512  # the longest row of all others, for the same reason; the whole context of BERT and its kind


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
    limits = (getattr(config, field, None) for field in (*fields, "max_position_embeddings"))
    return next((n for n in limits if n and n > 0), None)


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


def read_text(folder: str | Path, words: Vocabulary, length: int) -> np.ndarray | str:
    """Up to `length` tokens of held-out text, or why there are none."""
    try:
        text = importlib.import_module("grow.zoo").heldout_text()
    except (ImportError, AttributeError, OSError) as error:
        return f"no held-out text: {error}"
    try:
        tokenizer = _tokenizer(folder)
        with quiet():
            tokens = [] if tokenizer is None else tokenizer(text[: 8 * length]).input_ids
    except Exception as error:  # a broken tokenizer is not what this rung judges
        return f"the tokenizer does not load: {type(error).__name__}"
    tokens = [token for token in tokens if token < words.size and token != words.pad][:length]
    return np.array(tokens) if tokens else "the folder has no tokenizer"
