"""Batches of text, the same for every method.

causal LMs   predict the next token
masked LMs   fill in 15 % of the tokens, which are masked
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto import modeling_auto

from grow.errors import BadInput
from grow.files.regular import read_text as read_text_file
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import model_class, quiet
from grow.spelling import left_out, option

BATCH, LENGTH = 8, 128
HELD_OUT = 10  # every tenth block of the text
BLOCK = 4  # windows
WINDOWS = 48  # of held-out text, at most
MASKED = 0.15
IGNORED = -100


@dataclass(frozen=True)
class Text:
    """Token ids (1-D) to train on and held out; `mask` is the id of the mask token of a masked LM, else None."""

    name: str
    train: torch.Tensor
    held_out: torch.Tensor
    length: int
    mask: int | None
    seed: int

    def batches(self, steps: int) -> Iterator[dict[str, torch.Tensor]]:
        """Windows drawn from the training part; the same ones for every caller."""
        draw = torch.Generator().manual_seed(self.seed)
        for _ in range(steps):
            starts = torch.randint(len(self.train) - self.length, (BATCH,), generator=draw)
            yield self._batch(torch.stack([self.train[i : i + self.length] for i in starts.tolist()]), draw)

    def held_out_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        draw = torch.Generator().manual_seed(self.seed)
        count = min(WINDOWS, len(self.held_out) // self.length)
        windows = self.held_out[: count * self.length].reshape(count, self.length)
        for start in range(0, count, BATCH):
            yield self._batch(windows[start : start + BATCH], draw)

    def _batch(self, ids: torch.Tensor, draw: torch.Generator) -> dict[str, torch.Tensor]:
        if self.mask is None:
            return {"input_ids": ids, "labels": ids}
        chosen = torch.rand(ids.shape, generator=draw) < MASKED
        chosen[:, 0] |= ~chosen.any(dim=1)
        labels = torch.where(chosen, ids, IGNORED)
        return {"input_ids": torch.where(chosen, self.mask, ids), "labels": labels}

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "train_tokens": len(self.train),
            "held_out_tokens": min(WINDOWS, len(self.held_out) // self.length) * self.length,
            "objective": "next token" if self.mask is None else f"{MASKED:.0%} masked tokens",
        }


def read_text(source: Path, file: Path | None, positions: int, seed: int) -> Text:
    """The text as the source's tokenizer reads it. BadInput without a language model, a tokenizer or enough text."""
    masked = _masked(source)
    try:
        with quiet():
            tokenizer = load_tokenizer(source)
            if file is None:
                from grow.zoo import heldout_text

                words, name = heldout_text(), "five speeches that come with grow"
            else:
                words, name = read_text_file(file, where=option(text=file)), str(file)
            ids = torch.tensor(tokenizer(words, add_special_tokens=False).input_ids, dtype=torch.int64)
    except BadInput:
        raise
    except Exception as error:  # transformers raises a dozen types here, all of which mean the same to a user
        raise BadInput(
            str(source),
            what="has no tokenizer that loads",
            why=f"{type(error).__name__}: {error}",
            fix=left_out("text", "train_steps"),
        ) from None
    length = min(LENGTH, positions)
    whole = len(ids) // (BLOCK * length)
    if whole < HELD_OUT:
        raise BadInput(
            option(text=file) if file else str(source),
            what=f"has only {len(ids)} tokens",
            why=f"every tenth block of {BLOCK * length} tokens is held out",
            fix=f"at least {HELD_OUT * BLOCK * length} tokens of text",
        )
    if masked and tokenizer.mask_token_id is None:
        fix = "add the mask token to the checkpoint's tokenizer"
        raise BadInput(
            str(source), what="has a tokenizer without a mask token", why="a masked LM predicts masked tokens", fix=fix
        )
    blocks = ids[: whole * BLOCK * length].reshape(whole, -1)
    apart = torch.arange(whole) % HELD_OUT == HELD_OUT - 1
    mask = tokenizer.mask_token_id if masked else None
    return Text(name, blocks[~apart].flatten(), blocks[apart].flatten(), length, mask, seed)


def is_language_model(source: Path) -> bool:
    name = model_class(source).__name__
    kinds = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return any(name in kind.values() for kind in kinds)


def _masked(source: Path) -> bool:
    name = model_class(source).__name__
    if not is_language_model(source):
        raise BadInput(
            str(source),
            what=f"a {name} has no loss on text",
            why="causal and masked language models have one",
            fix="the checkpoint of a language model",
        )
    return name not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
