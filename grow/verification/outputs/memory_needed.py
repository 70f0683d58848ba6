"""How much memory a model and its forward pass take, estimated before it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from grow.models.true_float64 import DTYPES
from grow.models.upcast import worth_it
from grow.verification.outputs.free_memory import counts_mapped_files
from grow.verification.outputs.stored_outputs import ELEMENTS
from grow.verification.probes import Probe

BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}

# Measured peak of loading 86 M parameters: 1.10 x the model in float64, 1.20 x in float32 (the tensors in
# flight in transformers' loader threads).
HEADROOM = 1.25
LOGITS = 5  # x the logits of the largest probe: what the head gives, copies of it, those of two models side by side
COMPARED = 24  # x a slice of two outputs in float64: what a comparison computes from it, and what the allocator keeps
STATES = 12  # x one layer of hidden states in a forward pass: queries, keys, values, both branches and their norms
SCORES = 3  # x the scores of attention: before and after the softmax, and the mask
WORKING = 4  # x the largest tensor: stored, widened, and what a module computes from it


class NoRoom(Exception):
    """The models would not fit into the free memory; the message says what is needed and what there is."""


class Need(NamedTuple):
    """Bytes: of weights in memory, of files that weights stay in, and of what a forward pass computes."""

    weights: int
    files: int
    work: int

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{n / 1e9:.1f} of {name}" for name, n in zip(("weights", "files", "a pass"), self) if n)
        return f"{self.total / 1e9:.1f} GB ({parts.replace('of a', 'for a')})"


def memory_needed(
    tensors: Iterable[tuple[str, tuple[int, ...]]], dtype: str, passes: int, *, copies: int, whole: bool
) -> Need:
    """`copies` x the weights of a model in `dtype`, the loader, and `passes` bytes of a forward pass.

    tensors  (dtype as in `DTYPES`, shape) of every stored one
    whole    every weight in `dtype`; else large ones stay as they are stored and are widened in every pass
    """
    memory, files = 0, 0
    for kind, shape in tensors:
        stored = math.prod(shape) * BYTES.get(kind, 8)
        lazy = not whole and kind in DTYPES and worth_it(shape, DTYPES[kind])
        memory += 0 if lazy else math.prod(shape) * BYTES[dtype]
        files += stored if lazy or counts_mapped_files() else 0
    return Need(int(memory * (copies - 1 + HEADROOM)), files, passes)


def forward_memory(config: Any, dtype: str, probes: Iterable[Probe]) -> int:
    """Bytes of a forward pass beside the weights, on the probe that takes most, and of comparing what it gives:
    logits, hidden states of all layers, attention scores. Outputs that were computed before lie on disk.

    config  the part of the model's config that speaks of tokens, or None
    """
    sizes = [getattr(config, name, None) or 1 for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")]
    hidden, layers, heads = sizes if all(isinstance(size, int) for size in sizes) else (1, 1, 1)
    vocab = getattr(config, "vocab_size", 0) or 0

    def on(probe: Probe) -> int:
        tokens, length = probe.counted.numel(), probe.counted.shape[-1]
        per_token = LOGITS * vocab + (layers + STATES) * hidden + SCORES * heads * length
        slices = COMPARED * min(ELEMENTS, tokens * max(vocab, hidden)) * BYTES["float64"]
        # narrow dtypes are widened in norms, softmax and rope
        return tokens * per_token * max(4, BYTES[dtype]) + slices

    return max(on(probe) for probe in probes)
