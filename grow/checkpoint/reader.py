"""A checkpoint opened: folder, config, index and headers must agree.

    config.json                                  parsed strictly, private fields stripped
    model.safetensors                            or model.safetensors.index.json and the shards it names
    tokenizer, generation config, licence ...    the companions, which come along unchanged

What the config means for the shapes is the family's business. Weights are read by `pread` from descriptors
that stay open, so any number of threads may read at once and no tensor is ever mapped or held.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from grow.architectures.any_config import check_config
from grow.checkpoint.layout import as_in_table
from grow.checkpoint.shard_index import check_index, merged, missing_shards
from grow.errors import BadInput, listing
from grow.files.allowed_files import inside
from grow.files.companion_files import companions
from grow.files.folder_kind import check_kind, refuse_other_weights
from grow.files.header import CHUNK, TensorInfo, open_regular, parse_header, read_exactly, show, strict_json
from grow.files.locate import check_folder
from grow.files.regular import MAX_JSON, check_length, longest

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """An open checkpoint whose files all agree. Close it, or use it as a context manager.

    path        the folder, absolute and free of symlinks
    config      config.json as a dict, without private fields
    tensors     name -> TensorInfo over all shards, in the order of files and offsets; the names are those of the
                family's table, see `grow.checkpoint.layout`
    files       the weight files
    companions  relative paths of the files that come along unchanged
    notes       what was found and does no harm, one sentence each
    vouched     fields of the config, with their values, that the user says are harmless

    >>> with open_checkpoint("gpt2") as source:                   # doctest: +SKIP
    ...     info = source.tensors["wte.weight"]
    ...     first_rows = source.read(info, 0, 4 * 768 * 4)
    """

    def __init__(self, path: Path, config: dict[str, Any], ignore_unexpected: tuple[str, ...]) -> None:
        self.path, self.config, self.ignore_unexpected = path, config, ignore_unexpected
        self.tensors: dict[str, TensorInfo] = {}
        self.files: list[Path] = []
        self.companions: list[str] = []
        self.notes: list[str] = []
        self.vouched: dict[str, Any] = {}
        self._fds: dict[Path, int] = {}
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._stack = ExitStack()

    def read(self, info: TensorInfo, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a tensor, counted from its first byte. Safe from any thread."""
        self._inside(info, start, stop)
        where = f"{show(info.file)}: {show(info.name)}"
        return read_exactly(self._fd(info), stop - start, info.offset + start, where)

    def sha256(self, info: TensorInfo) -> str:
        """The sha256 of a tensor's stored bytes."""
        digest = hashlib.sha256()
        for at in range(0, info.nbytes, CHUNK):
            digest.update(self.read(info, at, min(at + CHUNK, info.nbytes)))
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Every file is still the one that was opened, by size, time, inode and device; else BadInput."""
        changed = []
        for path, before in self._seen.items():
            try:
                same = identity(os.stat(path)) == before
            except OSError:
                same = False
            if not same:
                changed.append(show(path.relative_to(self.path)))
        if changed:
            raise BadInput(
                show(self.path),
                what=f"changed since it was opened: {listing(changed)}",
                why="the grown checkpoint would mix two states of its source",
                fix="wait until nothing writes to the folder, and start again",
            )

    def take_tensors(
        self, held: Mapping[Path, Mapping[str, TensorInfo]], weight_map: Mapping[str, str], claimed: Any, index: str
    ) -> None:
        """Take over the tensors of all shards, see `grow.checkpoint.shard_index.merged`."""
        self.tensors, notes = merged(held, weight_map, claimed, self.path / index, self.ignore_unexpected)
        self.notes += notes

    def close(self) -> None:
        """No file stays open. Closing twice does no harm."""
        self._fds.clear()
        self._stack.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        fd = open_regular(path)
        self._stack.callback(os.close, fd)
        self._seen[path] = identity(os.fstat(fd))
        return fd

    def _json(self, path: Path, *, constants: bool = False) -> Any:
        fd = open_regular(path)
        try:
            status = os.fstat(fd)
            self._seen[path] = identity(status)
            check_length(status.st_size, MAX_JSON, show(path), f"check {path.name}")
            fix = f"correct {path.name}, or download it again"
            raw = read_exactly(fd, status.st_size, 0, show(path))
            return strict_json(raw, show(path), fix, constants=constants)
        finally:
            os.close(fd)

    def _fd(self, info: TensorInfo) -> int:
        if info.file not in self._fds:
            raise ValueError(f"{info.file} is not open: closed, or the tensor of another checkpoint")
        return self._fds[info.file]

    @staticmethod
    def _inside(info: TensorInfo, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= info.nbytes:
            raise ValueError(f"{info.name}: bytes {start}..{stop} of {info.nbytes}")


def open_checkpoint(
    path: str | os.PathLike[str], *, follow_symlinks: bool = False, ignore_unexpected: Iterable[str] = ()
) -> Checkpoint:
    """The checkpoint in a folder. BadInput when it is malformed, Refused when it is sound but of no use here.

    follow_symlinks    symlinks may leave the folder; otherwise only into the blobs of the same hub cache
    ignore_unexpected  shell patterns of tensors that a shard may hold though its index does not list them
    """
    folder = check_folder(path)
    patterns = (ignore_unexpected,) if isinstance(ignore_unexpected, str) else tuple(ignore_unexpected)
    checkpoint = Checkpoint(folder, {}, patterns)
    try:
        names = sorted(os.listdir(folder))
        check_kind(folder, names)
        raw = checkpoint._json(inside(folder, "config.json", follow_symlinks), constants=True)
        checkpoint.config = check_config(raw, show(folder / "config.json"), checkpoint.notes)
        shards = _open_shards(checkpoint, names, follow_symlinks)
        named = as_in_table(checkpoint.config, checkpoint.tensors, checkpoint.notes)
        checkpoint.tensors = {name: info for name, (_, info) in named.items()}
        unread = [name for name in names if name.endswith(".safetensors") and name not in shards]
        if unread:
            checkpoint.notes.append(f"not part of the checkpoint, left unread: {listing(map(show, unread))}")
        for name in companions(folder, names, follow_symlinks):
            add_companion(checkpoint, name, inside(folder, name, follow_symlinks))
    except BaseException as error:
        checkpoint.close()
        if not isinstance(error, OSError):
            raise
        what, fix = f"cannot be read: {error.strerror}", "check its permissions and the disk"
        raise BadInput(show(error.filename or folder), what=what, why="every file of it is read", fix=fix) from None
    return checkpoint


def open_tensors(path: str | os.PathLike[str]) -> Checkpoint:
    """The sharded safetensors of a folder that is not a checkpoint: no config and no companions. BadInput as there."""
    folder = check_folder(path)
    checkpoint = Checkpoint(folder, {}, ())
    try:
        _open_shards(checkpoint, sorted(os.listdir(folder)), False)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _open_shards(checkpoint: Checkpoint, names: list[str], follow_symlinks: bool) -> list[str]:
    """Open the weight files and read their headers; their names."""
    folder = checkpoint.path
    weight_map: dict[str, str] = {}
    total = None
    if INDEX in names:
        raw = checkpoint._json(inside(folder, INDEX, follow_symlinks))
        weight_map, total = check_index(raw, show(folder / INDEX))
    shards = _shards(folder, names, weight_map)
    for shard in shards:
        file = inside(folder, shard, follow_symlinks)
        checkpoint._fds[file] = checkpoint._open(file)
        checkpoint.files.append(file)
    held = {file: parse_header(fd, file)[0] for file, fd in checkpoint._fds.items()}
    checkpoint.take_tensors(held, weight_map, total, INDEX)
    return shards


def identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def add_companion(checkpoint: Checkpoint, name: str, file: Path) -> None:
    fd = open_regular(file)
    try:
        status = os.fstat(fd)
        checkpoint._seen[file] = identity(status)
        check_length(status.st_size, longest(name), show(file), f"check {file.name}")
        sentencepiece = os.pread(fd, 1, 0) == b"\n"
    finally:
        os.close(fd)
    if name.endswith(".model") and not sentencepiece:
        checkpoint.notes.append(f"{show(name)} is not a SentencePiece model and does not come along")
    else:
        checkpoint.companions.append(name)


def _shards(folder: Path, names: list[str], weight_map: dict[str, str]) -> list[str]:
    """The names of the weight files, all of them there."""
    if not weight_map:
        if SINGLE in names:
            return [SINGLE]
        refuse_other_weights(folder, names)
        weights = [show(name) for name in names if name.endswith(".safetensors")]
        raise BadInput(
            show(folder),
            what=f"has neither {SINGLE} nor {INDEX}; found {listing(weights) or 'no weights at all'}",
            why="shards without their index, or a file of another name, may be incomplete",
            fix=f"download the repository again, or rename a single file to {SINGLE}",
        )
    shards = sorted(set(weight_map.values()))
    missing_shards(folder, names, shards, INDEX)
    if SINGLE in names and SINGLE not in shards:
        what = f"holds {SINGLE} as well as an index of other shards"
        fix = f"remove {SINGLE} or {INDEX}, whichever is stale"
        raise BadInput(show(folder), what=what, why="which of the two is the model is unclear", fix=fix)
    return shards
