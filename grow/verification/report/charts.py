"""Charts of the report: numbers in, inline SVG out.

Places are percentages of the picture, so it stretches from a phone to a page of paper while its text and points keep
their size. SVG cannot place lines and ribbons by percentage; those sit in an inner <svg> of 1000 units that stretches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Number = float | None


def sci(value: Number) -> str:
    """`9.7e-15`, `0` when it is exactly that, `–` when there is no number."""
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """One SVG element; strings that are not Markup are escaped, attributes that are None left out."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    if not inside:
        return Markup("<{}{}/>").format(name, pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, Markup("").join(inside))


def picture(ident: str, title: str, text: str, height: str, *inside: str) -> Markup:
    """An image with a name and a description for those who do not see it."""
    labels = tag("title", title, id=f"{ident}-title"), tag("desc", text, id=f"{ident}-desc")
    names = f"{ident}-title {ident}-desc"
    return tag("svg", *labels, *inside, role="img", aria_labelledby=names, width="100%", height=height)


def stretched(*inside: str, y: str = "0", height: str = "100%") -> Markup:
    return tag("svg", *inside, y=y, width="100%", height=height, viewBox="0 0 1000 1000", preserveAspectRatio="none")


def percent(share: float) -> str:
    return f"{100 * share:.5g}%"


@dataclass(frozen=True)
class Scale:
    """Nine colours of `step` decades each, the first one from 10^low on."""

    low: int
    step: int
    COLOURS = 9

    @classmethod
    def over(cls, values: Iterable[Number], limit: Number) -> Scale:
        """A scale from the smallest value to the largest one or the limit: pale is far below that."""
        sizes = [value for value in (*values, limit) if value]
        if not sizes:
            return cls(-17, 1)
        low, high = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
        return cls(low, max(1, math.ceil((high - low) / cls.COLOURS)))

    def look(self, value: Number) -> str:
        if value is None:
            return "none"
        if value == 0:
            return "zero"
        return f"q{min(self.COLOURS - 1, max(0, int((math.log10(value) - self.low) // self.step)))}"

    def place(self, value: Number) -> str | None:
        """Where on the legend it lies, None outside."""
        share = (math.log10(value) - self.low) / (self.step * self.COLOURS) if value else -1
        return percent(share) if 0 <= share <= 1 else None

    @property
    def ticks(self) -> list[str]:
        return [f"1e{self.low + k * self.step:+03d}" for k in range(self.COLOURS + 1)]


@dataclass(frozen=True)
class Series:
    look: str
    name: str
    values: Sequence[Number]
    points: bool = True


def layer_chart(layers: Sequence[str], series: Sequence[Series], ident: str, title: str) -> Markup:
    """One value of every layer on a log scale; exact zeros are points on a line of their own at the bottom."""
    known = [value for one in series for value in one.values if value is not None]
    sizes = [value for value in known if value > 0]
    if not known:
        return Markup("")
    low = math.floor(math.log10(min(sizes))) if sizes else -17
    high = max(math.ceil(math.log10(max(sizes))), low + 1) if sizes else -16
    zero = 0.12 if len(sizes) < len(known) else 0.0

    def y(value: float) -> float:
        return (1 - zero) * (high - math.log10(value)) / (high - low) if value else 1 - zero / 4

    def x(k: int) -> float:
        return (k + 0.5) / len(layers)

    parts: list[Markup] = []
    every = max(1, math.ceil((high - low) / 8))
    ticks = [(y(10.0**e), f"1e{e:+03d}") for e in range(high, low - 1, -every)]
    for place, text in [*ticks, *([(y(0.0), "0")] if zero else [])]:
        at = percent(place)
        parts.append(tag("line", class_="grid", x1="0", x2="100%", y1=at, y2=at))
        parts.append(tag("text", text, class_="label", x=-8, y=at, dy="0.35em"))
    shown = _labels(layers)
    for k in range(0, len(layers), math.ceil(len(layers) / (12 if max(map(len, shown)) < 4 else 6))):
        parts.append(tag("text", shown[k], class_="under", x=percent(x(k)), y="100%", dy="1.5em"))
    floor = next((one for one in series if one.look == "floor"), None)
    lines = [_area(piece) for piece in _pieces(floor.values if floor else [], x, y)]
    for one in series:
        lines += [
            tag("polyline", class_=f"series {one.look}", points=" ".join(f"{a:.5g},{b:.5g}" for a, b in piece))
            for piece in _pieces([value or None for value in one.values], x, y)
        ]
    parts.append(stretched(*lines))
    radius = 3.5 if len(layers) <= 40 else 2.5
    for one in series:
        for k, value in enumerate(one.values[: len(layers)]):
            if one.points and value is not None:
                title = tag("title", f"{layers[k]}: {sci(value)}, {one.name}")
                parts.append(tag("circle", title, class_=one.look, cx=percent(x(k)), cy=percent(y(value)), r=radius))
    tops = [max((value for value in one.values if value is not None), default=None) for one in series]
    caption = "; ".join(f"{one.name}: at most {sci(top)}" for one, top in zip(series, tops))
    return picture(ident, title, caption, "100%", *parts)


