"""`grow compare`: several methods on one source and target."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from grow.api import widen
from grow.comparison.summary import Comparison, Curve, Damage, Learning, Row
from grow.costs.of_a_model import cost_of
from grow.errors import BadInput, Refused, no_such
from grow.files.header import show
from grow.files.locate import locate
from grow.files.staging import Staging
from grow.files.writer import write_json
from grow.growth.from_files import LINE
from grow.growth.opened import opened
from grow.planning.methods import METHODS
from grow.planning.target import resolve

__all__ = ["Comparison", "Curve", "Damage", "Learning", "Row", "compare"]

RATE = 3e-4
COMPARISON = "comparison.json"


def compare(
    src: str | os.PathLike,
    to: Any,
    methods: Sequence[str] | None = None,
    *,
    train_steps: int = 0,
    rate: float = RATE,
    text: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
    deepen: bool = False,
    seed: int = 0,
    revision: str | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Comparison:
    """Grow `src` to `to` by each method, lossy ones too, and measure what came of it.

    methods      names, see `grow.planning.methods`; none: all
    train_steps  of AdamW for each, and for two baselines: "scratch", the target's config initialised at random, and
                 "source", the source as it is
    rate         of AdamW at its highest, the same for all
    text         a UTF-8 file, every tenth block of which is held out; none: speeches that come with grow
    out          a new folder for the checkpoints, comparison.json and loss.svg, there at the end; none: nothing is kept
    report       an HTML page to write
    deepen       take the number of layers of a size or config too

    A method that cannot do this is a row with a `reason`. Raises BadInput and Refused when the source, the target or
    the text cannot be used, or no method applies.
    """
    from grow.verification.report.page_file import check_place
    from grow.verification.verdict import environment

    if report is not None:
        check_place(Path(report))
    if not train_steps and rate != RATE:
        raise BadInput(
            f"--rate {rate:g}",
            what="has no effect: nothing is trained",
            why="it is the rate of --train-steps",
            fix="--train-steps 60, or leave it out",
        )
    if train_steps < 0 or not 0 < rate < 1:
        raise BadInput(
            f"--train-steps {train_steps} --rate {rate:g}",
            what="out of range",
            why="steps are 0 or more, a rate lies between 0 and 1",
            fix="--train-steps 60 --rate 0.001",
        )
    folder = locate(src, revision=revision)
    with opened(folder) as (_, matched):
        old = matched.architecture.sizes
        new = resolve(matched.architecture, to, deepen=deepen).sizes
    names = list(dict.fromkeys(methods or METHODS))
    with _place(out) as place:
        from grow.comparison.measuring import Field

        field = Field(
            folder, Path(text) if text is not None else None, old.get("positions", 2048), train_steps, rate, seed
        )
        rows = []
        for name in names:
            progress(name)
            rows.append(_row(name, folder, to, place, field, deepen=deepen, seed=seed, progress=progress))
        grown = [row.name for row in rows if row.applies]
        if not grown:
            raise Refused(
                "--methods " + ",".join(names),
                what="none of them applies",
                why="; ".join(f"{row.name}: {row.reason}" for row in rows),
                fix="--methods default, or another target",
            )
        baselines = field.baselines(place / grown[0], progress) if train_steps else ()
        found = Comparison(
            show(src, LINE),
            to if isinstance(to, str) else ",".join(f"{k}={v}" for k, v in to.items()),
            {axis: (old[axis], new[axis]) for axis in old if old[axis] != new[axis]},
            tuple(rows),
            baselines,
            field.source_loss,
            field.text.record() if field.text else {},
            field.training(),
            environment(),
        )
        if out is not None:
            _keep(found, place)
    if report is not None:
        from grow.comparison.page import write_page

        write_page(found, Path(report))
    return found


def _row(name: str, source: Path, to: Any, place: Path, field: Any, *, deepen: bool, seed: int, progress) -> Row:
    if name not in METHODS:
        return Row(name, reason=no_such("method", name, METHODS))
    method = METHODS[name]
    row = Row(name, method.kind, method.paper, method.arxiv, method.law)
    try:
        grown = widen(
            source,
            to,
            out=place / name,
            method=name,
            allow_lossy=True,
            deepen=deepen,
            seed=seed,
            state="drop",
            verify=False,
        )
    except Refused as error:
        return replace(row, reason=f"{error.what}: {error.why}")
    _, cost = cost_of(grown.plan)
    row = replace(
        row,
        kind="lossy" if grown.plan.lossy else "exact",
        lossy_because=grown.plan.lossy,
        storage=grown.plan.storage,
        parameters=cost.parameters,
        flops_per_token=cost.flops_per_token,
        disk_bytes=cost.disk_bytes,
        seconds=grown.seconds,
    )
    field.costs = cost_of(grown.plan)
    progress(f"{name}: step 0")
    damage, learning = field.step_zero(place / name)
    loss, curve = field.race(place / name, cost.flops_per_token, lambda step: progress(f"{name}: step {step}"))
    return replace(row, damage=damage, trainability=learning, loss=loss, curve=curve)


@contextmanager
def _place(out: str | os.PathLike | None) -> Iterator[Path]:
    """A new folder for the checkpoints; a temporary one when nobody wants to keep them."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="grow-compare-") as name:
            yield Path(name)
        return
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"--out {folder}", what="exists", why="results of a comparison stand alone", fix="another folder"
        )
    if not folder.parent.is_dir():
        raise BadInput(f"--out {folder}", what="has no parent folder", why=str(folder.parent), fix="make it first")
    with Staging(folder) as stage:
        yield stage.path
        stage.commit({COMPARISON: None})


def _keep(found: Comparison, folder: Path) -> None:
    from grow.comparison.svg import standalone

    write_json(folder / COMPARISON, found.to_dict())
    if found.training:
        (folder / "loss.svg").write_text(standalone(found), encoding="utf-8")
