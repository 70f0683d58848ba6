"""What the template shows: the verdict in words, tables and pictures.

Every function takes parts of a document that `fit` has been over, so each key is there and has its type.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from grow.verification.report.charts import Scale, Series, layer_chart, scatter, sci, share_bar, sparkline
from grow.verification.report.document import MOST, fit
from grow.verification.rungs import RUNGS

VERDICTS = {
    "lossless": ("pass", "✓", "Lossless", "computes what", "computes"),
    "certified": ("pass", "✓", "Certified", "has weights that follow the table from those of", ""),
    "unrecorded": (
        "fail",
        "✗",
        "Not as recorded",
        "is not the growth in grow.json, though it computes what",
        "computes",
    ),
    "different": ("fail", "✗", "Different", "does not compute what", "computes"),
    "unproved": ("skip", "?", "Unproved", "was not shown to compute what", "computes"),
}


def headline(d: dict, checks: Mapping[str, dict], measured: Mapping[str, dict]) -> dict[str, Any]:
    """The verdict in words, the number behind it, and the other figures that people ask for."""
    unknown = ("skip", "–", d["verdict"] or "No verdict", "beside what", "computes")
    look, mark, word, verb, object_of = VERDICTS.get(d["verdict"], unknown)
    bad = {name for name, check in checks.items() if check["status"] == "fail"} - {"trainability"}
    if d["verdict"] == "different" and bad == {"certificate"}:
        verb, object_of = "is not the growth in grow.json of", ""
    proofs = [checks[name] for name in ("proof", "true_float64") if checks.get(name, {}).get("status") == "pass"]
    because, figures = _reason(d, checks, proofs)
    return {
        "look": look,
        "mark": mark,
        "word": word,
        "verb": verb,
        "object_of": object_of,
        "because": because,
        "figures": [*figures, *_other_figures(d, measured, proofs)],
        "chip": _trainable(d, checks, measured),
    }


Figure = tuple[str, str, str]  # name, number, what it is of


def _reason(d: dict, checks: Mapping[str, dict], proofs: list[dict]) -> tuple[str, list[Figure]]:
    """Why the verdict is what it is, in sentences, and the number that shows it."""
    failed = next((c for c in _by_weight(checks) if c["status"] == "fail"), None)
    if d["verdict"] == "different" and failed:
        because = f"{failed['name']}: {textwrap.shorten(failed['reason'] or failed['limit'], 300, placeholder=' …')}"
        if failed["name"] == "true_float64" and delta(failed) is not None:
            because = f"The outputs differ by up to {sci(delta(failed))} of their standard deviation in true float64."
        if d["first_difference"]["module"]:
            because += f" It begins in {d['first_difference']['module']}."
        return because, [("largest difference", sci(delta(failed)), f"in the check {failed['name']}")]
    if proofs:
        because = f"The outputs differ by at most {sci(delta(proofs[0]))} of their standard deviation in true float64."
        if proofs[0]["name"] == "proof":
            because += " That is the growth repeated in float64; what is stored was rounded."
        return because, [("largest difference", sci(delta(proofs[0])), "max |Δ| / std in true float64")]
    if d["verdict"] in ("lossless", "certified"):
        equal = "No model was run: both hold the same numbers."
        because = equal if d["verdict"] == "lossless" else "Whether it computes the same was not run."
        return because, [("largest residual", sci(delta(checks.get("certificate", {}))), "on the stored weights")]
    because = "No difference was found, but too little could be checked."
    unable = next((c for c in _by_weight(checks) if c["status"] == "skip" and c["reason"]), None)
    return because + (f" {unable['name']}: {unable['reason']}." if unable else ""), []


def _other_figures(d: dict, measured: Mapping[str, dict], proofs: list[dict]) -> Iterator[Figure]:
    """The difference as stored and in the dtype that people run, and how the weights are stored."""
    if len(proofs) == 2:
        yield "as stored", sci(delta(proofs[1])), "max |Δ| / std in true float64"
    runtime = measured["runtime_dtype"]
    if runtime["relative"] is not None:
        ratio = runtime["ratio_to_floor"]
        noise = "max |Δ| / std" if ratio is None else f"{ratio:.2g} × the source's own noise"
        yield f"in {runtime['dtype'] or 'the runtime dtype'}", sci(runtime["relative"]), noise
    if d["growth"]["storage"]:
        yield "storage", d["growth"]["storage"], "; ".join(d["growth"]["rounded"]) or "no weight was rounded"


def _trainable(d: dict, checks: Mapping[str, dict], measured: Mapping[str, dict]) -> tuple[str, str, str, str]:
    """Look, mark, word and reason of whether the new entries learn."""
    trained = measured["trainability"]
    learns = f"{share(trained['share'])} of the new entries learn" if trained["share"] is not None else ""
    if d["trainable"] is None:
        return "skip", "–", "trainability unknown", absent("trainability", checks)
    if d["trainable"]:
        return "pass", "✓", "trainable", learns
    return "fail", "✗", "not trainable", checks.get("trainability", {}).get("reason") or learns


def _by_weight(checks: Mapping[str, dict]) -> list[dict]:
    """The checks of the function, the one first whose number says most about the outputs."""
    first = ("true_float64", "proof", "runtime_dtype")
    judging = [check for name, check in checks.items() if name != "trainability"]
    return sorted(judging, key=lambda check: first.index(check["name"]) if check["name"] in first else len(first))


def delta(check: Mapping[str, Any]) -> float | None:
    """The largest difference that a check measured, under whichever name."""
    measured = fit(check.get("measured"), {str: object})
    names = ("relative", "largest_residual", "worst")
    return next((v for v in map(measured.get, names) if isinstance(v, (int, float)) and not isinstance(v, bool)), None)


def rungs(d: dict, faults: list[str]) -> list[dict[str, Any]]:
    """Every rung in its order, also those that nobody asked for, and all single numbers of each check.

    A rung is `alone` when its only check has its name; a check is `listed` when its faults are shown one by one.
    """
    out = []
    for name in dict.fromkeys([*RUNGS, *d["rungs"]]):
        rung = d["rungs"].get(name, {"status": "", "checks": []})
        checks = [
            {
                **check,
                "delta": delta(check),
                "numbers": dict(_numbers(check["measured"])),
                "listed": check["name"] == "certificate" and len(faults) > 1,
            }
            for check in rung["checks"]
        ]
        alone = [check["name"] for check in checks] == [name]
        out.append({"name": name, "status": rung["status"], "checks": checks, "alone": alone})
    return out


def _numbers(measured: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in measured.items() if isinstance(measured, dict) else ():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield prefix + key, f"{value:.4g}"
        elif isinstance(value, (int, str)) and value != "":
            yield prefix + key, f"{value:,}" if type(value) is int else str(value)


def hidden(measured: dict) -> dict[str, Any] | None:
    """Rows of the heat map with the look of every cell, its scale, and the chart below; None without layers."""
    layers, matrix = measured["layers"], [[_size(v) for v in row] for row in measured["differences"]]
    if not layers or not any(matrix):
        return None
    limits = [_size(v) for v in measured["limits"] or [measured["limit"]] * len(layers)][: len(layers)]
    limits += [None] * (len(layers) - len(limits))
    largest = max((limit for limit in limits if limit is not None), default=None)
    scale = Scale.over([v for row in matrix for v in row], largest)
    rows = [
        (layer, [(scale.look(v), sci(v), v is not None and limit is not None and v > limit) for v in row])
        for layer, row, limit in zip(layers, matrix, limits)
    ]
    return {
        "probes": measured["probes"],
        "rows": rows,
        "scale": scale,
        "limit": largest,
        "limits": len({limit for limit in limits if limit is not None}),
        "where": scale.place(largest),
        "over": any(over for _, cells in rows for *_, over in cells),
        "panels": list(_panels(layers, matrix, limits, measured["runtime"])),
    }


def _panels(layers: list[str], matrix: list, limits: list, runtime: dict) -> Iterator[dict[str, Any]]:
    """The worst probe of every layer: in the dtype people run beside the source's noise, and in float64."""
    if runtime["differences"]:
        worst, floor = _worst(runtime["differences"]), [_size(v) for v in runtime["floor"]]
        dtype = runtime["dtype"] or "the runtime dtype"
        series = [Series("runtime", "grown against source", worst)]
        if any(floor):
            series.append(Series("floor", "the source's own noise", floor, points=False))
        ratios = [(a / b, layer) for a, b, layer in zip(worst, floor, layers) if a is not None and b]
        caption = "The source's own noise is not known."
        if ratios:
            ratio, layer = max(ratios)
            caption = f"At most {ratio:.2g} × the source's own noise, in {layer}."
        title = f"In {dtype}"
        chart = layer_chart(layers, series, "layers-runtime", f"{title}: largest difference of every layer")
        yield {"title": title, "chart": chart, "series": series, "caption": caption}
    worst = _worst(matrix)
    series = [Series("exact", "grown against source", worst)]
    if any(limits):
        series.append(Series("limit", "limit", limits, points=False))
    top, layer = max((v or 0.0, layer) for v, layer in zip(worst, layers))
    caption = f"At most {sci(top)}, in {layer}." if top else "Exactly equal wherever it was measured."
    title = "In true float64"
    chart = layer_chart(layers, series, "layers-exact", f"{title}: largest difference of every layer")
    yield {"title": title, "chart": chart, "series": series, "caption": caption}


