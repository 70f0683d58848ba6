"""A model in memory saved by stock code, with the record of its growth where it has grown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grow.checkpoint.reader import open_checkpoint
from grow.files.writer import write_json
from grow.models.true_float64 import quiet
from grow.planning.plan import Plan
from grow.planning.record import NAME, record_of
from grow.version import __version__


def save(model: Any, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)


def save_grown(model: Any, plan: Plan, folder: Path, *, source: str) -> None:
    """The model and its grow.json; `source` is how that calls what it grew from."""
    save(model, folder)
    with open_checkpoint(folder) as saved:
        digests = {name: saved.sha256(info) for name, info in saved.tensors.items()}
    write_json(folder / NAME, record_of(plan, source=source, version=__version__, tensors=digests))
