"""What grow.json says of a growth from the recorded source: maps to read it back, and what was rounded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grow.architectures import architecture_of
from grow.architectures.architecture import Architecture
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput
from grow.notation.dtypes import NAMES
from grow.planning.parsed_record import Record
from grow.planning.readback import fold, output_readback, stream_readback
from grow.verification.golden.content import Golden
from grow.verification.outputs.compare import HIDDEN_OUTPUTS
from grow.verification.outputs.noise_floors import STORAGE_K, UNIT_ROUNDOFF
from grow.verification.rungs import EXACT

VOCABULARY = ("logits", "prediction_logits")  # a grown vocabulary goes on where the source's ends

Fold = Callable[[np.ndarray, int], tuple[np.ndarray, float, str]]


@dataclass(frozen=True)
class GrowthOfSource:
    """What grow.json says of a growth from the recorded source; without one, and after a second growth, nothing."""

    golden: Golden
    grown: Checkpoint
    record: Record | None

    @functools.cached_property
    def architecture(self) -> Architecture | None:
        """The source's family read with its config, when the record tells of the recorded source; else None."""
        config, record = self.golden.source["config"], self.record
        if record is None or config.get("model_type") != record.model_type:
            return None
        architecture = architecture_of(config)
        try:
            return architecture if architecture.sizes == record.sizes else None
        except BadInput:
            return None

    @property
    def rounded(self) -> bool:
        return self.architecture is not None and self.record is not None and self.record.storage == "rounded"

    @functools.cached_property
    def dtype(self) -> str:
        """The coarsest dtype that something is stored in."""
        stored = {NAMES[info.dtype] for info in self.grown.tensors.values() if info.dtype in NAMES}
        return max(stored or {"float64"}, key=lambda name: UNIT_ROUNDOFF[name])

    def floor(self, layer: str = "") -> float:
        """`STORAGE_K` x what storing explains of the outputs, or of one layer's hidden states."""
        if self.dtype not in self.golden.floors:
            return EXACT
        floor = self.golden.floors[self.dtype]
        return max(EXACT, STORAGE_K * (floor.hidden[layer] if layer else floor.outputs))

    def output(self, name: str) -> Fold:
        """How an output becomes one of the source's width."""
        if name in VOCABULARY:
            return lambda y, n: (y[:, :n], 0.0, "")
        back = (
            output_readback(self.architecture, self.record.change.maps) if self.architecture and self.record else None
        )
        return _as_it_is if back is None or name not in HIDDEN_OUTPUTS else lambda y, n: fold(y, n, *back)

    def place(self, layer: str) -> str:
        """Where a hidden state of the source is among the grown ones."""
        if not (self.architecture and self.record):
            return layer
        name, _, k = layer.rpartition(".")
        depth = self.record.change.depths[self.architecture.stack_of(name).layers]
        return f"{name}.{depth.hidden_index(int(k))}"

    def layer(self, name: str, last: bool) -> Fold:
        """How a hidden state becomes one of the source's width."""
        if not (self.architecture and self.record):
            return _as_it_is
        back = stream_readback(self.architecture, self.record.change.maps, final=last, states=name)
        return lambda y, n: _as_it_is(y, n) if back is None or len(back[0]) != y.shape[1] else fold(y, n, *back)


def _as_it_is(y: np.ndarray, n: int) -> tuple[np.ndarray, float, str]:
    return y, 0.0, ""
