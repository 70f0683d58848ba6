"""Sharded safetensors files, written in any order.

Rows go to their place with pwrite, so a result is produced in whatever order its source is read, by several
threads, in a block of memory. A tensor's sha256 is taken from the file, after its last row.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from grow.errors import BadInput
from grow.files.header import CHUNK
from grow.notation.dtypes import ITEMSIZE

ALIGN = 8


class Planned(Protocol):
    """What has to be known of a tensor before it is written: a `TensorPlan`, or what training saves."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def new_shape(self) -> tuple[int, ...]: ...

    @property
    def new_matrix(self) -> tuple[int, int]: ...

    @property
    def nbytes(self) -> int: ...


P = TypeVar("P", bound=Planned)


@dataclass(frozen=True)
class Spot:
    """Where a tensor lies: file, absolute offset and length in bytes."""

    file: str
    offset: int
    nbytes: int
    row_bytes: int


class ShardWriter:
    """Creates the shards of `tensors` in `folder`; close() makes them durable and writes the index.

    create  False: write into the shards that another process has created, and leave the index to it
    """

    def __init__(self, folder: Path, tensors: Sequence[Planned], max_shard_size: int, *, create: bool = True) -> None:
        self.folder, self.create = folder, create
        shards = plan_shards(tensors, max_shard_size)
        self.total = sum(tensor.nbytes for tensor in tensors)
        self.spots: dict[str, Spot] = {}
        self.fds: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        many = len(shards) > 1
        try:
            for i, shard in enumerate(shards):
                file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" if many else "model.safetensors"
                self._place(file, shard)
        except BaseException:
            self.abandon()
            raise
        self.files = tuple(self.fds)

    def _place(self, file: str, shard: Sequence[Planned]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in shard:
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.new_shape),
                "data_offsets": [at, at + tensor.nbytes],
            }
            at += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGN)
        start = 8 + len(text)
        for tensor in shard:
            low = header[tensor.name]["data_offsets"][0]
            row = tensor.new_matrix[1] * ITEMSIZE[tensor.dtype]
            self.spots[tensor.name] = Spot(file, start + low, tensor.nbytes, row)
        fd = os.open(self.folder / file, os.O_RDWR | (os.O_CREAT | os.O_EXCL if self.create else 0), 0o644)
        self.fds[file], self.sizes[file] = fd, start + at
        if not self.create:
            return
        _allocate(fd, start + at)
        _pwrite(fd, len(text).to_bytes(8, "little") + text, 0)

    def write_rows(self, name: str, first: int, rows: np.ndarray) -> None:
        """Put finished rows of a tensor in their place. Safe from several threads."""
        spot = self.spots[name]
        _pwrite(
            self.fds[spot.file],
            np.ascontiguousarray(rows).data.cast("B"),
            spot.offset + first * spot.row_bytes,
        )

    def sha256(self, name: str) -> str:
        """The sha256 of the tensor's bytes as they are in the file."""
        spot = self.spots[name]
        digest = hashlib.sha256()
        for at in range(0, spot.nbytes, CHUNK):
            digest.update(os.pread(self.fds[spot.file], min(CHUNK, spot.nbytes - at), spot.offset + at))
        return digest.hexdigest()

    def close(self) -> None:
        """Every shard is durable; the process that created them writes the index when there are several."""
        for fd in self.fds.values():
            os.fsync(fd)
        self._check_there()
        self.abandon()
        if self.create and len(self.files) > 1:
            index = {
                "metadata": {"total_size": self.total},
                "weight_map": {name: spot.file for name, spot in self.spots.items()},
            }
            write_json(self.folder / "model.safetensors.index.json", index)

    def _check_there(self) -> None:
        """BadInput where a file that was written is no longer there under its name."""
        for file, fd in self.fds.items():
            there = self.folder / file
            same = there.exists() and os.path.samestat(os.stat(there), os.fstat(fd))
            if not same or os.fstat(fd).st_size != self.sizes[file]:
                raise BadInput(
                    str(there),
                    what="was changed" if there.exists() else "went away",
                    why="another program works in this folder while weights are written there",
                    fix="end it, and the same command again",
                )

    def abandon(self) -> None:
        for fd in self.fds.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds = {}


def plan_shards(tensors: Sequence[P], max_shard_size: int) -> list[list[P]]:
    """Consecutive groups of at most `max_shard_size` bytes; a tensor larger than that has a shard of its own."""
    shards: list[list[P]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > max_shard_size:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def write_json(path: Path, value: object) -> None:
    """Strict JSON with a final newline, on disk when this returns; whatever happens, the file is whole or as before."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(path, text.encode("utf-8", "backslashreplace"))  # a path that is not UTF-8 is escaped as JSON does


def write_whole(path: Path, content: bytes) -> None:
    """The file holds `content`: it is written under another name and renamed, so a crash leaves the old one intact."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(fd, size)  # not on this file system: a sparse file will do


def _pwrite(fd: int, data: Any, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
