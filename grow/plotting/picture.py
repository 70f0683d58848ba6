"""The picture of the curves, with savings as arrows and growths as marks.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart; line styles differ too. The baseline
is grey. Matplotlib is loaded when something is drawn.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grow.costs.training_cost import TrainingCost
from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.header import show
from grow.plotting.curves import Curve
from grow.plotting.savings import Curves
from grow.spelling import left_out, option

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "-.", ":")
GREY = "#5b5b5b"
SUFFIXES = (".png", ".svg", ".pdf")
SIZE = (12.0, 4.0)  # inches of 100 dots
REACH = 1.3  # times the fall of most curves is shown: a curve that begins higher enters from above
POWERS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1.0, "FLOPs"))
UNITS = {
    "flops": POWERS,
    "tokens": ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens"), (1.0, "tokens")),
    "seconds": ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")),
}


def check_picture(path: Path, overwrite: bool) -> None:
    """BadInput for what can be refused before a run is read."""
    where = option(out=show(path))
    if path.suffix.lower() not in SUFFIXES:
        why = f"the suffix says what is drawn: {', '.join(SUFFIXES)}"
        raise BadInput(where, what="is not a picture", why=why, fix=option(out=show(path.with_suffix(".png").name)))
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        why = f"{show(path.parent)} is not a folder"
        raise BadInput(where, what="cannot be written", why=why, fix="a name in a folder that exists")
    if path.exists() and (not overwrite or not path.is_file()):
        fix = f"{option(overwrite=True)}, or another name" if path.is_file() else "another name"
        raise BadInput(where, what="exists", why="nothing is overwritten unasked", fix=fix)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadInput(
            where,
            what="needs matplotlib, which is not installed",
            why="it draws the picture",
            fix=f"pip install 'grow-transformers[plot]', or {left_out('out')}: the table has the numbers",
        ) from None


def write_picture(runs: Curves, path: Path, *, overwrite: bool = False) -> None:
    """The picture under `path`, whole or not at all."""
    check_picture(path, overwrite)
    drawn = io.BytesIO()
    with _plain():
        figure = picture(runs)
        kind = path.suffix.lower()[1:]
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(drawn, format=kind, metadata=metadata)
    partial = path.with_name(f".{path.name[:200]}.grow-partial")
    try:
        partial.write_bytes(drawn.getvalue())
        os.replace(partial, path)
        keep(path)
    except OSError as error:
        why = error.strerror or str(error)
        fix = "make room, or another name"
        raise BadInput(option(out=show(path)), what="cannot be written", why=why, fix=fix) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def picture(runs: Curves) -> Any:
    """A matplotlib Figure of three panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    looks = _looks(runs)
    low, high = _range(runs)
    lines: list[Any] = []
    for panel, cost in zip(panels, UNITS):
        unit, label = _unit(runs, cost)
        panel.set_xlabel(label)
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        lines = [_line(panel, curve, looks[curve.name], cost, unit, runs.validation) for curve in runs.curves]
        panel.set_xlim(left=0)
        panel.set_ylim(low, high)
        for k, curve in enumerate(runs.curves):
            _saved(panel, runs, curve.name, looks[curve.name], cost, unit, k)
    panels[0].set_ylabel(f"{'validation' if runs.validation else 'training'} loss, nats per token")
    _legend(figure, lines, runs)
    return figure


