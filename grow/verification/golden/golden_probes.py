"""The probes of a golden file, and pairs of checkpoints that get these probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from grow.errors import listing
from grow.verification.golden.content import StoredProbe, pack, unpack
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Differs
from grow.verification.probes import Probe, Probes


class Given(Pair):
    """A pair that gets the probes `given`."""

    def __init__(self, source: str | Path, grown: str | Path, given: Probes) -> None:
        super().__init__(source, grown, seed=given.seed)
        self._probes = given


class OneSided(Given):
    """One checkpoint on the side that decides who is to blame: "source" while recording, "grown" after that.

    known  tensors of the source's files that its class did not load, and that the grown one may have too
    """

    def __init__(self, folder: str | Path, given: Probes, known: tuple[str, ...] = ()) -> None:
        super().__init__(folder, folder, given)
        self.known = known

    def __enter__(self) -> OneSided:
        return self

    def ignored(self) -> tuple[str, ...]:
        """Tensors of the files that the class does not have."""
        self.model("source", "float64")
        return self._models["source", "float64", None].ignored

    def _same_leftovers(self, ignored: tuple[str, ...]) -> None:
        if new := sorted(set(ignored) - set(self.known)):
            raise Differs(f"{self.folders['grown']}: stock transformers ignores {len(new)} tensors: {listing(new)}")


def fit(drawn: Probes, budget: int) -> Probes:
    """The probes whose inputs take at most `budget` bytes as they are stored, which is how they are asked.

    A probe that does not fit loses its rows but the first, or is left out and named in `skipped`; the first stays.
    """
    items: list[Probe] = []
    skipped, left = dict(drawn.skipped), budget
    for probe in drawn:
        if _bytes(probe) > left:
            probe = probe.row(0)
        if _bytes(probe) > left and items:
            skipped[probe.name] = f"its inputs take {_bytes(probe):,} bytes, and {left:,} are left of {budget:,}"
            continue
        left -= _bytes(probe)
        items.append(replace(probe, inputs={name: _as_stored(value) for name, value in probe.inputs.items()}))
    return Probes(drawn.seed, items, skipped)


def to_stored(given: Probes) -> dict[str, StoredProbe]:
    """The probes as arrays, for the file."""
    stored = {}
    for probe in given:
        encoder = None if probe.encoder_counted is None else probe.encoder_counted.numpy()
        stored[probe.name] = StoredProbe(
            {name: v.numpy() for name, v in probe.inputs.items()}, probe.counted.numpy(), encoder
        )
    return stored


def to_probes(stored: Mapping[str, StoredProbe], seed: int, skipped: Mapping[str, str]) -> Probes:
    """The probes as tensors, for the model."""
    items = []
    for name, probe in stored.items():
        encoder = None if probe.encoder_counted is None else torch.from_numpy(probe.encoder_counted)
        inputs = {k: torch.from_numpy(v) for k, v in probe.inputs.items()}
        items.append(Probe(name, inputs, torch.from_numpy(probe.counted), encoder))
    return Probes(seed, items, dict(skipped))


def _as_stored(value: torch.Tensor) -> torch.Tensor:
    """Floats rounded to 8 bits: the model is asked what the file can hold."""
    array: np.ndarray = value.numpy()
    return torch.from_numpy(unpack(*pack(array), array.dtype.name))


def _bytes(probe: Probe) -> int:
    return probe.counted.numel() + sum(pack(value.numpy())[0].nbytes for value in probe.inputs.values())
