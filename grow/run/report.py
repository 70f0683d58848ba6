"""OUT/report.md: how a recipe went, stage by stage, and against its baseline; every number is from recipe.json and
the metrics of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grow.run.folder import FINAL, Book

REPORT = "report.md"
HEAD = ("stage", "kind", "parameters", "steps", "tokens", "FLOPs", "seconds", "loss before", "loss after", "verdict")


def write_report(book: Book) -> None:
    (book.out / REPORT).write_text(report(book), encoding="utf-8")


def report(book: Book) -> str:
    """The report as Markdown."""
    stages = [*book.stages, *([book.baseline] if book.baseline else [])]
    parts = [f"# {book.document['name']}", "", _intro(book), "", *_table(HEAD, map(_row, stages)), ""]
    parts += [f"The last checkpoint is `{FINAL}` (`{book.document['final']}`).", ""]
    if book.baseline:
        parts += [*_comparison(book.stages, book.baseline), ""]
    notes = [f"* {entry['name']}: {note}" for entry in stages for note in entry.get("notes", ())]
    return "\n".join([*parts, *(["## Notes", "", *notes, ""] if notes else [])])


def _intro(book: Book) -> str:
    flops = sum(entry.get("flops", 0.0) for entry in book.stages)
    tokens = sum(entry.get("tokens", 0) for entry in book.stages)
    seconds = sum(entry.get("seconds", 0.0) for entry in book.stages)
    return (
        f"{tokens:,} tokens, {flops:.4g} FLOPs and {seconds:,.0f} s of wall time on {book.document['machine']}; losses "
        "are of held-out text, in nats per predicted token."
    )


def _row(entry: Mapping[str, Any]) -> list[str]:
    return [
        entry["name"],
        entry["kind"],
        _number(entry.get("parameters"), ","),
        _number(entry.get("steps"), ","),
        _number(entry.get("tokens"), ","),
        _number(entry.get("flops"), ".4g"),
        _number(entry.get("seconds"), ",.1f"),
        _number(entry.get("loss_before"), ".4f"),
        _number(entry.get("loss_after"), ".4f"),
        entry.get("verdict") or "",
    ]


def _comparison(stages: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> list[str]:
    return []


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _table(head: Sequence[str], rows: Any) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
