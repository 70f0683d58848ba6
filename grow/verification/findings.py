"""What the ladder has found so far: checks, notes, and the first difference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from grow.verification.verdict import Check, Status

OUTSIDE = {"tokenizer", "generation_config", "labels", "embeddings", "kernels", "save_reload"}
"""Checks that fail for other reasons than a module that computes something else."""


@dataclass
class Findings:
    """checks  in the order in which they ran;  first  where something failed: as in `Verification.first`"""

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first: dict[str, Any] | None = None

    @property
    def failed(self) -> dict[str, Check]:
        """The checks of the function that failed, by name."""
        return {c.name: c for c in self.checks if c.status == "fail" and c.rung != "trainability"}

    def passed(self, name: str) -> bool:
        return any(check.name == name and check.status == "pass" for check in self.checks)

    def change_outputs(self, measured: dict[str, Any], *, status: Status | None = None, reason: str = "") -> None:
        """Add to what `true_float64` measured; a `status` replaces its own."""
        for k, check in enumerate(self.checks):
            if check.name == "true_float64":
                judged = {"status": status, "reason": reason} if status else {}
                self.checks[k] = replace(check, measured={**check.measured, **measured}, **judged)  # type: ignore[arg-type]

    def unseen(self, names: list[str]) -> None:
        """No probe reached these: equal outputs on the probes are then no proof."""
        outputs = next((check for check in self.checks if check.name == "true_float64"), None)
        if names and outputs:
            self.change_outputs({"unseen": [*outputs.measured.get("unseen", []), *names]})
