"""Trackers: tensorboard, wandb, trackio.

Nothing leaves the machine unless it is told to: wandb writes RUN/wandb unless WANDB_MODE says otherwise (`wandb sync`
uploads it), and trackio keeps its own local store. A tracker that fails during the run is left out with a note.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from grow.errors import BadInput
from grow.spelling import option
from grow.training.settings.run_settings import Settings

PROJECT = "grow"
MODULES = {
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
}


class Tracker(Protocol):
    def record(self, entry: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""

    def close(self) -> None: ...


def asked_for(settings: Settings) -> list[str]:
    """The trackers that the settings name."""
    names = [*(["tensorboard"] if settings.tensorboard else []), *([settings.tracker] if settings.tracker else [])]
    return list(dict.fromkeys(names))


def check_trackers(settings: Settings) -> None:
    """BadInput where the package of a tracker is not installed, before anything is begun."""
    for name in asked_for(settings):
        try:
            importlib.import_module(MODULES[name])
        except ImportError:
            package = "'grow-transformers[train]'" if name == "tensorboard" else name
            raise BadInput(
                _option_of(name, settings),
                what=f"needs {name}, which is not installed",
                why="it records the metrics",
                fix=f"pip install {package}, or leave it out: metrics.jsonl has the same numbers",
            ) from None


def _option_of(name: str, settings: Settings) -> str:
    return option(tensorboard=True) if name == "tensorboard" and settings.tensorboard else option(tracker=name)


def open_trackers(run: Path, settings: Settings, done: int) -> list[Tracker]:
    """The trackers of a run; BadInput when one does not start."""
    trackers: list[Tracker] = []
    for name in asked_for(settings):
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
                trackers.append(KINDS[name](run, settings, done))
        except Exception as error:  # packages of others, and what they talk to
            close_trackers(trackers)
            why = f"{type(error).__name__}: {str(error)[:200]}"
            fix = "leave it out: metrics.jsonl has the same numbers"
            raise BadInput(_option_of(name, settings), what="does not start", why=why, fix=fix) from None
    return trackers


def close_trackers(trackers: Iterable[Tracker]) -> None:
    """Close each tracker. What it prints goes to stderr; one that fails loses nothing that metrics.jsonl lacks."""
    for tracker in trackers:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            tracker.close()


class _Board:
    """The event files in RUN/tensorboard; steps that are done again replace the earlier ones."""

    def __init__(self, run: Path, settings: Settings, done: int) -> None:
        module = importlib.import_module(MODULES["tensorboard"])
        self.writer = module.SummaryWriter(str(run / "tensorboard"), purge_step=done + 1 if done else None)

    def record(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name != "step":
                self.writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, run: Path, settings: Settings, done: int) -> None:
        self.run = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=hashlib.sha256(os.fsencode(run)).hexdigest()[:16],
            resume="allow",
            dir=str(run),
            config=settings.document(),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def record(self, entry: Mapping[str, Any]) -> None:
        self.run.log({name: value for name, value in entry.items() if name != "step"}, step=entry["step"])

    def close(self) -> None:
        self.run.finish()


class _Trackio:
    def __init__(self, run: Path, settings: Settings, done: int) -> None:
        self.module = importlib.import_module("trackio")
        name = f"{run.name}-{hashlib.sha256(os.fsencode(run)).hexdigest()[:6]}"
        self.module.init(project=PROJECT, name=name, resume="allow", config=settings.document())

    def record(self, entry: Mapping[str, Any]) -> None:
        self.module.log({name: value for name, value in entry.items() if name != "step"}, step=entry["step"])

    def close(self) -> None:
        self.module.finish()


KINDS: dict[str, Callable[[Path, Settings, int], Tracker]] = {
    "tensorboard": _Board,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