def _line(panel: Any, curve: Curve, look: dict[str, str], cost: str, unit: float, validation: bool) -> Any:
    """Draw every training loss faintly, the compared losses on top, and growths as diamonds with their names."""

    def across(spent: list[TrainingCost]) -> list[float]:
        return [getattr(at, cost) / unit for at in spent]

    steps = [(p.spent, p.loss) for p in curve.points if p.loss is not None]
    panel.plot(across([at for at, _ in steps]), [y for _, y in steps], color=look["color"], alpha=0.22, linewidth=0.8)
    seen = curve.losses(validation)
    few = validation and len(seen) <= 40
    xs, ys = across([at for at, _ in seen]), [y for _, y in seen]
    marker = {"marker": "o", "markersize": 3.5} if few or len(seen) == 1 else {}
    (line,) = panel.plot(xs, ys, linewidth=1.8, **look, **marker)
    for mark in curve.marks:
        x = getattr(mark.at, cost) / unit
        y = next((y for at, y in seen if getattr(at, cost) >= getattr(mark.at, cost)), ys[-1])
        panel.plot([x], [y], marker="D", markersize=7, color=look["color"], markeredgecolor="white", zorder=4)
        # the name stands below the mark, since curves fall and savings are written above
        place = {"xytext": (-3, -7), "textcoords": "offset points", "ha": "center", "va": "top"}
        panel.annotate(show(mark.name, 24), (x, y), **place, color=look["color"], fontsize=9, parse_math=False)
    return line


def _saved(panel: Any, runs: Curves, run: str, look: dict[str, str], cost: str, unit: float, k: int) -> None:
    """Draw an arrow from the baseline to the run at the loss that both reach, with the saved share above it."""
    saving = runs.saving(run)
    share = None if saving is None else saving.saved(cost)
    if saving is None or share is None:
        return
    start, end = (getattr(at, cost) / unit for at in (saving.baseline_cost, saving.run_cost))
    style = {"arrowstyle": "-|>", "color": look["color"], "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", xy=(end, saving.loss), xytext=(start, saving.loss), arrowprops=style, zorder=5)
    panel.annotate(
        f"{share:.0%} saved" if share >= 0 else f"{-share:.0%} more",
        ((start + end) / 2, saving.loss),
        xytext=(0, 5 + 13 * k),
        textcoords="offset points",
        ha="center",
        color=look["color"],
        fontsize=10,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
    )


def _legend(figure: Any, lines: list[Any], runs: Curves) -> None:
    """Write every run with its last loss above the panels."""
    names = [f"{show(c.name, 40)}  {c.final(runs.validation):.4g}" for c in runs.curves]
    legend = figure.legend(
        lines, [f"{k}" for k in range(len(names))], loc="outside upper center", ncols=min(4, len(names)), frameon=False
    )
    for text, name in zip(legend.get_texts(), names):  # a name may contain $ or begin with _
        text.set_parse_math(False)
        text.set_text(name)


def _looks(runs: Curves) -> dict[str, dict[str, str]]:
    """Run -> colour and style."""
    looks, k = {}, 0
    for curve in runs.curves:
        if curve.name == runs.baseline:
            looks[curve.name] = {"color": GREY, "linestyle": "--"}
        else:
            colour, style = COLOURS[k % len(COLOURS)], STYLES[(k // len(COLOURS)) % len(STYLES)]
            looks[curve.name] = {"color": colour, "linestyle": style}
            k += 1
    return looks


def _range(runs: Curves) -> tuple[float, float]:
    """(lowest, highest) loss in the panels, without the first steps from random weights, which dwarf the rest."""
    every = [[y for _, y in curve.losses(runs.validation)] for curve in runs.curves]
    low, high = min(map(min, every)), max(map(max, every))
    middle = max(sorted(ys)[(3 * len(ys)) // 4] for ys in every)  # three quarters of every curve lie below
    high = min(high, low + REACH * (middle - low)) if middle > low else high
    margin = 0.06 * (high - low) or 0.01
    return low - 2 * margin, high + margin


def _unit(runs: Curves, cost: str) -> tuple[float, str]:
    top = max(getattr(curve.last.spent, cost) for curve in runs.curves)
    return next(((unit, label) for unit, label in UNITS[cost] if top >= unit), UNITS[cost][-1])


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """The same curves give the same bytes, and glyphs that the font lacks give no warning."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "grow", "font.size": 10}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield
