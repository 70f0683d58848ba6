"""Checkpoints of pickled weights, read for verification without running their code.

    pytorch_model.bin       or pytorch_model.bin.index.json and the shards it names

`torch.load(weights_only=True)` makes tensors and the dicts around them and refuses every other thing a pickle may ask
for. Files of today are mapped, so a tensor is in memory only while it is read; files from before torch 1.6 are whole.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grow.architectures.any_config import check_config
from grow.checkpoint.layout import as_in_table
from grow.checkpoint.reader import Checkpoint, add_companion, open_checkpoint
from grow.checkpoint.shard_index import check_index, missing_shards
from grow.errors import BadInput, Refused
from grow.files.allowed_files import inside
from grow.files.companion_files import companions
from grow.files.folder_kind import check_kind
from grow.files.header import TensorInfo, show
from grow.files.locate import check_folder

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
AGAIN = "download or copy the file again"


def open_readable(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder, also one that has pickled weights alone: to look at, not to grow from."""
    folder = Path(path)
    return PickledCheckpoint(folder) if is_pickled(folder) else open_checkpoint(path)


def is_pickled(folder: Path) -> bool:
    """Whether stock loading would read pickles: there are some, and no safetensors."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    whole = "config.json" in names and "adapter_config.json" not in names
    return whole and (SINGLE in names or INDEX in names) and not any(name.endswith(".safetensors") for name in names)


class PickledCheckpoint(Checkpoint):
    """`Checkpoint` whose tensors lie in pickles."""

    def __init__(self, path: Path) -> None:
        folder = check_folder(path)
        super().__init__(folder, {}, ())
        self._values: dict[tuple[Path, str], Any] = {}
        try:
            names = sorted(os.listdir(folder))
            check_kind(folder, names)
            raw = self._json(inside(folder, "config.json"), constants=True)
            self.config = check_config(raw, show(folder / "config.json"), self.notes)
            self._open_shards(folder, names)
            named = as_in_table(self.config, self.tensors, self.notes)
            self.tensors = {name: info for name, (_, info) in named.items()}
            self._stored = {name: stored for name, (stored, _) in named.items()}
            for name in companions(folder, names):
                add_companion(self, name, inside(folder, name))
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            what, fix = f"cannot be read: {error.strerror}", "check its permissions and the disk"
            raise BadInput(show(error.filename or folder), what=what, why="every file of it is read", fix=fix) from None
        self.notes.append("the weights are pickles, which are verified and not grown")

    def _open_shards(self, folder: Path, names: list[str]) -> None:
        weight_map: dict[str, str] = {}
        if INDEX in names:
            raw = self._json(inside(folder, INDEX))
            weight_map, _ = check_index(raw, show(folder / INDEX), ".bin")
        shards = sorted(set(weight_map.values())) or [SINGLE]
        missing_shards(folder, names, shards, INDEX)
        held = {}
        for shard in shards:
            file = inside(folder, shard)
            fd = self._open(file)  # a regular file, and the one that is looked at again in the end
            self.files.append(file)
            held[file] = self._load(file, os.fstat(fd).st_size)
        self.take_tensors(held, weight_map, None, INDEX)

    def _load(self, file: Path, size: int) -> dict[str, TensorInfo]:
        infos = {}
        for name, tensor in _tensors(file).items():
            code, width = _code(tensor), tensor.element_size()
            stored_bytes = tensor.untyped_storage().nbytes()
            if tensor.numel() * width > stored_bytes or stored_bytes > max(size, 1):
                what = f"{name} claims {tensor.numel():,} numbers, more than the file holds"
                raise BadInput(show(file), what=show(what), why="a view repeats what is stored once", fix=AGAIN)
            tensor = tensor.detach().contiguous()
            infos[name] = TensorInfo(name, code, tuple(tensor.shape), file, 0, tensor.numel() * width)
            self._values[file, name] = tensor
        return infos

    def read(self, info: TensorInfo, start: int, stop: int) -> bytes:
        import torch

        self._inside(info, start, stop)
        raw = self._values[info.file, self._stored[info.name]].reshape(-1).view(torch.uint8)
        data: bytes = raw[info.offset + start : info.offset + stop].numpy().tobytes()
        return data

    def close(self) -> None:
        self._values = {}
        super().close()


def _tensors(file: Path) -> Mapping[str, Any]:
    """What a file holds, when that is tensors with names; no code of it runs."""
    import torch

    zipped = zipfile.is_zipfile(file)
    try:
        if zipped:
            with zipfile.ZipFile(file) as archive:
                if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                    raise ValueError("its records are compressed, as torch.save never does it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        imported = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise Refused(
            show(file),
            what=f"asks for {show(imported[1])}" if imported else "holds more than tensors",
            why="a pickle can run any code while it is loaded; grow reads tensors alone and never runs code",
            fix="a safetensors version, or a plain state dict: torch.save(model.state_dict(), 'pytorch_model.bin')",
        ) from None
    except Exception as error:  # torch raises a dozen types for a damaged file
        first = (str(error).strip().splitlines() or [""])[0]
        what = f"cannot be read as what torch.save writes: {type(error).__name__}: {show(first)}"
        raise BadInput(show(file), what=what, why="it is damaged or another kind of file", fix=AGAIN) from None
    if not isinstance(loaded, Mapping):
        raise _no_state_dict(file, f"is a {type(loaded).__name__}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise _no_state_dict(file, f"has a {type(tensor).__name__} under {show(repr(name), 80)}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise _no_state_dict(file, f"{show(name)} is sparse, quantised or without data")
    return loaded


def _code(tensor: Any) -> str:
    """A dtype as safetensors spells it; one that it has no name for keeps torch's."""
    from safetensors.torch import _TYPES

    return next((code for code, dtype in _TYPES.items() if dtype == tensor.dtype), str(tensor.dtype))


def _no_state_dict(file: Path, what: str) -> BadInput:
    why = "weights are a dict of tensors by their names"
    return BadInput(show(file), what=what, why=why, fix="torch.save(model.state_dict(), 'pytorch_model.bin')")
