"""What a rung of the ladder found; no torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: `measured` is JSON-ready, `limit` is the claim in words, `reason` is why it failed."""

    name: str
    status: Literal["pass", "fail", "skip"]
    measured: dict[str, Any] = field(default_factory=dict)
    limit: str = ""
    reason: str = ""
