"""Sound checkpoints byte by byte, and edits of them.

A fault is one edit of a sound checkpoint, so that nothing but that edit can be what is reported.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grow.checkpoint.reader import INDEX, SINGLE
from grow.errors import GrowError
from grow.notation.dtypes import FILE_DTYPES

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "vocab_size": 4,
    "num_hidden_layers": 1,
    "dtype": "float32",
}
TENSORS = {
    "embed.weight": np.arange(32, dtype="<f4").reshape(4, 8),
    "norm.weight": np.ones(8, "<f4"),
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def framed(header: str | bytes | dict, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    raw = raw.encode() if isinstance(raw, str) else raw
    return len(raw).to_bytes(8, "little") + raw + data


def entry(shape=(2, 4), offsets=(0, 32), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def serialised(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for name, value in tensors.items():
        code = next(code for code, (_, dtype) in FILE_DTYPES.items() if dtype == value.dtype)
        header[name] = entry(value.shape, (len(data), len(data) + value.nbytes), code)
        data += value.tobytes()
    return framed(header, data)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_single(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    (folder / SINGLE).write_bytes(serialised(TENSORS))
    return folder


def write_sharded(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    for shard, (name, value) in zip(SHARDS, TENSORS.items()):
        (folder / shard).write_bytes(serialised({name: value}))
    total = sum(value.nbytes for value in TENSORS.values())
    weight_map = dict(zip(TENSORS, SHARDS))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return folder


def edit_config(**fields) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "config.json", {**CONFIG, **fields})


def edit_index(**fields) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        write_json(folder / INDEX, {**index, **fields})

    return edit


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw) and None


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """`name` removed, and what `make` makes in its place."""

    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return edit


GOOD = serialised(TENSORS)


def check_message(error: GrowError, where: str, what: str) -> None:
    text = str(error)
    assert where in error.where, text
    assert what in text, text
    assert error.fix, text
    assert error.exit_code == 2
    assert len(text) < 3000
    assert all(line.isprintable() for line in text.splitlines()), text


S1, S2 = SHARDS
