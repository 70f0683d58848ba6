"""Tensors of a torch.distributed.checkpoint folder, read a few rows at a time.

    .metadata                          a pickle: name -> shape, dtype, pieces; piece -> file, offset, length
    __0_0.distcp, __1_0.distcp …       the pieces, each as torch.save wrote it: a zip whose one record are the numbers

The pickle is read by an unpickler that knows the few classes such an index is made of and nothing else, and only where
it belongs to the user who runs this, unless it is trusted. Of a piece torch reads the description (weights_only, no
data); its numbers are read by `pread` where they lie. Any split of a tensor will do: by rows, columns or both.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from grow.errors import BadInput
from grow.files.allowed_files import inside
from grow.files.distributed_index import AGAIN, Piece, PiecedTensor, check_owner, indexed_tensors, read_index
from grow.files.header import open_regular, read_exactly, show
from grow.notation.dtypes import ITEMSIZE, RAW, code_of


class PiecedFolder:
    """An open folder of torch.distributed.checkpoint. Close it, or use it as a context manager.

    tensors  name -> PiecedTensor of every floating-point tensor; other entries (counters, states of a loader) are left
    """

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        """BadInput when its index is a stranger's, cannot be read or does not account for every number."""
        check_owner(folder, trust)
        self.folder = folder
        self._stack = ExitStack()
        self._fds: dict[Path, int] = {}
        self._places: dict[Piece, int] = {}
        self.tensors = indexed_tensors(folder, read_index(folder))

    def read(self, tensor: PiecedTensor, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the tensor as if it lay in one piece, row after row. Safe from several threads."""
        if not 0 <= start <= stop <= tensor.nbytes:
            raise ValueError(f"{tensor.name}: bytes {start}..{stop} of {tensor.nbytes}")
        if start == stop:
            return b""
        row = tensor.nbytes // tensor.shape[0] if tensor.shape else tensor.nbytes
        if all(piece.sizes[1:] == tensor.shape[1:] for piece in tensor.pieces):  # of whole rows, one behind the other
            begins = [
                (sum(piece.begin[:1]) * row, piece) for piece in sorted(tensor.pieces, key=lambda piece: piece.begin)
            ]
            return b"".join(self._part(tensor, piece, start - begin, stop - begin) for begin, piece in begins)
        first, last = start // row, -(-stop // row)
        return self.rows(tensor, first, last).tobytes()[start - first * row : stop - first * row]

    def rows(self, tensor: PiecedTensor, start: int, stop: int) -> np.ndarray:
        """Entries [start, stop) along dim 0 of a tensor, whatever dims it is split along; bfloat16 as its bits."""
        dtype = RAW[tensor.dtype]
        out = np.empty((stop - start, *tensor.shape[1:]), dtype)
        for piece in tensor.pieces:
            low, high = max(start, piece.begin[0]), min(stop, piece.begin[0] + piece.sizes[0])
            if low >= high or 0 in piece.sizes:
                continue
            width = math.prod(piece.sizes[1:]) * dtype.itemsize
            raw = self._part(tensor, piece, (low - piece.begin[0]) * width, (high - piece.begin[0]) * width)
            across = tuple(slice(begin, begin + size) for begin, size in zip(piece.begin[1:], piece.sizes[1:]))
            out[(slice(low - start, high - start), *across)] = np.frombuffer(raw, dtype).reshape(-1, *piece.sizes[1:])
        return out

    def check(self, rank: int = 0, size: int = 1) -> None:
        """BadInput where a piece is not what was written. Of `size` processes each looks at its share."""
        pieces = [(tensor, piece) for tensor in self.tensors.values() for piece in tensor.pieces]
        for tensor, piece in pieces[rank::size]:
            self._place(tensor, piece)

    def close(self) -> None:
        self._fds.clear()
        self._stack.close()

    def __enter__(self) -> PiecedFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _part(self, tensor: PiecedTensor, piece: Piece, start: int, stop: int) -> bytes:
        """Those of the bytes [start, stop) that are in a piece, counted from its first."""
        start, stop = max(0, start), min(stop, math.prod(piece.sizes) * ITEMSIZE[tensor.dtype])
        if start >= stop:
            return b""
        where = f"{show(piece.file)}: {show(tensor.name)}"
        return read_exactly(self._fd(piece.file), stop - start, self._place(tensor, piece) + start, where)

    def _fd(self, file: Path) -> int:
        if file not in self._fds:
            self._fds[file] = fd = open_regular(inside(Path(os.path.realpath(self.folder)), file.name))
            self._stack.callback(os.close, fd)
        return self._fds[file]

    def _place(self, tensor: PiecedTensor, piece: Piece) -> int:
        """Where in its file the numbers of a piece begin, once what is there was seen to be such a piece."""
        if piece not in self._places:
            self._places[piece] = piece.offset + _numbers(self._fd(piece.file), tensor, piece)
        return self._places[piece]


def _numbers(fd: int, tensor: PiecedTensor, piece: Piece) -> int:
    """Bytes from the beginning of a piece's zip to its numbers."""
    import torch

    where = f"{show(piece.file)}: {show(tensor.name)}"
    try:
        loaded = torch.load(io.BufferedReader(_Window(fd, piece)), map_location="meta", weights_only=True)
        with zipfile.ZipFile(io.BufferedReader(_Window(fd, piece))) as archive:
            (record,) = [i for i in archive.infolist() if "/data/" in i.filename]
            orders = [archive.read(i) for i in archive.infolist() if i.filename.endswith("/byteorder")]
            damaged = archive.testzip()
    except Exception as error:  # torch raises what its many versions raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(where, what="is not a tensor", why=reason[0][:200], fix=AGAIN) from None
    if damaged:
        raise BadInput(where, what="is damaged", why=f"{show(damaged)} has another CRC-32 than it had", fix=AGAIN)
    code = code_of(getattr(loaded, "dtype", ""))
    count = math.prod(piece.sizes)
    fits = code == tensor.dtype and tuple(loaded.shape) == piece.sizes and loaded.is_contiguous()
    if not fits or record.compress_type != zipfile.ZIP_STORED or any(order != b"little" for order in orders):
        wanted = f"{tensor.dtype} {piece.sizes}, in order and uncompressed"
        what = f"is {code} {tuple(getattr(loaded, 'shape', ()))}; wanted {wanted}"
        raise BadInput(where, what=what, why="the index says so", fix=AGAIN)
    header = read_exactly(fd, 30, piece.offset + record.header_offset, where)
    begin = record.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin += loaded.storage_offset() * ITEMSIZE[tensor.dtype]
    if begin + count * ITEMSIZE[tensor.dtype] > piece.length:
        raise BadInput(where, what="ends before its last number", why="the file is damaged", fix=AGAIN)
    return int(begin)


class _Window(io.RawIOBase):
    """The bytes of one piece as a file of its own."""

    def __init__(self, fd: int, piece: Piece) -> None:
        self._fd, self._piece, self._pos = fd, piece, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._pos

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._pos, os.SEEK_END: self._piece.length}[whence]
        self._pos = max(0, base + offset)
        return self._pos

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._piece.length - self._pos))
        data = os.pread(self._fd, count, self._piece.offset + self._pos) if count else b""
        buffer[: len(data)] = data
        self._pos += len(data)
        return len(data)
