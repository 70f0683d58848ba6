"""What a growth returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grow.planning.plan import Plan
from grow.verification.verdict import Verification, damage_of


@dataclass(frozen=True)
class Growth:
    """A finished growth.

    path          the new checkpoint's folder, None for one in memory
    model         the grown model when the source was a model
    verification  None when it was not asked for: the result is unverified
    optimizer     of the grown model, when one was given; a list when a list was
    """

    plan: Plan
    path: Path | None = None
    model: Any = None
    verification: Verification | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
    optimizer: Any = None

    @property
    def verified(self) -> bool:
        return self.verification is not None and self.verification.lossless

    @property
    def status(self) -> str:
        """The verdict; "lossy" of a plan that says so, and "unverified" where nobody asked."""
        if self.verification is None:
            return "unverified"
        return "lossy" if self.plan.lossy else self.verification.verdict

    @property
    def damage(self) -> dict[str, float]:
        """What a lossy growth was measured to lose; see `damage_of`."""
        return damage_of(self.verification) if self.plan.lossy and self.verification else {}
