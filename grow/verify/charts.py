"""Pictures of the report: numbers in, inline SVG out, every text escaped.

Places are percentages of the picture, so it stretches from a phone to a page of paper while its text and points keep
their size. SVG cannot place lines and ribbons by percentage; those sit in an inner <svg> of 1000 units that stretches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from grow.maps import KINDS

BANDS = 48  # a ribbon narrower than 1/48 of the picture cannot be told from its neighbour
COPIES = 5  # looks of copies: the first four and "further"
LARGEST = 1 << 26  # coordinates, as in grow.json
Number = float | None


def sci(value: Number) -> str:
    """`9.7e-15`, `0` when it is exactly that, `–` when there is no number."""
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """One SVG element; strings that are no Markup are escaped, attributes that are None left out."""
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


# How an axis grew.


@dataclass(frozen=True)
class Band:
    """Grown coordinates [start, start + length) that copy old ones [low, high), or are fresh: low = high = -1.

    look   "copy-0" … "copy-4", "silent", "unread", "mean", or "mixed" when several had to be drawn as one
    """

    start: int
    length: int
    low: int
    high: int
    look: str
    runs: int = 1

    def joined(self, other: Band) -> Band:
        copies = [band for band in (self, other) if band.low >= 0]
        return Band(
            self.start,
            self.length + other.length,
            min((band.low for band in copies), default=-1),
            max((band.high for band in copies), default=-1),
            self.look if self.look == other.look else "mixed",
            self.runs + other.runs,
        )

    def continues(self, other: Band) -> bool:
        """Whether `other` goes on where this one ends, so that only their factors differ."""
        return self.look == other.look and self.high == other.low


def looks(old: int, new: int, runs: Sequence[Sequence[Number]]) -> list[tuple[Band, Sequence[Number]]]:
    """Every run with its place and look; empty when the runs are no map from `old` to `new` coordinates."""
    if not 0 < old <= LARGEST or not 0 < new <= LARGEST or any(len(run) < 5 or None in run for run in runs):
        return []
    seen = np.zeros(old, np.int32)
    found, start = [], 0
    for run in runs:
        length, source = int(run[0] or 0), int(run[1] or 0)
        if length < 1 or (source not in KINDS if source < 0 else source + length > old):
            return []
        if source < 0:
            band = Band(start, length, -1, -1, KINDS[source])
        else:
            band = Band(start, length, source, source + length, f"copy-{min(int(seen[source]), COPIES - 1)}")
            seen[source : source + length] += 1
        found.append((band, run))
        start += length
    return found if start == new else []


def merged(bands: Iterable[Band], new: int) -> list[Band]:
    """At most about 2 x BANDS bands: neighbours that continue each other are one, and so are crowds of narrow ones."""
    whole: list[Band] = []
    for band in bands:
        if whole and whole[-1].continues(band):
            whole[-1] = whole[-1].joined(band)
        else:
            whole.append(band)
    if len(whole) <= BANDS:
        return whole
    wide, out = new / BANDS, whole[:1]
    for band in whole[1:]:
        if out[-1].length >= wide or band.length >= wide:
            out.append(band)
        else:
            out[-1] = out[-1].joined(band)
    return out


NAMES = {
    "copy-0": "first copy",
    "copy-1": "second copy",
    "copy-2": "third copy",
    "copy-3": "fourth copy",
    "copy-4": "further copies",
    "silent": "silent",
    "unread": "unread",
    "mean": "mean",
    "mixed": "mixed",
}
MEANING = {
    "silent": "carry 0; what reads them is random",
    "unread": "compute something random that nothing reads yet",
    "mean": "carry the mean of the old coordinates, which the norm subtracts",
}


def axis_picture(axis: Mapping[str, Any], ident: str) -> tuple[Markup, list[dict[str, str]]]:
    """The picture of one axis and its legend; both empty when its runs are no map."""
    old, new = int(axis["old"] or 0), int(axis["new"] or 0)
    placed = looks(old, new, axis["runs"])
    if not placed:
        return Markup(""), []
    bands = merged((band for band, _ in placed), new)
    copied = any(band.look == "copy-1" for band, _ in placed)
    names = NAMES if copied else {**NAMES, "copy-0": "kept"}
    widest = max(old, new)
    parts = [
        tag("text", "source", class_="label", x=-12, y=15),
        tag("text", "grown", class_="label", x=-12, y=119),
        tag("rect", class_="old", width=percent(old / widest), height=22),
        stretched(*map(_ribbon, _scaled(bands, widest)), y="24", height="78"),
    ]
    for band in bands:
        x, width = percent(band.start / widest), percent(band.length / widest)
        title = tag("title", _tooltip(band, names))
        parts.append(tag("rect", title, class_=band.look, x=x, y=104, width=width, height=22))
    if widest <= 64:
        parts.extend(_separators(old, widest, 0))
        parts.extend(_separators(new, widest, 104))
    for band in bands:
        if band.length >= 0.2 * widest:
            text = f"{band.length:,} {names[band.look]}"
            middle = percent((band.start + band.length / 2) / widest)
            parts.append(tag("text", text, class_="under", x=middle, y=143))
    legend = list(_legend(placed, names))
    if any(band.look == "mixed" for band in bands):
        text = f"{len(placed):,} runs of several kinds, drawn as {len(bands)} bands"
        legend.append({"look": "mixed", "name": names["mixed"], "text": text})
    told = "; ".join(f"{row['name']}: {row['text']}" for row in legend)
    return picture(ident, f"{axis['space'] or axis['axis']}: {old:,} to {new:,}", told, "150", *parts), legend


def _scaled(bands: Iterable[Band], widest: int) -> Iterator[tuple[str, list[str]]]:
    for band in bands:
        if band.low >= 0:
            ends = band.low, band.high, band.start + band.length, band.start
            yield band.look, [f"{1000 * end / widest:.5g}" for end in ends]


def _ribbon(scaled: tuple[str, list[str]]) -> Markup:
    look, (a, b, c, d) = scaled
    return tag("path", class_=f"ribbon {look}", d=f"M{a} 0H{b}C{b} 500 {c} 500 {c} 1000H{d}C{d} 500 {a} 500 {a} 0")


def _separators(count: int, widest: int, y: int) -> Iterator[Markup]:
    for k in range(1, count):
        x = percent(k / widest)
        yield tag("line", class_="cut", x1=x, x2=x, y1=y, y2=y + 22)


def _tooltip(band: Band, names: Mapping[str, str]) -> str:
    text = f"{band.start:,}–{band.start + band.length - 1:,}: {names[band.look]}"
    return text if band.low < 0 else f"{text} of {band.low:,}–{band.high - 1:,}"


def _legend(placed: Iterable[tuple[Band, Sequence[Number]]], names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """One line per look: how many coordinates, and each factor that is not 1."""
    groups: dict[str, list[tuple[Band, Sequence[Number]]]] = {}
    for band, run in placed:
        groups.setdefault(band.look, []).append((band, run))
    for look in (look for look in NAMES if look in groups):
        runs = [run for _, run in groups[look]]
        count = sum(band.length for band, _ in groups[look])
        factors = [_factor("gain", [run[4] for run in runs])]
        if look != "silent":  # 0 times any factor
            factors.insert(0, _factor("write", [run[2] for run in runs]))
        if look.startswith("copy"):
            factors.append(_factor("read", [run[3] for run in runs]))
        unit = "coordinate" if count == 1 else "coordinates"
        text = ", ".join([f"{count:,} {unit}", *filter(None, factors)])
        if look in MEANING:
            text += f"; {MEANING[look]}"
        yield {"look": look, "name": names[look], "text": text}


def _factor(name: str, values: Iterable[Number]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known or known == [1.0]:
        return ""
    ends = [f"{value:.4g}" for value in (known[0], known[-1])]
    return f"{name} × {ends[0]}" if ends[0] == ends[1] else f"{name} × {ends[0]} … {ends[1]}"


# Differences per layer.


@dataclass(frozen=True)
class Scale:
    """Nine colours of `step` decades each, the first one from 10^low on."""

    low: int
    step: int
    COLOURS = 9

    @classmethod
    def over(cls, values: Iterable[Number], limit: Number) -> Scale:
        """From the smallest value to the largest or the limit, whichever is larger: pale is far below it."""
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
    told = "; ".join(f"{one.name}: at most {sci(top)}" for one, top in zip(series, tops))
    return picture(ident, title, told, "100%", *parts)


def _labels(layers: Sequence[str]) -> list[str]:
    """`hidden.3` as `3` where all are called hidden."""
    short = [layer.rpartition(".") for layer in layers]
    return [last for *_, last in short] if len({first for first, *_ in short}) == 1 else list(layers)


def _pieces(values: Sequence[Number], x, y) -> Iterator[list[tuple[float, float]]]:
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


# Logits, shares and losses.


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
    for value, text in _ticks(low, high):
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
    told = f"{len(points)} logits; the farthest is {sci(farthest)} off the diagonal"
    return picture(ident, "Logits of the grown model against those of the source", told, "100%", *parts)


def _ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
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
    told = f"{learning / new:.1%} learning, {twins / new:.1%} locked twins, {dead / new:.1%} dead"
    return picture(ident, "Share of the new entries", told, "14", *parts)


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
    told = ", ".join(f"{value:.4g}" for value in losses[0] if value is not None)
    return picture(ident, "Loss over the steps", told, "44", stretched(*lines))
