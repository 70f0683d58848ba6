"""What a probe is: one question to a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.errors import Refused
from grow.spelling import option

LENGTH = 64  # tokens per row: long enough for several periods of every RoPE frequency that turns within a context


@dataclass(frozen=True)
class Probe:
    """inputs           keyword arguments of the forward pass, rows first: int64, bool, or float64 that bfloat16 holds
    counted          (rows, length) bool: False where a position is padding, whose output nobody may use; (rows, 1) for
                     inputs without padding, whose outputs have lengths of their own (patches, frames)
    encoder_counted  the same for outputs of the encoder, where a decoder has other positions
    """

    name: str
    inputs: dict[str, torch.Tensor]
    counted: torch.Tensor
    encoder_counted: torch.Tensor | None = None

    def row(self, i: int) -> Probe:
        """Row `i` alone, (1, length): the same question in another batch shape."""
        encoder = None if self.encoder_counted is None else self.encoder_counted[i : i + 1]
        return Probe(self.name, {k: v[i : i + 1] for k, v in self.inputs.items()}, self.counted[i : i + 1], encoder)

    def arguments(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """`inputs` for a model in `dtype`; no number is rounded, so every dtype gets the same question."""
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.inputs.items()}

    def mask(self, output: str) -> torch.Tensor:
        """Which positions count in the output of this name."""
        encoder = output.startswith("encoder") and self.encoder_counted is not None
        return self.encoder_counted if encoder else self.counted  # type: ignore[return-value]


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

    def without(self, name: str, why: str) -> Probes:
        """All but one, which is `skipped` from then on."""
        return Probes(self.seed, [p for p in self.items if p.name != name], {**self.skipped, name: why})

    def merged(self, length: int) -> Probes:
        """All text probes in one batch, `length` tokens of every row; others are skipped.

        A model whose weights come from disk reads them once per pass, however many rows there are.
        """
        plain = [p for p in self.items if set(p.inputs) == {"input_ids", "attention_mask"}]
        if not plain:
            return self
        parts: dict[str, list[torch.Tensor]] = {"input_ids": [], "attention_mask": []}
        for probe in plain:
            for name, into in parts.items():
                value = probe.inputs[name]
                # the end of a left-padded row holds its tokens
                cut = value[:, -length:] if probe.name == "left_padded" else value[:, :length]
                into.append(torch.nn.functional.pad(cut, (0, length - cut.shape[1])))
        inputs = {name: torch.cat(values) for name, values in parts.items()}
        merged = Probe("merged", inputs, inputs["attention_mask"].bool())
        skipped = {p.name: "weights come from disk in every pass" for p in self.items if p not in plain}
        return Probes(self.seed, [merged], {**self.skipped, **skipped})

    def record(self) -> dict[str, Any]:
        """What a report needs in order to run the same probes again."""
        shapes = {p.name: list(next(iter(p.inputs.values())).shape) for p in self.items}
        return {"seed": self.seed, "shapes": shapes, "skipped": dict(self.skipped)}


@dataclass(frozen=True)
class Subject:
    """The model that is asked: its config and class, its folder (for a tokenizer), and the draw of this set."""

    config: Any
    cls: type
    folder: str | Path
    rng: np.random.Generator
    length: int

    @cached_property
    def accepts(self) -> dict[str, bool]:
        """Argument of the forward pass -> whether it has no default."""
        parameters = inspect.signature(self.cls.forward).parameters.values()  # type: ignore[attr-defined]
        named = [p for p in parameters if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return {p.name: p.default is p.empty for p in named}

    def unknown(self, beside: str = "") -> Refused:
        """The refusal of a class whose inputs nobody has described."""
        main = getattr(self.cls, "main_input_name", "input_ids")
        return Refused(
            self.cls.__name__,
            what=f"no probes for its main input {main!r}"
            + (f", together with {beside!r}" if beside not in ("", main) else ""),
            why="probes are token ids, images and sound; what else a processor makes is not part of a checkpoint",
            fix=f"verify a model that it is made of, or the stored weights alone: {option(rungs=['certificate'])}",
        )
