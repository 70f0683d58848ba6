"""What the rungs of the ladder found, and the verdict; no torch in here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

# The limit of a bit-exact plan or of a proof copy. float64 carries 1.1e-16 per operation; sums in another
# order and length drift by 1e-15 .. 1e-13 of the logits' std over the depths we measured. A wrong weight
# shows at 1e-7 or more.
EXACT = 1e-12


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: `measured` is JSON-ready, `limit` is the claim in words, `reason` is why it failed."""

    name: str
    status: Literal["pass", "fail", "skip"]
    measured: dict[str, Any] = field(default_factory=dict)
    limit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """What was found. `verdict` is "lossless", "different" or, when nothing failed but too little ran, "unproved".

    lossless needs the outputs compared (true_float64, and proof where weights were rounded) or, where the models
    do not fit into memory, the certificate.
    """

    source: str
    grown: str
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        status = {rung.name: rung.status for rung in self.rungs}
        if "fail" in status.values():
            return "different"
        loose = any(rung.measured.get("within_storage") for rung in self.rungs)
        proved = "pass" in (status.get("true_float64"), status.get("certificate")) and not loose
        return "lossless" if proved else "unproved"

    @property
    def lossless(self) -> bool:
        return self.verdict == "lossless"

    @property
    def exit_code(self) -> int:
        """0 lossless, 1 different or unproved."""
        return 0 if self.lossless else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that JSON cannot hold become null."""
        return _finite(
            {
                "schema": 1,
                "source": self.source,
                "grown": self.grown,
                "verdict": self.verdict,
                "rungs": [asdict(rung) for rung in self.rungs],
                "notes": list(self.notes),
            }
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
