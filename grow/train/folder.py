"""A run's folder: new or its own, locked while somebody works in it, gone again when nothing was begun."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grow.checkpoint.staging import check_output
from grow.errors import BadInput
from grow.parallel import World
from grow.provenance import config_sha256
from grow.train.inputs import Data, Source
from grow.train.log import METRICS

RUN = "run.json"
LOCK = ".lock"


def run_document(
    begun: Mapping[str, Any], sources: Sequence[Source], data: Data, config: Mapping[str, Any], world: World
) -> dict[str, Any]:
    """Of run.json, and of train.json with step and tokens.

    begun  {"source": SRC, "before": what its weights have cost, "carried": of the state that the run began from}
    """
    import torch
    import transformers

    from grow import __version__

    return {
        "schema": 1,
        "grow": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": world.device.type,
        "world": world.size,
        "source": begun["source"],
        "before": begun["before"],
        "carried": begun["carried"],
        "config_sha256": config_sha256(config),
        "objective": data.objective.kind,
        "data": [
            {"path": str(Path(source.path).absolute()), "weight": source.weight, **hashes}
            for source, hashes in zip(sources, data.document())
        ],
        "settings": data.settings.document(),
    }


def check_run(run: Path, resume: bool) -> None:
    if not resume and run.is_dir() and any(run.iterdir()):
        raise BadInput(
            f"--out {run}",
            what="exists and is not empty",
            why="a run never writes over another",
            fix="--resume continues it" if (run / RUN).is_file() else "another --out",
        )
    if not resume:
        check_output(run, None, False, 0)
    elif not (run / RUN).is_file():
        raise BadInput(
            f"--out {run}",
            what="is no run to resume" if run.exists() else "does not exist",
            why=f"a run has a {RUN}",
            fix="the folder of the run, or without --resume",
        )


@contextmanager
def removed_unless_begun(run: Path) -> Iterator[None]:
    """A new run's folder; what fails before the first step leaves nothing."""
    run.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if not (run / METRICS).exists():
            shutil.rmtree(run, ignore_errors=True)
        raise


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One run at a time writes a folder."""
    fd = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fix = "wait for it, or choose another --out"
            raise BadInput(f"--out {run}", what="another run is writing it", why=f"{LOCK} is locked", fix=fix) from None
        yield
    finally:
        os.close(fd)
