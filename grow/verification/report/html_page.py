"""A verification drawn as one HTML page.

The document is fitted to `DOCUMENT` first, so that from there on everything has its type and every text is harmless:
names, paths and config values come from checkpoints, and the template escapes whatever it prints."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2

from grow.verification.report.axis_pictures import axis_picture
from grow.verification.report.charts import sci
from grow.verification.report.document import DOCUMENT, MEASURED, MOST, as_json, fit
from grow.verification.report.page_file import write_page
from grow.verification.report.views import absent, count, headline, hidden, points, rungs, share, training, unbroken


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """The page of a verification under `path`, whole or not at all; BadInput when it cannot be written there."""
    write_page(render(document), path)


def render(document: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """The page as text; `now` is the time it states."""
    d = fit(document, DOCUMENT)
    growth = d["growth"]
    checks = {check["name"]: check for rung in d["rungs"].values() for check in rung["checks"]}
    measured = {name: fit(checks.get(name, {}).get("measured"), spec) for name, spec in MEASURED.items()}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            d=d,
            first=d["first_difference"] if document.get("first_difference") else None,
            growth=growth if document.get("growth") else None,
            checks=checks,
            headline=headline(d, checks, measured),
            rungs=rungs(d, measured["certificate"]["faults"]),
            axes=[{**axis, "picture": axis_picture(axis, f"axis-{k}")} for k, axis in enumerate(growth["axes"])],
            unchanged=[(name, size) for name, size in growth["sizes"].items() if growth["new_sizes"].get(name) == size],
            hidden=hidden(measured["hidden_states"]),
            points=points(measured["true_float64"]["points"]),
            probes=measured["true_float64"]["probes"],
            training=training(measured["trainability"]),
            faults=measured["certificate"],
            absent=lambda name: absent(name, checks),
            created=(now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
            most=MOST,
        )
    )


@functools.cache
def environment(*folders: Path) -> jinja2.Environment:
    """The templates here and in other folders, and how numbers are shown in them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(sci=sci, share=share, count=count, json=as_json, unbroken=unbroken)
    return environment
