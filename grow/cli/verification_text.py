"""A verification as text: every check, the first difference, the verdict; and a golden file."""

from __future__ import annotations

from typing import Any

from grow.cli.progress import size
from grow.cli.terminal import say, table
from grow.verification.verdict import Verification

SYMBOLS = {
    "W̃, W": "a weight of the grown model and of its source; E: the map of an axis, from old coordinates to new ones",
    "Δ": "the grown model's number minus its source's; std: the standard deviation of the source's outputs",
}
"""What the symbols in a claim mean."""


def show_verification(verification: Verification, *, verdict: bool = True) -> None:
    rows = []
    for check in verification.checks:
        value = check.largest
        rows.append(
            (
                check.name,
                check.status,
                f"{value:.1e}" if value is not None else "",
                check.limit if check.status == "pass" else check.reason,
            )
        )
    table(("check", "result", "largest Δ", "claim"), rows)
    for symbols, meaning in SYMBOLS.items():
        if any(symbols.split(",")[0] in str(row[-1]) for row in rows):
            say(f"  {symbols}: {meaning}")
    for check in verification.checks:
        faults = check.measured.get("faults") or []
        if len(faults) > 1:
            for fault in faults[:20]:
                say(f"    {fault}")
            if check.measured["faulty"] > 20:
                say(f"    and {check.measured['faulty'] - 20} more tensors")
        for row in check.measured.get("tasks") or []:
            say(f"    {row['task']} {row['metric']}: {_score(row['source'])} and {_score(row['grown'])}")
    if verification.first:
        say(f"first difference: {verification.first['text']}")
    for note in verification.notes:
        say(f"note: {note}")
    if verdict:
        say(_verdict(verification))


def show_recorded(kept: dict[str, Any]) -> None:
    answers = "whole" if kept["whole"] else "sketched"
    say(f"{kept['path']}: {size(kept['bytes'])}, what {kept['source']} answers to {len(kept['probes'])} probes")
    rows = [(name, " × ".join(map(str, shape)), answers) for name, shape in kept["outputs"].items()]
    table(("output", "positions × width", "kept"), rows)
    for name, why in kept["skipped"].items():
        say(f"note: probe {name} was left out: {why}")


def _score(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _verdict(verification: Verification) -> str:
    number = next(
        (
            check.measured.get("relative")
            for name in ("proof", "true_float64")
            for check in verification.checks
            if check.name == name and check.status == "pass"
        ),
        None,
    )
    dead = "; but not all that is new can learn" if verification.trainable is False else ""
    if verification.lossless:
        how = (
            f" (max |Δ| {number:.1e} of the outputs' std in true float64)" if number is not None else " (same numbers)"
        )
        return f"lossless: {verification.grown} {verification.claim}{how}{dead}"
    if verification.verdict == "certified":
        return f"certified: {verification.grown}: {verification.claim}{dead}"
    if verification.trainable is not None and set(verification.rungs) == {"trainability"}:
        share = verification.checks[0].measured["share"]
        learn = f"{share:.1%} of the new parameters learn" if share is not None else "there are no new parameters"
        return (
            f"{'trainable' if verification.trainable else 'not trainable'}: {learn}; what it computes was not compared"
        )
    if verification.verdict in ("different", "unrecorded"):
        first = next(check for check in verification.checks if check.status == "fail" and check.rung != "trainability")
        return f"{verification.verdict}: {verification.grown} {verification.claim} ({first.name}: {first.reason})"
    return f"unproved: {verification.notes[-1] if verification.notes else 'no check that could tell was able to run'}"
