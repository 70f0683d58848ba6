"""Outputs of a model on its probes, the large ones in a temporary file.

out = StoredOutputs();  out["random/logits"] = logits;  out["random/logits"]        # the same numbers, read back
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Container, Iterator, MutableMapping, Sequence

import torch

SPILL = 2**22  # bytes; below it a tensor stays in memory
ELEMENTS = 2**20  # of a slice of rows; what a comparison computes from it takes some 100 MB


class StoredOutputs(MutableMapping[str, torch.Tensor]):
    """ "probe/output" -> (rows that count, width), in the dtype that the model computed.

    Tensors above `SPILL` bytes lie in an unnamed temporary file and are read each time they are asked for, so a
    caller that goes from one probe to the next has one at a time. They stay in memory where the disk has no room.
    """

    def __init__(self) -> None:
        self._items: dict[str, torch.Tensor | _Spilled] = {}
        self._file: _File | None = None

    def __getitem__(self, key: str) -> torch.Tensor:
        item = self._items[key]
        return item.read() if isinstance(item, _Spilled) else item

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        self._items[key] = self._spilled(value) or value

    def __delitem__(self, key: str) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __or__(self, other: StoredOutputs) -> StoredOutputs:
        both = StoredOutputs()
        both._items = {**self._items, **other._items}
        return both

    def only(self, keys: Container[str]) -> StoredOutputs:
        """The outputs of these names, which are not read for it."""
        some = StoredOutputs()
        some._items = {key: item for key, item in self._items.items() if key in keys}
        return some

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an output, which is not read for it."""
        return tuple(self._items[key].shape)

    def _spilled(self, value: torch.Tensor) -> _Spilled | None:
        if value.numel() * value.element_size() <= SPILL or value.device.type != "cpu":
            return None
        try:
            self._file = self._file or _File()
            return _Spilled(self._file, value)
        except OSError:  # no room, or no folder that can be written
            return None


class _File:
    """An unnamed file that is closed with the last output in it, and gone whatever ends the process."""

    def __init__(self) -> None:
        self.raw = tempfile.TemporaryFile(prefix="grow-outputs-", buffering=0)  # noqa: SIM115

    def __del__(self) -> None:
        if hasattr(self, "raw"):
            self.raw.close()


class _Spilled:
    """A tensor at the end of a file."""

    def __init__(self, file: _File, value: torch.Tensor) -> None:
        self.file, self.shape, self.dtype = file, value.shape, value.dtype
        raw = memoryview(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        self.start = end = file.raw.seek(0, os.SEEK_END)
        while end < self.start + len(raw):
            end += file.raw.write(raw[end - self.start :])

    def read(self) -> torch.Tensor:
        value = torch.empty(self.shape, dtype=self.dtype)
        raw = memoryview(value.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(raw):
            count = os.preadv(self.file.raw.fileno(), [raw[done:]], self.start + done)
            if not count:
                raise OSError("the temporary file of the outputs was truncated")
            done += count
        return value


def on_disk(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor in an unnamed temporary file, whose pages the system can write out; in memory where the disk has
    no room."""
    size = math.prod(shape)
    try:
        with tempfile.NamedTemporaryFile(prefix="grow-weights-") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size * dtype.itemsize))
            return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(*shape)
    except (OSError, RuntimeError):
        return torch.empty(*shape, dtype=dtype)


def slices(rows: int, width: int) -> Iterator[slice]:
    """All rows, some at a time: at most `ELEMENTS` numbers, at least one row."""
    step = max(1, ELEMENTS // max(1, width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
