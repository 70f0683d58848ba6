"""What every axis of every family can do, as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from grow.architectures.family import Family
from grow.planning.what_grows import EXACT, REFUSED, ROUNDED, AxisGrowth, classes_of, grow_alike, growths

COLUMNS = ("hidden", "heads", "kv_heads", "head_dim", "ffn", "layers", "experts", "vocab", "positions")
SIGNS = {EXACT: "=", ROUNDED: "≈", REFUSED: "–"}
HEAD = """# What grows

Each row is a family, each column an axis. A cell has two signs: the first for a whole multiple of the old size, the
second for any other size. Every growth preserves every output; the signs say what becomes of the stored weights.

| sign | the stored weights |
|---|---|
| `=` | keep their bits, or are split into shares that add up to them bit for bit |
| `≈` | are multiplied by a factor that is no power of two, or averaged: they are rounded once, and written as float32 |
| `–` | do not grow: no exact growth is known, and it is refused |
| empty | the family has no such axis |

A letter names an axis that has to grow along: `h` hidden, `q` heads, `k` kv_heads, `e` the
layers of the encoder. Behind each sign is the plan for a
small model of the family; the tests grow models with random weights along each axis and compare them in float64.

`grow families --markdown` prints this page.
"""
LETTERS = {"hidden": "h", "heads": "q", "kv_heads": "k", "encoder_layers": "e"}


def page(families: Sequence[Family]) -> list[str]:
    """Its lines: the table of the families, and below it the reasons of refusals."""
    grown = {family.model_type: growths(family) for family in families}
    lines = [
        *HEAD.splitlines(),
        "",
        "| family | " + " | ".join(COLUMNS) + " | others |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for family in families:
        lines.append(_row(family.model_type, grown[family.model_type]))
        for ending in classes_of(family)[1:]:
            if grow_alike(family, ending):
                continue
            other = growths(family, ending)
            if _signs(other) != _signs(grown[family.model_type]):
                lines.append(_row(f"{family.model_type}, {ending}", other))
    lines += ["", "## Refused, and why", ""]
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for name, axes in grown.items():
        for growth in axes:
            for size, outcome in (("a whole multiple", growth.multiple), ("any other size", growth.other)):
                if outcome.kind == REFUSED:
                    reasons.setdefault((growth.axis, size, outcome.detail.replace(name, "the family")), []).append(name)
    lines += ["| axis | size | reason | families |", "|---|---|---|---|"]
    lines += [f"| {axis} | {size} | {why} | {', '.join(names)} |" for (axis, size, why), names in reasons.items()]
    return lines


def _row(name: str, axes: Sequence[AxisGrowth]) -> str:
    cells = {growth.axis: _cell(growth) for growth in axes}
    others = ", ".join(f"{axis} {cell}" for axis, cell in cells.items() if axis not in COLUMNS)
    return f"| {name} | " + " | ".join(cells.get(axis, "") for axis in COLUMNS) + f" | {others} |"


def _cell(growth: AxisGrowth) -> str:
    """`=` and `≈`, each with the axes beside it: `=h≈`"""
    return (
        "`"
        + "".join(
            SIGNS[outcome.kind]
            + ("" if outcome.kind == REFUSED else "".join(LETTERS.get(a, "") for a in outcome.beside))
            for outcome in (growth.multiple, growth.other)
        )
        + "`"
    )


def _signs(axes: Sequence[AxisGrowth]) -> list[str]:
    return [_cell(growth) for growth in axes]
