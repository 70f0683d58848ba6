"""The state/ folder that `grow train` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from grow.architectures.match_faults import Info
from grow.errors import GrowError
from grow.files.distributed_checkpoint import PiecedFolder
from grow.files.stored_rows import read_rows
from grow.optimizer.state.stored_state import Carried, TrainingState, as_tensor, damaged
from grow.optimizer.state.train_json import STATE, read_train

CLASSES = {"adamw": ("AdamW",), "adafactor": ("Adafactor",), "muon": ("Muon", "AdamW")}
"""Optimizer of a run -> its classes in torch.optim."""


class ShardedState(TrainingState):
    """The state of RUN/step-…; rows are read from where they lie."""

    def __init__(self, path: Path, document: dict[str, Any], folder: PiecedFolder) -> None:
        tensors = {name: Info(t.dtype, t.shape) for name, t in folder.tensors.items()}
        super().__init__(path, tensors, _carried(path, document))
        self.folder = folder

    def read(self, name: str, first: int, end: int) -> torch.Tensor:
        info = self.folder.tensors[name]
        try:
            values = read_rows(self.folder, info, first, end).copy()
        except GrowError as error:
            raise damaged(self.path, f"{error.where} {error.what}") from None
        return as_tensor(values, info.dtype, (end - first, *info.shape[1:]) if info.shape else ())

    def close(self) -> None:
        self.folder.close()


def open_sharded(path: Path, trust: bool) -> ShardedState:
    """The state in state/; BadInput when it is damaged, or another user owns it and it is not trusted."""
    path = Path(os.path.realpath(path))
    document = read_train(path)
    folder = PiecedFolder(path / STATE, trust=trust)
    try:
        return ShardedState(path, document, folder)
    except BaseException:
        folder.close()
        raise


def _carried(path: Path, document: dict[str, Any]) -> Carried:
    """What train.json says of the run."""
    try:
        settings, before = document["settings"], document.get("carried") or {}
        own = (document["step"] - settings["begin"]) * settings["batch"]
        return Carried(
            "grow train",
            CLASSES[settings["optimizer"]],
            int(document["step"]),
            int(document["tokens"]) + int(before.get("tokens") or 0),
            {**settings, "steps": document.get("end", settings["steps"])},  # a plateau may have ended it early
            tuple({"tokens": d["tokens"], "weight": d["weight"]} for d in document["data"]),
            settings["skip"] + own,
            str(document["objective"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"train.json: {type(error).__name__}: {error}") from None
