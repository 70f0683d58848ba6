"""The training state in a checkpoint's folder, whichever format it has."""

from __future__ import annotations

from pathlib import Path

from grow.optimizer.state.of_grow_train import open_sharded
from grow.optimizer.state.of_growth import document_of, open_written
from grow.optimizer.state.of_trainer import OPTIMIZER, open_trainer
from grow.optimizer.state.parameter_names import bare_model, shapes
from grow.optimizer.state.stored_state import TrainingState, check_state, damaged
from grow.optimizer.state.train_json import STATE, TRAIN

SHARDED, WRITTEN, TRAINER = "state/ of grow train", "state/ of a growth", "optimizer.pt of a Trainer"


def kind_of(path: Path) -> str:
    """Which of the three is there, "" for none; BadInput for a state/ that says nothing of itself."""
    if (path / STATE / TRAIN).is_file():
        return WRITTEN if document_of(path) is not None else SHARDED
    if (path / STATE).is_dir():
        raise damaged(path, f"{STATE}/ has no {TRAIN}")
    return TRAINER if (path / OPTIMIZER).is_file() else ""


def open_state(path: Path, *, trust: bool = False) -> TrainingState | None:
    """A state whose every tensor belongs to a parameter, or None where there is none. BadInput, Refused.

    trust  open it even where its index, a pickle, is somebody else's
    """
    kind = kind_of(path)
    if not kind:
        return None
    if kind == WRITTEN:
        found: TrainingState = open_written(path, document_of(path) or {})
    else:
        found = open_sharded(path, trust) if kind == SHARDED else open_trainer(path)
    try:
        check_state(found, shapes(bare_model(path)))
    except BaseException:
        found.close()
        raise
    return found
