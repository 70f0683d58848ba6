"""The index of a torch.distributed.checkpoint folder: its tensors, and the pieces that tile them."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput, Refused
from grow.files.allowed_files import plain_name
from grow.files.header import show
from grow.files.regular import opened
from grow.notation.dtypes import ITEMSIZE, code_of
from grow.spelling import option

INDEX = ".metadata"
KNOWN = {
    "torch.distributed.checkpoint.metadata": None,  # None: every class of the module
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.planner": {
        "SavePlan",
        "WriteItem",
        "WriteItemType",
        "TensorWriteData",
        "BytesIOWriteData",
    },
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device", "strided", "preserve_format"},  # and every dtype
    "collections": {"OrderedDict", "defaultdict"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
}
AGAIN = "copy the folder again, or take an earlier checkpoint"


class IndexUnpickler(pickle.Unpickler):
    """Finds the classes of an index; anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get(module, set())
        if "." not in name and (known is None or name in known or module == "torch"):
            import torch

            cls = super().find_class(module, name)
            if known is None:
                allowed = getattr(cls, "__module__", "") == module
            else:
                allowed = name in known or isinstance(cls, torch.dtype)
            if allowed:
                return cls
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an index")


@dataclass(frozen=True)
class Piece:
    """`sizes` numbers per dim of a tensor, from `begin` on, in `length` bytes at `offset` of `file`."""

    begin: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class PiecedTensor:
    """A tensor `shape` of `dtype` (a safetensors code), in pieces that tile it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def check_owner(folder: Path, trust: bool) -> None:
    """BadInput where somebody else's file would be unpickled."""
    try:
        owner = os.stat(folder / INDEX).st_uid
    except OSError as error:
        fix = "the folder that torch.distributed.checkpoint has written"
        why = "it says which file holds which tensor"
        raise BadInput(f"{folder}: {INDEX}", what=error.strerror or "cannot be read", why=why, fix=fix) from None
    if owner != os.getuid() and not trust:
        raise BadInput(
            str(folder),
            what=f"belongs to user {owner}, you are user {os.getuid()}",
            why="such a checkpoint has a pickled index, and a pickle of a stranger is not opened",
            fix=f"{option(trust_checkpoint=True)}, or the weights alone: {option(src='RUN/step-…', state='drop')}",
        )


def read_index(folder: Path) -> Any:
    """The `Metadata` of a folder; BadInput where there is none that can be read."""
    from torch.distributed.checkpoint.metadata import Metadata

    faults = (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError, TypeError, IndexError)
    try:
        with opened(folder / INDEX) as file:
            index = IndexUnpickler(file).load()
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise ValueError(f"a {type(index).__name__}")
    except faults as error:
        why = f"its index cannot be read: {error}"
        raise BadInput(str(folder), what="is not a torch.distributed.checkpoint", why=why, fix=AGAIN) from None
    return index


def indexed_tensors(folder: Path, index: Any) -> dict[str, PiecedTensor]:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored: dict[tuple[str, tuple[int, ...]], Any] = {}
    for at, info in index.storage_data.items():
        stored[at.fqn, tuple(at.offset or ())] = info
    tensors = {}
    for name, meta in index.state_dict_metadata.items():
        code = code_of(getattr(getattr(meta, "properties", None), "dtype", ""))
        if isinstance(meta, TensorStorageMetadata) and code:
            pieces = [_piece(folder, name, chunk, stored) for chunk in meta.chunks]
            tensors[name] = _tiled(folder, PiecedTensor(name, code, tuple(meta.size), tuple(pieces)))
    return tensors


def _piece(folder: Path, name: str, chunk: Any, stored: dict[tuple[str, tuple[int, ...]], Any]) -> Piece:
    begin, sizes = tuple(map(int, chunk.offsets)), tuple(map(int, chunk.sizes))
    info = stored.get((name, begin))
    where = f"{folder}: {show(name)}"
    if info is None:
        raise BadInput(where, what=f"its piece at {begin} is in no file", why="the index names none", fix=AGAIN)
    if getattr(info, "transform_descriptors", None):
        why = "its numbers cannot be read where they lie"
        raise Refused(where, what="is compressed", why=why, fix="save it without extensions of the writer")
    file = folder / plain_name(info.relative_path, where)
    return Piece(begin, sizes, file, int(info.offset), int(info.length))


def _tiled(folder: Path, tensor: PiecedTensor) -> PiecedTensor:
    """The tensor, when its pieces lie inside it, none over another, and leave nothing out."""
    fault = ""
    for piece in tensor.pieces:
        if len(piece.begin) != len(tensor.shape) or any(
            begin < 0 or size < 0 or begin + size > whole
            for begin, size, whole in zip(piece.begin, piece.sizes, tensor.shape)
        ):
            fault = f"a piece {piece.sizes} at {piece.begin} is not inside {tensor.shape}"
    if not fault and sum(math.prod(piece.sizes) for piece in tensor.pieces) != math.prod(tensor.shape):
        fault = (
            f"its {len(tensor.pieces)} pieces hold {sum(math.prod(piece.sizes) for piece in tensor.pieces):,} numbers"
        )
        fault += f", {math.prod(tensor.shape):,} are wanted"
    if not fault and len({piece.begin for piece in tensor.pieces if 0 not in piece.sizes}) < sum(
        0 not in piece.sizes for piece in tensor.pieces
    ):
        fault = "two pieces begin at one place"
    if fault:
        raise BadInput(f"{folder}: {show(tensor.name)}", what=fault, why="the index is damaged", fix=AGAIN)
    return tensor
