"""The checkpoints of a run: a stock one, and beside it the state to continue from.

    config.json  model.safetensors  tokenizer …     the stock checkpoint; in grow.json "training" says what was done
    state/       torch.distributed.checkpoint, weights in full precision and moments; train.json: step, settings, hashes

A checkpoint is written to `.step-….partial`, flushed to disk, then renamed, so under its name it is whole. What a
killed run left is removed with a note. The last `keep` checkpoints stay, and those that hold a file named KEEP.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

from grow.costs.training_cost import total
from grow.errors import BadInput
from grow.files.header import show
from grow.files.writer import write_json
from grow.optimizer.state.train_json import SCHEMA, STATE, TRAIN, WRITER, read_train
from grow.planning.record import NAME, trained_record
from grow.processes import World
from grow.spelling import option
from grow.training.saved.exact_state import save_state
from grow.training.saved.stock_weights import Origin, write_stock

KEEP = "KEEP"
FOLDER = re.compile(r"step-(\d{8,})")
REST = re.compile(r"\.step-\d{8,}\.(partial|removed)")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LITTLE = 1 << 20  # bytes: a disk with less than these left counts as full


def folder_of(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"


def save(
    run: Path, step: int, source: Origin, model: Any, optimizers: list, document: dict[str, Any], world: World
) -> Path:
    """Write RUN/step-…; BadInput when it cannot be written, and earlier checkpoints are as they were.

    source    the checkpoint that the run began with; names, dtypes and companions are taken from it
    document  what state/train.json says
    """
    final = folder_of(run, step)
    partial = run / f".{final.name}.partial"
    try:
        with world.together():
            if world.first:
                shutil.rmtree(partial, ignore_errors=True)
                (partial / STATE).mkdir(parents=True)
        with world.together():
            save_state(partial / STATE, model, optimizers, world)
        write_stock(partial, source, model, world)
        with world.together():
            if world.first:
                _write_documents(partial, source, document)
                _commit(partial, final)
    except BaseException as error:
        full = _disk_full(error, run)
        if world.first:
            shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise BadInput(
                str(final),
                what=f"could not be written: {full}",
                why=f"the disk filled at step {step}; earlier checkpoints are as they were",
                fix=f"make room, then the same once more with {option(resume=True)}",
            ) from error
        raise
    return final


def _write_documents(folder: Path, source: Origin, document: dict[str, Any]) -> None:
    for name, content in source.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    write_json(folder / "config.json", source.config)
    training = {k: document[k] for k in ("grow", "step", "tokens", "source", "data")}
    if spent := total(document["before"], document):
        training["spent"] = spent.document()
    training["peak"] = {name: document["settings"][name] for name in ("optimizer", "lr")}
    write_json(folder / NAME, trained_record(source.record, training, document["grow"]))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in files}
    write_json(folder / STATE / TRAIN, {"schema": SCHEMA, "writer": WRITER, **document, "files": sizes})


def _commit(partial: Path, final: Path) -> None:
    """Flush everything to disk, then give the checkpoint its name."""
    for path in (
        *(p for p in partial.rglob("*") if p.is_file()),
        *(p for p in partial.rglob("*") if p.is_dir()),
        partial,
    ):
        _sync(path)
    if final.exists():  # a run that was resumed from an earlier step writes this one anew
        _remove(final)
    partial.rename(final)
    _sync(final.parent)


def steps(run: Path) -> list[tuple[int, Path]]:
    """Every RUN/step-…, oldest first, whether it is whole or not."""
    if not run.is_dir():
        return []
    named = ((FOLDER.fullmatch(path.name), path) for path in run.iterdir() if path.is_dir())
    return sorted((int(hit[1]), path) for hit, path in named if hit)


def clean(run: Path) -> list[str]:
    """Remove what a killed run left; a note for each removed folder."""
    notes = []
    for path in sorted(run.iterdir()) if run.is_dir() else []:
        if hit := REST.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
            if hit[1] == "partial":
                notes.append(f"removed {path.name}, left half-written by an interrupted run")
    return notes


def prune(run: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and those that hold a file KEEP."""
    for _, path in steps(run)[:-keep]:
        if not (path / KEEP).exists():
            _remove(path)


def _remove(path: Path) -> None:
    """Rename, then remove: half of a checkpoint never has its name."""
    aside = path.with_name(f".{path.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def latest(run: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """(the last whole checkpoint, its train.json, notes on those that are not whole). BadInput when none of several is
    whole, because a run never silently begins again."""
    notes: list[str] = []
    for step, path in reversed(steps(run)):
        try:
            document = read_train(path)
            if document["step"] != step:
                what = f"its {TRAIN} belongs to step {document['step']}"
                raise BadInput(show(path), what=what, why="it comes from another checkpoint", fix="bring its own back")
        except BadInput as error:
            notes.append(f"{path.name} is passed over: {error.what}, {error.why}")
            continue
        return path, document, notes
    if notes:
        raise BadInput(
            str(run),
            what="has no whole checkpoint to resume from",
            details=[("found", note) for note in notes],
            why="without the optimizer state the run would continue differently",
            fix="bring the missing files back, or begin a new run from the weights: "
            f"{option(src='RUN/step-…', state='drop')}",
        )
    return None, {}, notes


def _disk_full(error: BaseException, folder: Path) -> str:
    """What the system said where a full disk caused an error, else "". It says less when a file is half written."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        if isinstance(one, OSError) and one.errno in FULL:
            return one.strerror or "no space left"
        seen.append(one)
        one = one.__cause__ or one.__context__
    failed = isinstance(error, OSError) and error.errno == errno.EIO
    return os.strerror(errno.ENOSPC) if failed and shutil.disk_usage(folder).free < LITTLE else ""


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
