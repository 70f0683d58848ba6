"""A comparison as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grow.comparison import svg
from grow.comparison.summary import Comparison, Row
from grow.verification.report.charts import sci, share_bar
from grow.verification.report.document import plain
from grow.verification.report.html_page import environment
from grow.verification.report.page_file import write_page as write


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page of a comparison under `path`; BadInput when it cannot be written there."""
    write(render(comparison), path)


def render(comparison: Comparison, *, now: datetime | None = None) -> str:
    """The page as text; `now` is the time it states."""
    rows = [row for row in comparison.methods if row.applies]
    trained = svg.ranked([row for row in (*comparison.methods, *comparison.baselines) if row.curve])
    return (
        environment(Path(__file__).parent)
        .get_template("comparison.html.j2")
        .render(
            c=comparison,
            source=plain(comparison.source),
            target=plain(comparison.target),
            rows=[_shown(row, k) for k, row in enumerate(rows)],
            out=[row for row in comparison.methods if not row.applies],
            trained=[
                (row, f"{row.curve.last:.4f}", f"{row.loss:.4f}")
                for row in trained
                if row.curve and row.loss is not None
            ],
            panels=list(_panels(comparison)) if trained else [],
            created=(now or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        )
    )


def _shown(row: Row, k: int) -> Mapping[str, Any]:
    """A row, its numbers as the page writes them."""
    damage, learning = row.damage, row.trainability
    parts = {"new": learning.new, "learning": learning.learning, "dead": learning.dead, "twins": 0} if learning else {}
    return {
        "row": row,
        "relative": sci(damage.relative) if damage else "–",
        "kl": sci(max(damage.kl, 0.0)) if damage and damage.kl is not None else "–",
        "top1": f"{damage.top1:.1%}" if damage and damage.top1 is not None else "–",
        "loss": f"{row.loss:.4f}" if row.loss is not None else "–",
        "learning": learning,
        "bar": share_bar(parts, f"share-{k}") if learning else Markup(""),
    }


def _panels(comparison: Comparison):
    for ident, title, across, point in (
        ("loss-steps", "Against steps", "steps of AdamW", lambda p: (p[0], p[2])),
        ("loss-flops", "Against compute", "FLOPs of training", lambda p: (p[1], p[2])),
    ):
        lines = svg.lines_of(comparison, point)
        name = f"{title}: held-out loss in nats per token"
        yield {"title": title, "chart": svg.chart(lines, comparison.source_loss, ident, name, across), "lines": lines}
