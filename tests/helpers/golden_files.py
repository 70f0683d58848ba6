"""Golden files, and what a check against one says."""

from __future__ import annotations

from grow.verification.verdict import Verification


def statuses(found: Verification) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def judged(found: Verification) -> tuple[str, int]:
    return found.verdict, found.exit_code
