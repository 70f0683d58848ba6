"""A verification as one HTML page that needs nothing else: no script, no request, no font.

    write_report(verification.to_dict(), Path("report.html"))

The document is fitted to `DOCUMENT` first, so that from there on everything has its type and every text is harmless:
names, paths and config values come from checkpoints, and the template escapes whatever it prints.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from grow.errors import BadInput
from grow.verify import charts
from grow.verify.charts import sci
from grow.verify.result import RUNGS

LONGEST = 4000  # characters of one text
MOST = 400  # rows of one table

MATRIX = [[float]]
CHECK = {"name": str, "status": str, "measured": object, "limit": str, "reason": str}
DOCUMENT: dict[str, Any] = {
    "source": str,
    "grown": str,
    "verdict": str,
    "trainable": bool,
    "rungs": {str: {"status": str, "checks": [CHECK]}},
    "first_difference": {
        **dict.fromkeys(("module", "kind", "probe", "tensor", "field", "rule", "text"), str),
        "relative": float,
        "index": object,
        "found": object,
        "wanted": object,
    },
    "growth": {
        "axes": [{"axis": str, "space": str, "old": float, "new": float, "operator": str, "runs": MATRIX}],
        "sizes": {str: float},
        "new_sizes": {str: float},
        "storage": str,
        "rounded": [str],
        "split": str,
        "seed": object,
        "grow": str,
        "source": {"name": str, "model_type": str, "config_sha256": str},
        "tensors": float,
    },
    "config": [{"field": str, "source": object, "grown": object}],
    "environment": {str: str},
    "notes": [str],
}
MEASURED: dict[str, dict[str, Any]] = {
    "certificate": {"faults": [str], "faulty": float},
    "true_float64": {
        "probes": {"seed": object, "shapes": {str: [float]}, "skipped": {str: str}},
        "points": {"source": [float], "grown": [float]},
    },
    "runtime_dtype": {"relative": float, "dtype": str, "floor": {str: float}, "ratio_to_floor": float},
    "hidden_states": {
        "layers": [str],
        "probes": [str],
        "differences": MATRIX,
        "limit": float,
        "limits": [float],
        "where": str,
        "runtime": {"dtype": str, "differences": MATRIX, "floor": [float]},
    },
    "trainability": {
        **dict.fromkeys(("steps", "learning_rate", "new", "learning", "share", "dead", "twins"), float),
        "loss": [float],
        "source_loss": [float],
        "tensors": [{"rows": str, "name": str, **dict.fromkeys(("new", "learning", "dead", "twins"), float)}],
    },
}


FIX = "a file name in a folder that exists and can be written"


def check_place(path: Path) -> Path:
    """Where the page will lie, a link followed; BadInput when it cannot be written there, before any work is done."""
    where, target = f"--report {path}", Path(os.path.realpath(path))
    if os.path.exists(target) and not target.is_file():
        raise BadInput(where, what="is no regular file", why="the report replaces what is there", fix=FIX)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise BadInput(where, what="cannot be written", why=f"{target.parent} is no folder to write in", fix=FIX)
    return target


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """The page under `path`, whole or not at all; BadInput when it cannot be written there."""
    target = check_place(path)
    page = render(document).encode()
    partial = target.with_name(f".grow-report-{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(page)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"--report {path}", what="cannot be written", why=str(error), fix=FIX) from None


def render(document: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """The page as text; `now` is the time it states."""
    d = fit(document, DOCUMENT)
    growth = d["growth"]
    checks = {check["name"]: check for rung in d["rungs"].values() for check in rung["checks"]}
    found = {name: fit(checks.get(name, {}).get("measured"), spec) for name, spec in MEASURED.items()}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            d=d,
            first=d["first_difference"] if document.get("first_difference") else None,
            growth=growth if document.get("growth") else None,
            checks=checks,
            headline=_headline(d, checks, found),
            rungs=_rungs(d, found["certificate"]["faults"]),
            axes=[{**axis, "picture": charts.axis_picture(axis, f"axis-{k}")} for k, axis in enumerate(growth["axes"])],
            unchanged=[(name, size) for name, size in growth["sizes"].items() if growth["new_sizes"].get(name) == size],
            hidden=_hidden(found["hidden_states"]),
            points=_points(found["true_float64"]["points"]),
            probes=found["true_float64"]["probes"],
            training=_training(found["trainability"]),
            faults=found["certificate"],
            absent=lambda name: _absent(name, checks),
            created=(now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
            most=MOST,
        )
    )


def fit(value: Any, spec: Any) -> Any:
    """`value` in the shape of `spec`, whatever it was: missing texts are "", numbers None, lists [].

    str, float and bool stand for themselves, object for any JSON; [spec] is a list, {str: spec} a mapping with any
    keys, {"key": spec} one with these. NaN and infinities become None.
    """
    if isinstance(spec, list):
        return [fit(inner, spec[0]) for inner in value] if isinstance(value, (list, tuple)) else []
    if isinstance(spec, dict):
        known = value if isinstance(value, Mapping) else {}
        if str in spec:
            return {plain(str(key)): fit(inner, spec[str]) for key, inner in known.items()}
        return {key: fit(known.get(key), inner) for key, inner in spec.items()}
    if spec is bool:
        return value if isinstance(value, bool) else None
    if spec is str:
        return "" if value is None else plain(value if isinstance(value, str) else _json(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        finite = abs(value) < 1e300 and math.isfinite(value)
        return value if finite else None
    if spec is float:
        return None
    if isinstance(value, (list, tuple)):
        return [fit(inner, object) for inner in value]
    if isinstance(value, Mapping):
        return fit(value, {str: object})
    return plain(value) if isinstance(value, str) else value if isinstance(value, bool) else None


def plain(text: str) -> str:
    """Text without control or direction characters, which show as escapes, cut at `LONGEST`."""
    cut = text[:LONGEST]
    if not cut.isprintable():
        cut = "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else _escaped(c) for c in cut)
    return cut if len(text) <= LONGEST else f"{cut} … and {len(text) - LONGEST:,} more characters"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json(value: Any) -> str:
    return plain(json.dumps(value, ensure_ascii=False, default=str))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(sci=sci, share=share, count=count, json=_json, unbroken=unbroken)
    return environment


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


VERDICTS = {
    "lossless": ("pass", "✓", "Lossless", "computes what"),
    "different": ("fail", "✗", "Different", "does not compute what"),
    "unproved": ("skip", "?", "Unproved", "was not shown to compute what"),
}


def _headline(d: dict, checks: Mapping[str, dict], found: Mapping[str, dict]) -> dict[str, Any]:
    """The verdict in words, the number behind it, and the other figures that people ask for."""
    look, mark, word, verb = VERDICTS.get(d["verdict"], ("skip", "–", d["verdict"] or "No verdict", "beside what"))
    failed = next((c for c in _by_weight(checks) if c["status"] == "fail"), None)
    proofs = [checks[name] for name in ("proof", "true_float64") if checks.get(name, {}).get("status") == "pass"]
    because, figures = "", []
    if d["verdict"] == "different" and failed:
        because = f"{failed['name']}: {textwrap.shorten(failed['reason'] or failed['limit'], 300, placeholder=' …')}"
        if failed["name"] == "true_float64" and delta(failed) is not None:
            because = f"The outputs differ by up to {sci(delta(failed))} of their standard deviation in true float64."
        if d["first_difference"]["module"]:
            because += f" It begins in {d['first_difference']['module']}."
        figures.append(("largest difference", sci(delta(failed)), f"in the check {failed['name']}"))
    elif proofs:
        because = f"The outputs differ by at most {sci(delta(proofs[0]))} of their standard deviation in true float64."
        figures.append(("largest difference", sci(delta(proofs[0])), "max |Δ| / std in true float64"))
        if proofs[0]["name"] == "proof":
            because += " That is the growth repeated in float64; what is stored was rounded."
    elif d["verdict"] == "lossless":
        because = "No model was run; the certificate on the stored weights proves it."
        figures.append(("largest residual", sci(delta(checks.get("certificate", {}))), "on the stored weights"))
    else:
        because = "Nothing was found to differ, but too little could be checked."
        unable = next((c for c in _by_weight(checks) if c["status"] == "skip" and c["reason"]), None)
        if unable:
            because += f" {unable['name']}: {unable['reason']}."
    if len(proofs) == 2:
        figures.append(("as stored", sci(delta(proofs[1])), "max |Δ| / std in true float64"))
    runtime = found["runtime_dtype"]
    if runtime["relative"] is not None:
        ratio = runtime["ratio_to_floor"]
        noise = "max |Δ| / std" if ratio is None else f"{ratio:.2g} × the source's own noise"
        figures.append((f"in {runtime['dtype'] or 'the runtime dtype'}", sci(runtime["relative"]), noise))
    if d["growth"]["storage"]:
        rounded = "; ".join(d["growth"]["rounded"])
        figures.append(("storage", d["growth"]["storage"], rounded or "no weight was rounded"))
    trained = found["trainability"]
    learns = f"{share(trained['share'])} of the new entries learn" if trained["share"] is not None else ""
    chip = {
        True: ("pass", "✓", "trainable", learns),
        False: ("fail", "✗", "not trainable", checks.get("trainability", {}).get("reason") or learns),
        None: ("skip", "–", "trainability unknown", _absent("trainability", checks)),
    }[d["trainable"]]
    return {
        "look": look,
        "mark": mark,
        "word": word,
        "verb": verb,
        "because": because,
        "figures": figures,
        "chip": chip,
    }


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


def _rungs(d: dict, faults: list[str]) -> list[dict[str, Any]]:
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


def _hidden(measured: dict) -> dict[str, Any] | None:
    """Rows of the heat map with the look of every cell, its scale, and the chart below; None without layers."""
    layers, matrix = measured["layers"], [[_size(v) for v in row] for row in measured["differences"]]
    if not layers or not any(matrix):
        return None
    limits = [_size(v) for v in measured["limits"] or [measured["limit"]] * len(layers)][: len(layers)]
    limits += [None] * (len(layers) - len(limits))
    largest = max((limit for limit in limits if limit is not None), default=None)
    scale = charts.Scale.over([v for row in matrix for v in row], largest)
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
        series = [charts.Series("runtime", "grown against source", worst)]
        if any(floor):
            series.append(charts.Series("floor", "the source's own noise", floor, points=False))
        ratios = [(a / b, layer) for a, b, layer in zip(worst, floor, layers) if a is not None and b]
        told = "The source's own noise is not known."
        if ratios:
            ratio, layer = max(ratios)
            told = f"At most {ratio:.2g} × the source's own noise, in {layer}."
        title = f"In {dtype}"
        chart = charts.layer_chart(layers, series, "layers-runtime", f"{title}: largest difference of every layer")
        yield {"title": title, "chart": chart, "series": series, "told": told}
    worst = _worst(matrix)
    series = [charts.Series("exact", "grown against source", worst)]
    if any(limits):
        series.append(charts.Series("limit", "limit", limits, points=False))
    top, layer = max((v or 0.0, layer) for v, layer in zip(worst, layers))
    told = f"At most {sci(top)}, in {layer}." if top else "Exactly equal wherever it was measured."
    title = "In true float64"
    chart = charts.layer_chart(layers, series, "layers-exact", f"{title}: largest difference of every layer")
    yield {"title": title, "chart": chart, "series": series, "told": told}


def _size(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _worst(matrix: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [max((v for v in row if v is not None and v >= 0), default=None) for row in matrix]


def _points(points: dict) -> dict[str, Any]:
    pairs = [(a, b) for a, b in zip(points["source"], points["grown"]) if a is not None and b is not None]
    return {
        "picture": charts.scatter(points["source"], points["grown"], "logits"),
        "count": len(pairs),
        "farthest": sci(max((abs(a - b) for a, b in pairs), default=None)),
    }


def _training(measured: dict) -> dict[str, Any] | None:
    if measured["new"] is None and not measured["tensors"]:
        return None
    rows = [{**row, "rows": row["rows"] or row["name"]} for row in measured["tensors"] if row["new"]]
    bars = [{**row, "bar": charts.share_bar(row, f"share-{k}")} for k, row in enumerate(rows[:MOST])]
    losses = [measured["loss"], measured["source_loss"]]
    return {**measured, "rows": bars, "spark": charts.sparkline(losses, "loss")}


def _absent(name: str, checks: Mapping[str, dict]) -> str:
    """Why a check has nothing to show, in one sentence."""
    check = checks.get(name)
    if check is None:
        return f"The check {name} was not asked for."
    if check["status"] == "skip":
        return f"The check {name} was skipped: {check['reason'] or 'no reason was given'}."
    return f"The check {name} ran ({check['status']}) and measured nothing that could be drawn here."