def _size(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _worst(matrix: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [max((v for v in row if v is not None and v >= 0), default=None) for row in matrix]


def points(outputs: dict) -> dict[str, Any]:
    pairs = [(a, b) for a, b in zip(outputs["source"], outputs["grown"]) if a is not None and b is not None]
    return {
        "picture": scatter(outputs["source"], outputs["grown"], "logits"),
        "count": len(pairs),
        "farthest": sci(max((abs(a - b) for a, b in pairs), default=None)),
    }


def training(measured: dict) -> dict[str, Any] | None:
    if measured["new"] is None and not measured["tensors"]:
        return None
    rows = [{**row, "rows": row["rows"] or row["name"]} for row in measured["tensors"] if row["new"]]
    bars = [{**row, "bar": share_bar(row, f"share-{k}")} for k, row in enumerate(rows[:MOST])]
    losses = [measured["loss"], measured["source_loss"]]
    return {**measured, "rows": bars, "spark": sparkline(losses, "loss")}


def absent(name: str, checks: Mapping[str, dict]) -> str:
    """Why a check has nothing to show, in one sentence."""
    check = checks.get(name)
    if check is None:
        return f"The check {name} was not asked for."
    if check["status"] == "skip":
        return f"The check {name} was skipped: {check['reason'] or 'no reason was given'}."
    return f"The check {name} ran ({check['status']}) and measured nothing that could be drawn here."


def unbroken(text: str) -> Markup:
    """Escaped text in which `1e-12` stays on one line."""
    return Markup(re.sub(r"\d[\d.]*e[-+]\d+", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def share(value: float | None) -> str:
    """`99.9 %`: cut, not rounded, so that only all of it is 100 %."""
    if value is None:
        return "–"
    return f"{value:.0%}".replace("%", " %") if value in (0, 1) else f"{math.floor(1000 * value) / 10:.1f} %"


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
