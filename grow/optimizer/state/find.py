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
    """Which of the three formats is there, "" for none; BadInput for a state/ without a document."""
    if (path / STATE / TRAIN).is_file():
        return WRITTEN if document_of(path) is not None else SHARDED
    if (path / STATE).is_dir():
        raise damaged(path, f"{STATE}/ has no {TRAIN}")
    return TRAINER if (path / OPTIMIZER).is_file() else ""


def open_state(path: Path, *, trust: bool = False) -> TrainingState | None:
    """The training state of a folder, or None where there is none. Each of its tensors belongs to a parameter. Raises
    BadInput and Refused.

    trust  open it even where another user owns its index, which is a pickle
    """
    kind = kind_of(path)
    if not kind:
        return None
    if kind == WRITTEN:
        state: TrainingState = open_written(path, document_of(path) or {})
    else:
        state = open_sharded(path, trust) if kind == SHARDED else open_trainer(path)
    try:
        check_state(state, shapes(bare_model(path)))
    except BaseException:
        state.close()
        raise
    return state
