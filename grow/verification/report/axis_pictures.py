"""Pictures of how an axis grew: ribbons from the old coordinates to their copies.

    runs of an axis map  ->  bands with a look  ->  few enough of them to be seen  ->  SVG and legend

Runs that are not a map between the two sizes give no picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from grow.notation.maps import KINDS
from grow.verification.report.charts import Number, percent, picture, stretched, tag

BANDS = 48  # a ribbon narrower than 1/48 of the picture cannot be told from its neighbour
COPIES = 5  # looks of copies: the first four and "further"
LARGEST = 1 << 26  # coordinates, as in grow.json


@dataclass(frozen=True)
class Band:
    """Grown coordinates [start, start + length) that copy old ones [low, high), or are fresh: low = high = -1.

    look   "copy-0" … "copy-4", "silent", "unread", "mean", "blend", or "mixed" when several had to be drawn as one
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
    """Every run with its place and look; empty when the runs are not a map from `old` to `new` coordinates."""
    if not 0 < old <= LARGEST or not 0 < new <= LARGEST or any(len(run) < 5 or None in run for run in runs):
        return []
    seen = np.zeros(old, np.int32)
    placed, start = [], 0
    for run in runs:
        length, source = int(run[0] or 0), int(run[1] or 0)
        if length < 1 or (source not in KINDS if source < 0 else source + length > old):
            return []
        if source < 0:
            band = Band(start, length, -1, -1, KINDS[source])
        else:
            band = Band(start, length, source, source + length, f"copy-{min(int(seen[source]), COPIES - 1)}")
            seen[source : source + length] += 1
        placed.append((band, run))
        start += length
    return placed if start == new else []


def merged(bands: Iterable[Band], new: int) -> list[Band]:
    """The bands, about 2 x BANDS at most: neighbours that continue each other are one, so are crowds of narrow ones."""
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
    "blend": "blend",
    "mixed": "mixed",
}
MEANING = {
    "silent": "carry 0; what reads them is random",
    "unread": "compute something random that nothing reads yet",
    "mean": "carry the mean of the old coordinates, which the norm subtracts",
    "blend": "weighted means of the old ones: new tokens with logits among the old",
}
IDENTITY = "compute the identity until they are trained"


def axis_picture(axis: Mapping[str, Any], ident: str) -> tuple[Markup, list[dict[str, str]]]:
    """The picture of one axis and its legend; both empty when its runs are not a map."""
    old, new = int(axis["old"] or 0), int(axis["new"] or 0)
    placed = looks(old, new, axis["runs"])
    if not placed:
        return Markup(""), []
    bands = merged((band for band, _ in placed), new)
    copied = any(band.look == "copy-1" for band, _ in placed)
    names = NAMES if copied else {**NAMES, "copy-0": "kept"}
    layers = str(axis["axis"]).endswith("layers")
    if layers:
        names = {**names, "silent": "inserted"}
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
    for row in legend if layers else ():
        row["text"] = row["text"].replace("coordinates", "layers").replace(MEANING["silent"], IDENTITY)
    if any(band.look == "mixed" for band in bands):
        text = f"{len(placed):,} runs of several kinds, drawn as {len(bands)} bands"
        legend.append({"look": "mixed", "name": names["mixed"], "text": text})
    caption = "; ".join(f"{row['name']}: {row['text']}" for row in legend)
    return picture(ident, f"{axis['space'] or axis['axis']}: {old:,} to {new:,}", caption, "150", *parts), legend


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
