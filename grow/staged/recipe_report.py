"""The report of a recipe: stage by stage, and against its baseline.

The report is OUT/report.md; its numbers come from recipe.json and the metrics of its runs. OUT/curves.png is its
picture, if matplotlib is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grow.errors import BadInput, plain
from grow.plotting.curves import read_curve
from grow.plotting.savings import Curves, Saving, compare
from grow.staged.recipe import FINAL, PICTURE, REPORT
from grow.staged.recipe_folder import Book

HEAD = ("stage", "kind", "parameters", "steps", "tokens", "FLOPs", "seconds", "loss before", "loss after", "verdict")


def write_report(book: Book) -> None:
    """Write report.md, and curves.png where it can be drawn."""
    runs = curves(book)
    drawn = runs is not None and _draw(runs, book)
    (book.out / REPORT).write_text(plain(report(book, runs, drawn)), encoding="utf-8")


def curves(book: Book) -> Curves | None:
    """The recipe's curve and its baseline's; None where nothing was trained."""
    name = book.document["name"]
    try:
        recipe = read_curve(book.out, name)
        if book.baseline is None:
            return compare([recipe])
        # both curves count what was trained here, without the cost of a model that was loaded
        return compare([recipe, read_curve(book.out / book.baseline["folder"], f"{name}, from scratch")])
    except BadInput:
        return None


def report(book: Book, runs: Curves | None, drawn: bool) -> str:
    """The report as Markdown."""
    entries = [*book.stages, *([book.baseline] if book.baseline else [])]
    parts = [f"# {book.document['name']}", "", _intro(book), "", *_table(HEAD, map(_row, entries)), ""]
    parts += [f"The last checkpoint is `{FINAL}` (`{book.document['final']}`).", ""]
    if runs is not None and book.baseline:
        parts += ["## Against the same model from random weights", "", *_comparison(book, runs), ""]
    if drawn:
        parts += [f"![Loss against FLOPs, tokens and time]({PICTURE})", ""]
    notes = [f"* {entry['name']}: {note}" for entry in entries for note in entry.get("notes", ())]
    return "\n".join([*parts, *(["## Notes", "", *notes, ""] if notes else [])])


def _draw(runs: Curves, book: Book) -> bool:
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from grow.plotting.picture import write_picture

    write_picture(runs, book.out / PICTURE, overwrite=True)
    return True


def _intro(book: Book) -> str:
    tokens, flops, seconds = (
        sum(entry.get(key) or 0 for entry in book.stages) for key in ("tokens", "flops", "seconds")
    )
    return (
        f"{tokens:,} tokens, {flops:.4g} FLOPs and {seconds:,.0f} s of wall time on {book.document['machine']}. Losses "
        "are of held-out text, in nats per predicted token."
    )


def _row(entry: Mapping[str, Any]) -> list[str]:
    numbers = [("parameters", ","), ("steps", ","), ("tokens", ","), ("flops", ".4g"), ("seconds", ",.1f")]
    numbers += [("loss_before", ".4f"), ("loss_after", ".4f")]
    shown = ["" if entry.get(key) is None else format(entry[key], how) for key, how in numbers]
    return [entry["name"], entry["kind"], *shown, entry.get("verdict") or ""]


def _comparison(book: Book, runs: Curves) -> Iterable[str]:
    """Lines with both last losses, and the FLOPs at which each run reached the other's."""
    assert book.baseline is not None
    recipe, scratch = runs.curves
    ours, theirs = (curve.final(runs.validation) for curve in runs.curves)
    assert ours is not None
    assert theirs is not None
    yield (
        f"The recipe ends at {ours:.4f} after {recipe.last.spent.flops:.4g} FLOPs, the baseline at {theirs:.4f} after "
        f"{scratch.last.spent.flops:.4g}: {abs(theirs - ours):.4f} nats {'less' if ours < theirs else 'more'}."
    )
    yield ""
    yield from _table(
        ("at the last loss of", "nats", "FLOPs of the recipe", "FLOPs of the baseline", "saved"),
        map(_saved, runs.savings),
    )


def _saved(saving: Saving) -> list[str]:
    costs = [f"{cost.flops:.4g}" if cost else "never" for cost in (saving.run_cost, saving.baseline_cost)]
    saved = saving.saved("flops")
    return [saving.of, f"{saving.loss:.4f}", *costs, "" if saved is None else f"{saved:.1%}"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
