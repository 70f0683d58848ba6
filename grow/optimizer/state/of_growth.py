"""The state/ folder of a grown checkpoint: safetensors and a JSON document.

    state/model.safetensors   model.PARAMETER, optim.PARAMETER.KEY; several files and their index where it is large
    state/train.json          {"schema": 1, "writer": "grow", "carried": …, "files": {name: bytes}}

The document is written last. A state counts only when it has the files that the document names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grow.architectures.match_faults import Info
from grow.checkpoint.reader import Checkpoint, open_tensors
from grow.errors import GrowError
from grow.files.regular import is_there, read_json
from grow.files.stored_rows import read_rows
from grow.files.writer import write_json
from grow.notation.dtypes import BITS, RAW
from grow.notation.origins import flat
from grow.optimizer.state.stored_state import Carried, TrainingState, as_tensor, bytes_of, damaged
from grow.optimizer.state.train_json import STATE, TRAIN
from grow.spelling import option

SCHEMA, WRITER = 1, "grow"

Put = Callable[[int, np.ndarray], None]  # first row, rows in stored form


@dataclass(frozen=True)
class Item:
    """A tensor that will be written: `compute(put)` hands out its rows. Items are independent of each other."""

    name: str
    dtype: str
    new_shape: tuple[int, ...]
    compute: Callable[[Put], None]

    @property
    def new_matrix(self) -> tuple[int, int]:
        return flat(self.new_shape) if self.new_shape else (1, 1)

    @property
    def nbytes(self) -> int:
        return bytes_of(self.dtype, self.new_shape)

    def value(self) -> torch.Tensor:
        """The whole tensor, in memory."""
        rows, columns = self.new_matrix
        out = np.empty((rows, columns), dtype=RAW[self.dtype])

        def put(first: int, some: np.ndarray) -> None:
            out[first : first + len(some)] = some.reshape(-1, columns)

        self.compute(put)
        return as_tensor(out, self.dtype, self.new_shape)


def write_document(folder: Path, carried: Carried) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    document = {"schema": SCHEMA, "writer": WRITER, "carried": carried.document(), "files": sizes}
    write_json(folder / TRAIN, document)


class WrittenState(TrainingState):
    """The state that a growth wrote; rows are read from where they lie."""

    def __init__(self, path: Path, carried: Carried, files: Checkpoint) -> None:
        tensors = {name: Info(info.dtype, info.shape) for name, info in files.tensors.items()}
        super().__init__(path, tensors, carried)
        self.files = files

    def read(self, name: str, first: int, end: int) -> torch.Tensor:
        info = self.files.tensors[name]
        raw = read_rows(self.files, info, first, end).copy()
        return as_tensor(raw, info.dtype, (end - first, *info.shape[1:]) if info.shape else ())

    def mapped(self, name: str) -> torch.Tensor:
        """A tensor mapped from its file, so that writing it elsewhere takes no memory."""
        info = self.files.tensors[name]
        raw = np.memmap(info.file, RAW[info.dtype], mode="c", offset=info.offset, shape=info.shape or (1,))
        return as_tensor(raw if raw.flags.aligned else raw.copy(), info.dtype, info.shape)

    def close(self) -> None:
        self.files.close()


def document_of(path: Path) -> dict[str, Any] | None:
    """state/train.json of a folder if a growth wrote it; None where there is none or `grow train` wrote it."""
    file = path / STATE / TRAIN
    if not is_there(file):
        return None
    document = read_json(file, f"grow again, or {option(state='drop')} goes on without it")
    written = isinstance(document, dict) and document.get("writer") == WRITER
    return document if written else None


def open_written(path: Path, document: dict[str, Any]) -> WrittenState:
    """The state in state/; BadInput unless all of it is there."""
    folder = path / STATE
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")
        sizes: dict[str, int] = dict(document["files"])
        carried = Carried.from_document(document["carried"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{TRAIN}: {type(error).__name__}: {error}") from None
    lost = [n for n, size in sizes.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size]
    if lost:
        raise damaged(path, f"{', '.join(lost[:4])} is missing or of another size")
    try:
        files = open_tensors(folder)
    except GrowError as error:
        raise damaged(path, f"{error.where}: {error.what}") from None
    odd = [name for name, info in files.tensors.items() if info.dtype not in BITS]
    if odd:
        files.close()
        raise damaged(path, f"{odd[0]} is of {files.tensors[odd[0]].dtype}")
    return WrittenState(path, carried, files)
