"""Loss curves of several methods in one SVG picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from markupsafe import Markup

from grow.comparison.summary import Comparison, Row
from grow.verification.report.charts import percent, picture, round_numbers, stretched, tag

COLOURS = ("#2f6fb0", "#d48a1c", "#3d8f6d", "#a0568f", "#c0392b", "#5b6f80", "#1f9aa8", "#8a6d3b")
DASHES = ("", "7 4", "2 3")  # for the first, second and third round of colours; baselines are dotted
BASELINE = ("#76808a", "1 4")


@dataclass(frozen=True)
class Line:
    """A line of the picture; its points are (x, nats)."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: str

    @property
    def style(self) -> str:
        return f"stroke: {self.colour}" + (f"; stroke-dasharray: {self.dash}" if self.dash else "")


def lines_of(comparison: Comparison, point: Callable[[tuple[int, float, float]], tuple[float, float]]) -> list[Line]:
    """One line for each row that was trained, the best first; a colour belongs to a name, not to a rank."""
    looks: dict[str, tuple[str, str]] = {}
    for k, row in enumerate(row for row in comparison.methods if row.curve):
        looks[row.name] = COLOURS[k % len(COLOURS)], DASHES[min(k // len(COLOURS), len(DASHES) - 1)]
    for k, row in enumerate(comparison.baselines):
        looks[row.name] = BASELINE[0], ("7 3 1 3", BASELINE[1])[k % 2]
    rows = [row for row in (*comparison.methods, *comparison.baselines) if row.curve]
    return [Line(row.name, [point(p) for p in row.curve.heldout], *looks[row.name]) for row in ranked(rows)]  # type: ignore[union-attr]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows by their last held-out loss, the best first."""
    return sorted(rows, key=lambda row: row.curve.last if row.curve else float("inf"))


def chart(lines: Sequence[Line], level: float | None, ident: str, title: str, across: str) -> Markup:
    """A chart with the held-out loss upward; `level` is the source's loss, drawn as a horizontal line."""
    points = [p for line in lines for p in line.points]
    ys = [y for _, y in points] + ([level] if level is not None else [])
    top = _ceiling(lines, ys)
    low, right = min(ys), max(x for x, _ in points) or 1.0
    margin = 0.06 * ((top - low) or 1.0)
    low, high = low - margin, top + margin

    def x(value: float) -> float:
        return value / right

    def y(value: float) -> float:
        return (high - value) / (high - low)

    parts = []
    for value, text in round_numbers(low, high):
        at = percent(y(value))
        parts += [
            tag("line", class_="grid", x1="0", x2="100%", y1=at, y2=at),
            tag("text", text, class_="label", x=-8, y=at, dy="0.35em"),
        ]
    for value, text in round_numbers(0.0, right * 1.0001):
        parts.append(tag("text", text, class_="under", x=percent(x(value)), y="100%", dy="1.5em"))
    parts.append(tag("text", across, class_="under", x="50%", y="100%", dy="3.1em"))
    drawn = []
    if level is not None:
        drawn.append(tag("line", class_="grid level", x1="0", x2="1000", y1=1000 * y(level), y2=1000 * y(level)))
    for line in lines:
        corners = " ".join(f"{1000 * x(a):.5g},{1000 * y(b):.5g}" for a, b in line.points)
        drawn.append(tag("polyline", class_="series", style=line.style, points=corners))
    parts.append(stretched(*drawn))
    for line in lines:
        for a, b in (p for p in line.points if low <= p[1] <= high):
            label = tag("title", f"{line.name}: {b:.4f} nats at {a:.4g}")
            parts.append(tag("circle", label, cx=percent(x(a)), cy=percent(y(b)), r=2.5, style=f"fill: {line.colour}"))
    told = "; ".join(f"{line.name} {line.points[-1][1]:.4f}" for line in lines)
    return picture(ident, title, f"Last held-out loss in nats: {told}", "100%", *parts)


def _ceiling(lines: Sequence[Line], ys: Sequence[float]) -> float:
    """The top of the picture. Lines that start far above most others (from scratch, or after a large loss) would
    flatten them: the picture ends where the others do, and such lines enter it from above, or not at all."""
    firsts = sorted(line.points[0][1] for line in lines)
    low, middle = min(ys), firsts[len(firsts) // 2]
    reach = max(4 * (middle - low), 0.02)  # nats; smaller differences are noise
    return max(y for y in ys if y <= low + reach)


def standalone(comparison: Comparison) -> str:
    """Held-out loss against steps as an SVG file that any viewer shows."""
    lines = lines_of(comparison, lambda p: (p[0], p[2]))
    width, height, left, right, top, bottom = 900, 460, 70, 240, 40, 60
    inner = chart(lines, comparison.source_loss, "loss", "Held-out loss", "steps of AdamW")
    legend = []
    for k, line in enumerate(lines):
        y = top + 14 + 20 * k
        at = width - right + 20
        legend.append(f'<line class="series" x1="{at}" x2="{at + 26}" y1="{y}" y2="{y}" style="{line.style}"/>')
        legend.append(f'<text x="{at + 34}" y="{y + 4}">{escape(line.name)} {line.points[-1][1]:.3f}</text>')
    title = escape(f"{comparison.source} to {comparison.target}: held-out loss, nats per token")
    style = (
        "text{font:12px system-ui,sans-serif;fill:#1b2127} .label{text-anchor:end;fill:#56616d} "
        ".under{text-anchor:middle;fill:#56616d} .grid{stroke:#d5dbe1} .level{stroke:#76808a;stroke-dasharray:4 4;"
        "vector-effect:non-scaling-stroke} .series{fill:none;stroke-width:2;vector-effect:non-scaling-stroke} "
        "svg{overflow:visible} svg svg svg svg{overflow:hidden}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/><text x="{left}" y="22">{title}</text>'
        f'<svg x="{left}" y="{top}" width="{width - left - right}" height="{height - top - bottom}">{inner}</svg>'
        f"{''.join(legend)}</svg>\n"
    )
