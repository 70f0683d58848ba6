"""A verification as one HTML page that needs nothing else.

    write_report(verification.to_dict(), Path("report.html"))

The document is fitted to `DOCUMENT` first, so that from there on everything has its type and every text is harmless:
names, paths and config values come from checkpoints, and the template escapes whatever it prints.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2

from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.owned import check_file
from grow.spelling import option
from grow.verification.report.axis_pictures import axis_picture
from grow.verification.report.charts import sci
from grow.verification.report.document import DOCUMENT, MEASURED, MOST, as_json, fit
from grow.verification.report.views import absent, count, headline, hidden, points, rungs, share, training, unbroken

__all__ = ["check_place", "environment", "render", "write_page", "write_report"]

MARKS = tuple(f"· grow {command}</title>".encode() for command in ("verify", "compare"))
FIX = "a file name in a folder that exists and can be written"


def check_place(path: Path) -> Path:
    """Where the page will lie, a link followed; BadInput when it cannot be written there, before any work is done."""
    where, target = option(report=path), Path(os.path.realpath(path))
    if os.path.exists(target) and not target.is_file():
        raise BadInput(where, what="is not a regular file", why="the report replaces what is there", fix=FIX)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise BadInput(where, what="cannot be written", why=f"{target.parent} is not a folder", fix=FIX)
    check_file(target, where, "a page of grow", MARKS, "a report replaces an earlier one, and nothing else")
    return target


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """The page of a verification under `path`, whole or not at all; BadInput when it cannot be written there."""
    write_page(render(document), path)


def write_page(page: str, path: Path) -> None:
    """A page under `path`, whole or not at all; BadInput when it cannot be written there."""
    target = check_place(path)
    partial = target.with_name(f".grow-report-{os.getpid()}.partial")
    try:
        try:
            partial.write_bytes(page.encode())
            os.replace(partial, target)
            keep(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(option(report=path), what="cannot be written", why=str(error), fix=FIX) from None


def render(document: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """The page as text; `now` is the time it states."""
    d = fit(document, DOCUMENT)
    growth = d["growth"]
    checks = {check["name"]: check for rung in d["rungs"].values() for check in rung["checks"]}
    found = {name: fit(checks.get(name, {}).get("measured"), spec) for name, spec in MEASURED.items()}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            d=d,
            first=d["first_difference"] if document.get("first_difference") else None,
            growth=growth if document.get("growth") else None,
            checks=checks,
            headline=headline(d, checks, found),
            rungs=rungs(d, found["certificate"]["faults"]),
            axes=[{**axis, "picture": axis_picture(axis, f"axis-{k}")} for k, axis in enumerate(growth["axes"])],
            unchanged=[(name, size) for name, size in growth["sizes"].items() if growth["new_sizes"].get(name) == size],
            hidden=hidden(found["hidden_states"]),
            points=points(found["true_float64"]["points"]),
            probes=found["true_float64"]["probes"],
            training=training(found["trainability"]),
            faults=found["certificate"],
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
