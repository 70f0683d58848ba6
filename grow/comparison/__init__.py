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
from grow.growth.file_options import check_names
from grow.growth.from_files import LINE
from grow.growth.opened import opened
from grow.planning.methods import METHODS
from grow.planning.target import resolve
from grow.spelling import check_flags, check_functions, check_path, check_text, check_whole, left_out, option

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
    """Grow `src` to `to` by each method, lossy ones too, and measure the results.

    methods      names, see `grow.planning.methods`; default: all of them
    train_steps  steps of AdamW for each method, and for two baselines: "scratch", the target's config with random
                 weights, and "source", the source as it is
    rate         the peak learning rate of AdamW, the same for all
    text         a UTF-8 file, every tenth block of which is held out; default: speeches that come with grow
    out          a new folder for the checkpoints, comparison.json and loss.svg, written at the end; default: nothing
                 is kept
    report       an HTML page to write
    deepen       take the number of layers of a size or config too

    A method that cannot reach the target is a row with a `reason`. Raises BadInput and Refused when the source, the
    target or the text cannot be used, or no method applies.
    """
    from grow.verification.report.page_file import check_place
    from grow.verification.verdict import environment

    _check_options(methods, train_steps, rate, text, out, report, seed, revision)
    check_flags(deepen=deepen)
    check_functions(progress=progress)
    if report is not None:
        check_place(Path(report))
    folder = locate(src, revision=revision)
    with opened(folder) as (_, matched):
        old = matched.architecture.sizes
        new = resolve(matched.architecture, to, deepen=deepen).sizes
    names = list(dict.fromkeys(methods or METHODS))
    with _place(out) as place:
        from grow.comparison.measuring import Measurer

        measurer = Measurer(
            folder, Path(text) if text is not None else None, old.get("positions", 2048), train_steps, rate, seed
        )
        rows = []
        for name in names:
            progress(name)
            rows.append(_row(name, folder, to, place, measurer, deepen=deepen, seed=seed, progress=progress))
        grown = [row.name for row in rows if row.applies]
        if not grown:
            raise _none_applies(rows)
        baselines = measurer.baselines(place / grown[0], progress) if train_steps else ()
        comparison = Comparison(
            show(src, LINE),
            to if isinstance(to, str) else ",".join(f"{k}={v}" for k, v in to.items()),
            {axis: (old[axis], new[axis]) for axis in old if old[axis] != new[axis]},
            tuple(rows),
            baselines,
            measurer.source_loss,
            measurer.text.record() if measurer.text else {},
            measurer.training(),
            environment(),
        )
        if out is not None:
            _keep(comparison, place)
    if report is not None:
        from grow.comparison.page import write_page

        write_page(comparison, Path(report))
    return comparison


def _none_applies(rows: Sequence[Row]) -> Refused:
    """The error where no method can reach the target."""
    return Refused(
        option(methods=[row.name for row in rows]),
        what="none of them applies",
        why="; ".join(f"{row.name}: {row.reason}" for row in rows),
        fix=f"{option(methods=['default'])}, or another target",
    )


def _check_options(
    methods: Any, train_steps: Any, rate: Any, text: Any, out: Any, report: Any, seed: Any, revision: Any
) -> None:
    """BadInput names the first option that has a value of another kind, or no effect."""
    if methods is not None:
        check_names("methods", methods)
    check_whole("train_steps", train_steps, "it counts the training steps of each method", least=0, example=60)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
        why = "it is the peak learning rate of AdamW"
        raise BadInput(option(rate=rate), what="must be a number between 0 and 1", why=why, fix=option(rate=0.001))
    if not train_steps and rate != RATE:
        raise BadInput(
            option(rate=rate),
            what="has no effect, because nothing is trained",
            why=f"it is the learning rate of {option('train_steps')}",
            fix=f"{option(train_steps=60)}, or {left_out('rate')}",
        )
    for name, path in (("text", text), ("out", out), ("report", report)):
        if path is not None:
            check_path(name, path, "it is a file" if name != "out" else "it is a folder")
    check_whole("seed", seed, "every random choice follows from it", least=0)
    if revision is not None:
        check_text("revision", revision, "it is a branch, a tag or a commit of a hub id", "main")


def _row(
    name: str,
    source: Path,
    to: Any,
    place: Path,
    measurer: Any,
    *,
    deepen: bool,
    seed: int,
    progress: Callable[[str], None],
) -> Row:
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
    measurer.costs = cost_of(grown.plan)
    progress(f"{name}: step 0")
    damage, learning = measurer.step_zero(place / name)
    loss, curve = measurer.train(place / name, cost.flops_per_token, lambda step: progress(f"{name}: step {step}"))
    return replace(row, damage=damage, trainability=learning, loss=loss, curve=curve)


@contextmanager
def _place(out: str | os.PathLike | None) -> Iterator[Path]:
    """A new folder for the checkpoints; a temporary one where they are not kept."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="grow-compare-") as name:
            yield Path(name)
        return
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        why = "a comparison has a folder of its own"
        raise BadInput(option(out=folder), what="exists", why=why, fix="another folder")
    if not folder.parent.is_dir():
        raise BadInput(option(out=folder), what="has no parent folder", why=str(folder.parent), fix="make it first")
    with Staging(folder) as stage:
        yield stage.path
        stage.commit({COMPARISON: None})


def _keep(comparison: Comparison, folder: Path) -> None:
    from grow.comparison.svg import standalone

    write_json(folder / COMPARISON, comparison.to_dict())
    if comparison.training:
        (folder / "loss.svg").write_text(standalone(comparison), encoding="utf-8")