def _labels(layers: Sequence[str]) -> list[str]:
    """`hidden.3` as `3` where all are called hidden."""
    short = [layer.rpartition(".") for layer in layers]
    return [last for *_, last in short] if len({first for first, *_ in short}) == 1 else list(layers)


def _pieces(
    values: Sequence[Number], x: Callable[[int], float], y: Callable[[float], float]
) -> Iterator[list[tuple[float, float]]]:
    """Connected parts of a line in thousandths; a lone point is a short stroke."""
    piece: list[tuple[float, float]] = []
    for k, value in enumerate([*values, None]):
        if value is not None:
            piece.append((1000 * x(k), 1000 * y(value)))
        elif piece:
            left, right = piece[0], piece[-1]
            yield piece if len(piece) > 1 else [(left[0] - 20, left[1]), (right[0] + 20, right[1])]
            piece = []


def _area(piece: Sequence[tuple[float, float]]) -> Markup:
    points = [(piece[0][0], 1000.0), *piece, (piece[-1][0], 1000.0)]
    return tag("polygon", class_="area", points=" ".join(f"{a:.5g},{b:.5g}" for a, b in points))


def scatter(source: Sequence[Number], grown: Sequence[Number], ident: str) -> Markup:
    """Source across, grown upward, with the diagonal on which equal ones lie."""
    points = [(a, b) for a, b in zip(source, grown) if a is not None and b is not None]
    if not points:
        return Markup("")
    low, high = min(map(min, points)), max(map(max, points))
    margin = (high / 2 - low / 2) * 0.1 or max(abs(high) / 10, 1e-9)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return (value / 2 - low / 2) / (high / 2 - low / 2)

    parts = []
    for value, text in round_numbers(low, high):
        at, up = percent(place(value)), percent(1 - place(value))
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1="0", y2="100%"))
        parts.append(tag("line", class_="grid", x1="0", x2="100%", y1=up, y2=up))
        parts.append(tag("text", text, class_="under", x=at, y="100%", dy="1.5em"))
        parts.append(tag("text", text, class_="label", x=-8, y=up, dy="0.35em"))
    parts.append(tag("text", "source", class_="under", x="50%", y="100%", dy="3.1em"))
    parts.append(tag("text", "grown", class_="label", x=-8, y=0, dy="-0.2em"))
    parts.append(tag("line", class_="diagonal", x1="0", y1="100%", x2="100%", y2="0"))
    parts += [tag("circle", cx=percent(place(a)), cy=percent(1 - place(b)), r=3) for a, b in points]
    farthest = max(abs(a - b) for a, b in points)
    caption = f"{len(points)} logits; the farthest is {sci(farthest)} off the diagonal"
    return picture(ident, "Logits of the grown model against those of the source", caption, "100%", *parts)


def round_numbers(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Four to eight round numbers between the two."""
    rough = (high / 2 - low / 2) / 2.5
    size = 10.0 ** math.floor(math.log10(rough)) if rough > 1e-300 else 0.0
    step = next((size * k for k in (1, 2, 5, 10) if size * k >= rough), 0.0)
    if not step or not math.isfinite(step):
        return
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield k * step, f"{k * step:.4g}"


def share_bar(row: Mapping[str, Number], ident: str) -> Markup:
    """Learning, locked and dead as parts of what is new; a locked twin gets gradients too and is drawn once."""
    new = row["new"] or 0.0
    if new <= 0:
        return Markup("")
    dead, twins = (min(max(row[key] or 0.0, 0.0), new) for key in ("dead", "twins"))
    twins = min(twins, new - dead)
    learning = min(max(row["learning"] or 0.0, 0.0), new - dead - twins)
    parts, start = [tag("rect", class_="rest", width="100%", height="100%")], 0.0
    for look, size in (("learning", learning), ("twins", twins), ("dead", dead)):
        if size:
            parts.append(tag("rect", class_=look, x=percent(start / new), width=percent(size / new), height="100%"))
        start += size
    caption = f"{learning / new:.1%} learning, {twins / new:.1%} locked twins, {dead / new:.1%} dead"
    return picture(ident, "Share of the new entries", caption, "14", *parts)


def sparkline(losses: Sequence[Sequence[Number]], ident: str) -> Markup:
    """Loss over the steps, one line per run: the grown model's first, then the source's."""
    known = [value for values in losses for value in values if value is not None]
    if len([value for value in losses[0] if value is not None]) < 2:
        return Markup("")
    low, high = min(known), max(known)
    spread = (high - low) or 1.0
    steps = max(map(len, losses))
    lines = [
        tag("polyline", class_=f"series {look}", points=" ".join(f"{a:.5g},{b:.5g}" for a, b in piece))
        for look, values in zip(("runtime", "floor"), losses)
        for piece in _pieces(values, lambda k: k / (steps - 1), lambda value: 0.1 + 0.8 * (high - value) / spread)
    ]
    caption = ", ".join(f"{value:.4g}" for value in losses[0] if value is not None)
    return picture(ident, "Loss over the steps", caption, "44", stretched(*lines))
