"""What was found about parts of two models that no probe reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grow.verification.outputs.compare import difference
from grow.verification.outputs.forward_passes import ReadbackArg
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import SIDES
from grow.verification.probes import Probe


@dataclass
class Unreached:
    """unseen  what was not compared, and notes that say why;  fault  the first thing that differs, as in
    `Verification.first`;  counts  how much no probe had reached"""

    unseen: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fault: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Search:
    """The search through what no probe reached: both models, the limits of a difference, and what was found so far.

    limit  of outputs;  unit  unit roundoff of stored numbers, 0 where nothing was rounded
    """

    def __init__(self, pair: Pair, limit: float, unit: float, readback: ReadbackArg) -> None:
        self.pair, self.limit, self.unit, self.readback = pair, limit, unit, readback
        self.findings = Unreached()

    def unseen(self, why: str, *names: str) -> None:
        """Note what could not be compared, and why."""
        self.findings.notes.append(why)
        self.findings.unseen += names

    def apart(self, probe: Probe) -> float:
        """How far the models are apart on one probe, in units of its outputs' std."""
        source, grown = (self.pair.run(side, self.pair.model(side, "float64"), [probe]) for side in SIDES)
        return difference(source, grown, self.readback).relative

    @property
    def plain_probe(self) -> Probe:
        """Tokens, pixels or sound without padding."""
        return next((p for p in self.pair.probes if p.name == "random"), next(iter(self.pair.probes)))


def fault_at(module: str, tensor: str | None, index: list[int] | None, relative: float, text: str) -> dict[str, Any]:
    """A difference as in `Verification.first`."""
    unknown = dict.fromkeys(("field", "found", "wanted"))
    return {
        "module": module,
        "tensor": tensor,
        "index": index,
        "relative": relative,
        "rule": "",
        **unknown,
        "text": text,
    }
