"""The weights of a sharded training checkpoint as a source.

    FOLDER/.metadata  __0_0.distcp …      as `dcp.save({"model": model.state_dict()}, …)` or `grow train` write it
    FOLDER/config.json                    or in the folder around it; tokenizer and licence come along from there

No process ever holds the model, nor a tensor: rows are read from the files of all ranks, see
`grow.files.distributed_checkpoint`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.applying.engine import write_items
from grow.applying.tensor_rows import BLOCK
from grow.architectures.any_config import check_config
from grow.architectures.architecture import Architecture
from grow.checkpoint.layout import as_in_table, stored_spellings
from grow.checkpoint.reader import Checkpoint, add_companion, identity
from grow.errors import BadInput
from grow.files.allowed_files import inside
from grow.files.companion_files import companions
from grow.files.distributed_checkpoint import PiecedFolder
from grow.files.distributed_index import INDEX
from grow.files.header import TensorInfo, show
from grow.files.regular import MAX_BESIDE, read_file
from grow.files.stored_rows import read_matrix
from grow.files.writer import write_json
from grow.notation.axes import layers_of
from grow.notation.dtypes import NAMES
from grow.notation.origins import flat
from grow.processes import World

WRAPPERS = ("", "model.", "app.model.", "module.", "model.module.", "state_dict.")
"""What training scripts put in front of a model's names."""


def is_pieced(folder: Path) -> bool:
    return (folder / INDEX).is_file() and not any(folder.glob("*.safetensors"))


class PiecedCheckpoint(Checkpoint):
    """`Checkpoint` whose tensors lie in pieces; what is no tensor of the model is left out once it was named."""

    def __init__(self, folder: Path, trust: bool) -> None:
        home = next((path for path in (folder, folder.parent) if (path / "config.json").is_file()), None)
        if home is None:
            raise BadInput(
                show(folder),
                what="has no config.json, nor has the folder around it",
                why="it says which model the tensors are of",
                fix=f"model.config.save_pretrained({str(folder)!r})",
            )
        super().__init__(home, {}, ())
        try:
            raw = self._json(inside(home, "config.json"))
            self.config = check_config(raw, show(home / "config.json"), self.notes)
            self.pieces = PiecedFolder(folder, trust=trust)
            self._stack.callback(self.pieces.close)
            for file in {folder / INDEX, *(p.file for t in self.pieces.tensors.values() for p in t.pieces)}:
                self._seen[file] = identity(os.stat(inside(folder, file.name)))
            for name in companions(home, sorted(os.listdir(home))):
                add_companion(self, name, inside(home, name))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                what, fix = f"cannot be read: {error.strerror}", "copy the folder again, or an earlier checkpoint"
                raise BadInput(
                    show(error.filename or folder), what=what, why="every file of it is read", fix=fix
                ) from None
            raise
        self._stored: dict[str, str] = {}

    def name_as(self, model: Architecture) -> None:
        """Keep the tensors of the model, under the names that its files would have."""
        family, expected = model.family, set(model.tensors)
        expected |= {name.removeprefix(family.prefix) for name in expected}
        stored = self.pieces.tensors
        for name in stored_spellings(family):
            axis = layers_of(name)
            expected |= {name.replace(f"{{{axis}}}", str(k)) for k in range(model.sizes[axis] if axis else 1)}

        def known(wrapper: str) -> int:
            return sum(name.startswith(wrapper) and name.removeprefix(wrapper) in expected for name in stored)

        wrapper = max(WRAPPERS, key=known)  # of equals the first: the names as they are
        if not known(wrapper):
            raise BadInput(
                show(self.pieces.folder),
                what=f"holds no tensor of a {family.model_type}; it has {show(', '.join(list(stored)[:3]))}",
                why="names are those of the model's own state_dict, as they are or behind model.",
                fix='dcp.save({"model": model.state_dict()}, checkpoint_id=…)',
            )
        bare = {name.removeprefix(wrapper): name for name in stored if name.startswith(wrapper)}
        whole = {
            name: TensorInfo(name, stored[at].dtype, stored[at].shape, self.pieces.folder, 0, stored[at].nbytes)
            for name, at in bare.items()
        }
        in_table = as_in_table(self.config, whole, self.notes)
        self.tensors = {name: info for name, (_, info) in in_table.items()}
        self._stored = {name: bare[at] for name, (at, _) in in_table.items()}
        left = len(stored) - len(bare)
        if left:
            self.notes.append(f"{left} tensors beside the model's are left where they are")

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    def read(self, info: TensorInfo, start: int, stop: int) -> bytes:
        whole = self.pieces.tensors[self._stored[info.name]]
        return self.pieces.read(whole, info.offset + start, info.offset + stop)


@dataclass(frozen=True)
class _Copy:
    """A tensor that is written as it is."""

    name: str
    dtype: str
    new_shape: tuple[int, ...]
    nbytes: int

    @property
    def new_matrix(self) -> tuple[int, int]:
        return flat(self.new_shape)


def write_stock(source: PiecedCheckpoint, folder: Path, world: World) -> None:
    """The same weights as a stock checkpoint, each process its share: what checks that run the model need."""

    def compute(item: _Copy, put: Any) -> None:
        info = source.tensors[item.name]
        rows, columns = item.new_matrix
        step = max(1, BLOCK // max(1, columns))
        for first in range(0, rows, step):
            put(first, read_matrix(source, info, first, min(first + step, rows)))

    with world.together():
        if world.first:
            folder.mkdir()
            for name in source.companions:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(read_file(source.path / name, most=MAX_BESIDE))
            write_json(folder / "config.json", _as_stored(source.config, source.tensors))
    items = [_Copy(name, info.dtype, info.shape, info.nbytes) for name, info in source.tensors.items()]
    write_items(items, compute, folder, 5 * 10**9, world=world)


def _as_stored(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The config with the dtype that the weights have here: a run keeps them wider than its checkpoint."""
    codes = {info.dtype for info in tensors.values()}
    return {**config, "dtype": NAMES[codes.pop()]} if len(codes) == 1 else dict(config)
