"""Probes of a decoder: ids to continue for every probe of its encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers

from grow.verification.probes.probe import Probe, Subject
from grow.verification.probes.token_ids import (
    Vocabulary,
    full_context,
    largest,
    read_text,
    right_padding,
    usable_positions,
)

SHORTER = 5  # tokens that a decoder's rows lack: with equal lengths a mix-up of the two masks would go unseen

# They read their answer off the decoder at the encoder's positions, so they make its ids of the encoder's.
_SHIFTED = ("ForSequenceClassification", "ForQuestionAnswering")


def decodes(subject: Subject) -> bool:
    """Whether the class has a decoder that wants ids of its own."""
    if "decoder_input_ids" not in subject.accepts or subject.cls.__name__.endswith(_SHIFTED):
        return False
    return bool(getattr(subject.config, "is_encoder_decoder", False))


def side(config: Any, name: str) -> Any:
    """What the config says of the tokens of its "encoder" or "decoder"; a flat config is both."""
    part = getattr(config, name, None)
    return (part if isinstance(part, transformers.PreTrainedConfig) else config).get_text_config()


def with_decoder(subject: Subject, items: list[Probe]) -> tuple[list[Probe], dict[str, str]]:
    """Encoder probes -> probes of the whole model, whose ids begin with the start token; and what was left out.

    random        random tokens; so in every probe that is not named here
    repeated      one token over and over
    single        the start token alone, as generation begins
    left_padded   prompts of different lengths, with a mask; added where the encoder reads images or sound
    right_padded  padded as in training
    text          real text
    padding_read  the padding token in the middle
    full_context  as long as the decoder's positions allow, up to 512; added like left_padded
    """
    config = side(subject.config, "decoder")
    words = Vocabulary.of(subject.config, config, decoder=True)
    first, _ = usable_positions(config, words.pad)
    most = largest(config, "max_decoder_position_embeddings", "max_target_positions")
    most = most and most - 1  # some decoders look one position ahead
    t = max(1, min(subject.length, most - first if most else subject.length) - SHORTER)
    full, why = full_context(config, first, t, most)
    skipped = {"full_context": f"decoder: {why}"} if why else {}
    fields, parts = ("decoder_start_token_id", "bos_token_id"), (subject.config, config)
    named = (getattr(part, field, None) for field in fields for part in parts)
    start = next((token for token in named if token is not None), words.pad or 0)

    def decoder(probe: Probe) -> Probe:
        rows, width = len(probe.counted), {"single": 1, "full_context": full or t}.get(probe.name, t)
        tokens = words.draw(subject.rng, rows, width)
        if probe.name == "repeated":
            tokens[:] = tokens[:, :1]
        elif probe.name == "text":
            read = read_text(subject.folder, words, width)
            tokens = tokens if isinstance(read, str) else read[None]
        real, mask = np.ones(tokens.shape, bool), {}
        if "decoder_attention_mask" in subject.accepts and probe.name in ("left_padded", "right_padded"):
            real = right_padding(*tokens.shape)
            real = real[:, ::-1].copy() if probe.name == "left_padded" else real
            mask = {"decoder_attention_mask": torch.from_numpy(real.astype(np.int64))}
        tokens = words.fill(tokens, real)
        tokens[np.arange(rows), real.argmax(1)] = start
        if probe.name == "padding_read" and words.pad is not None:
            tokens[:, width // 2] = words.pad
        inputs = {**probe.inputs, "decoder_input_ids": torch.from_numpy(tokens.astype(np.int64)), **mask}
        return Probe(probe.name, inputs, torch.from_numpy(real), probe.counted)

    if "input_ids" not in subject.accepts:
        items = [*items, replace(items[0], name="left_padded")]
        items += [replace(items[0].row(0), name="full_context")] if full else []
    return [decoder(probe) for probe in items], skipped
