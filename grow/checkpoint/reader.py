"""A checkpoint opened: folder, config, index and headers must agree.

    config.json                                  parsed strictly, private fields stripped
    model.safetensors                            or model.safetensors.index.json and the shards it names
    tokenizer, generation config, licence ...    the companions, which come along unchanged

What the config means for the shapes is the family's business. Weights are read by `pread` from descriptors
that stay open, so any number of threads may read at once and no tensor is ever mapped or held.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from grow.architectures.any_config import check_config, found
from grow.checkpoint.layout import as_in_table
from grow.errors import BadInput, Refused, listing
from grow.files.header import (
    AGAIN,
    CHUNK,
    PICKLE_FIX,
    TensorInfo,
    open_regular,
    parse_header,
    read_exactly,
    show,
    strict_json,
)
from grow.files.locate import (
    check_folder,
    check_kind,
    companions,
    inside,
    plain_name,
    refuse_other_weights,
)
from grow.files.regular import MAX_JSON, check_length, longest

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
STOCK = {
    "twice": "stock loading takes one of two tensors of a name, and nothing says which",
    "misplaced": "stock loading reads the shards whatever their index says, and other readers do not",
    "missing": "stock loading begins a tensor that no shard holds anew, most of them with random numbers",
    "unlisted": "a tensor that the index does not list may be left over from another checkpoint",
}
"""Fault of an index -> why it is one."""
REWRITTEN = "from_pretrained(…).save_pretrained(…) of transformers writes it anew, with what the index lists alone"


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

    def read_into(self, info: TensorInfo, start: int, buffer: Any) -> int:
        """`buffer` (writable, contiguous) holds the tensor's bytes from `start` on; returns its length."""
        view = memoryview(buffer).cast("B")
        self._inside(info, start, start + len(view))
        fd, done = self._fd(info), 0
        while done < len(view):
            try:
                count = os.preadv(fd, [view[done:]], info.offset + start + done)
            except OSError as error:
                raise self._changed(info.file, f"cannot be read: {error.strerror}") from None
            if not count:
                raise self._changed(info.file, f"ends inside {show(info.name)}")
            done += count
        return done

    def sha256(self, info: TensorInfo) -> str:
        """Of a tensor's stored bytes."""
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
            raise self._changed(self.path, f"changed since it was opened: {listing(changed)}")

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

    @staticmethod
    def _changed(path: Path, what: str) -> BadInput:
        why = "the grown checkpoint would mix two states of its source"
        fix = "wait until nothing writes to the folder, and start again"
        return BadInput(show(path), what=what, why=why, fix=fix)


def open_checkpoint(
    path: str | os.PathLike, *, follow_symlinks: bool = False, ignore_unexpected: Iterable[str] = ()
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
        found = as_in_table(checkpoint.config, checkpoint.tensors, checkpoint.notes)
        checkpoint.tensors = {name: info for name, (_, info) in found.items()}
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


def open_tensors(path: str | os.PathLike) -> Checkpoint:
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
    merge(checkpoint, held, weight_map, total)
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


def check_index(index: Any, where: str, ending: str = ".safetensors") -> tuple[dict[str, str], Any]:
    """Its weight_map, and the total_size it claims. Each shard is a plain name, distinct on every system."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        why = "it says which shard holds which tensor"
        raise BadInput(f"{where}: weight_map", what="missing, empty or not an object", why=why, fix=AGAIN)
    metadata = index.get("metadata", {})
    if not isinstance(metadata, dict):
        what = f"{found(metadata)}; wanted an object"
        raise BadInput(f"{where}: metadata", what=what, why="it may hold total_size", fix="remove metadata")
    spelled: dict[str, str] = {}
    for shard in _distinct(weight_map, where):
        other = spelled.setdefault(unicodedata.normalize("NFC", shard).casefold(), shard)
        if other != shard:
            what = f"{show(other)} and {show(shard)} differ only in case or encoding"
            why = "on many systems these names are one file"
            raise BadInput(where, what=what, why=why, fix="rename one of the shards, here and on disk")
        if not shard.endswith(ending):
            what, why = f"{show(shard)} is not {ending.lstrip('.')}", "grow reads safetensors only"
            raise Refused(where, what=what, why=why, fix=PICKLE_FIX)
    return weight_map, metadata.get("total_size")


def _distinct(weight_map: dict[str, Any], where: str) -> list[str]:
    shards: dict[str, None] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in shards:
            shards[plain_name(shard, f"{where}: {show(tensor)}")] = None
    return list(shards)


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


def missing_shards(folder: Path, names: list[str], shards: list[str], index: str) -> None:
    """BadInput unless all of the shards are there."""
    missing = [show(shard) for shard in shards if shard not in names]
    if missing:
        what = f"{len(missing)} of {len(shards)} shards are missing: {listing(missing, 100)}"
        raise BadInput(show(folder), what=what, why=f"{index} lists them", fix=AGAIN)


def merge(
    checkpoint: Checkpoint,
    held: Mapping[Path, Mapping[str, TensorInfo]],
    weight_map: dict[str, str],
    claimed: Any,
    index: str = INDEX,
) -> None:
    """The tensors of all shards, when no two shards hold the same one and the index tells the same story.

    held  file -> its tensors
    """
    twice, extra, misplaced = [], [], []
    for file, infos in held.items():
        for name, info in infos.items():
            if name in checkpoint.tensors:
                twice.append(f"{show(name)} ({checkpoint.tensors[name].file.name}, {file.name})")
            elif weight_map and name not in weight_map:
                extra.append(name)
            else:
                checkpoint.tensors[name] = info
                if weight_map and weight_map[name] != file.name:
                    misplaced.append(f"{show(name)} (found in {file.name}, listed in {weight_map[name]})")
    patterns = checkpoint.ignore_unexpected
    ignored = {name for name in extra if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    faults = {
        "twice": twice,
        "misplaced": misplaced,
        "missing": [f"{show(n)} ({weight_map[n]})" for n in weight_map if n not in checkpoint.tensors],
        "unlisted": [show(name) for name in extra if name not in ignored],
    }
    faults = {fault: found for fault, found in faults.items() if found}
    if faults:
        raise BadInput(
            show(checkpoint.path / index),
            what=f"disagrees with the shards: {', '.join(f'{len(faults[f])} {f}' for f in faults)}",
            details=[(fault, listing(found)) for fault, found in faults.items()],
            why="; ".join(STOCK[fault] for fault in faults),
            fix=REWRITTEN if set(faults) == {"unlisted"} else AGAIN,
        )
    if not checkpoint.tensors:
        where = show(checkpoint.files[0])
        raise BadInput(where, what="holds no tensor", why="there is nothing to grow", fix=AGAIN)
    if ignored:
        checkpoint.notes.append(f"ignored, as asked: {listing(map(show, sorted(ignored)))}")
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    if claimed is not None and claimed != total:
        checkpoint.notes.append(f"{INDEX}: total_size {show(claimed, 40)} is stale, the tensors hold {total:,}")
