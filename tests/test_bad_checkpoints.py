"""Every malformed checkpoint ends in one message that names the culprit and a way out; every sound one opens.

A fault is one edit of a sound checkpoint, so that nothing but that edit can be what is reported.
"""

import json
import math
import os
import random
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from grow.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint
from grow.errors import BadInput, GrowError, Refused
from grow.files.header import DTYPES, parse_header, read_header, strict_json
from grow.files.locate import HUB_FILES, HUB_SKIP, check_folder, locate

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


@pytest.fixture(autouse=True)
def _never_hangs():
    def stop(*_):
        raise TimeoutError("a malformed checkpoint made the reader wait")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def framed(header: str | bytes | dict, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    raw = raw.encode() if isinstance(raw, str) else raw
    return len(raw).to_bytes(8, "little") + raw + data


def entry(shape=(2, 4), offsets=(0, 32), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def serialised(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, b""
    for name, value in tensors.items():
        code = next(code for code, (_, dtype) in DTYPES.items() if dtype == value.dtype)
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


def name_shard(name: object) -> Callable[[Path], None]:
    return edit_index(weight_map={"embed.weight": SHARDS[0], "norm.weight": name})


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw) and None


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """`name` removed, and what `make` makes in its place."""

    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return edit


def only(*keep: str, add: str = "") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
        if add:
            (folder / add).write_bytes(b"weights")

    return edit


def outside(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    target.write_bytes(serialised({"norm.weight": TENSORS["norm.weight"]}))
    path.symlink_to(target)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)


def nothing(path: Path) -> None:
    pass


GOOD = serialised(TENSORS)
W = {"w": entry()}
DATA = bytes(32)
TWICE = '{"w": %s, "w": %s}' % (json.dumps(entry()), json.dumps(entry()))  # noqa: UP031

HEADER_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "seven-bytes": (b"\0" * 7, "7 bytes are too short"),
    "length-only": (b"\2" + b"\0" * 7, "8 bytes are too short"),
    "length-zero": (framed("", DATA), "header begins with"),
    "length-huge": (b"\xff" * 8 + b"{}", "claims a header of 18,446,744,073,709,551,615 bytes"),
    "length-over-100MB": ((10**8 + 1).to_bytes(8, "little") + b"{}", "at most 100,000,000"),
    "length-beyond-file": ((1000).to_bytes(8, "little") + b"{}", "truncated: 10 of at least 1,008 bytes"),
    "not-utf8": (framed(b'{"\xff\xfe": 1}'), "is not UTF-8 at byte 2"),
    "not-json": (framed("{w: 1}"), "is not JSON"),
    "bom": (framed(b"\xef\xbb\xbf{}"), "header begins with"),
    "padded-front": (framed(" {}"), "header begins with"),
    "nul-padding": (framed("{}\0\0"), "is not JSON"),
    "two-values": (framed("{}{}"), "is not JSON"),
    "deep": (framed('{"w":' + "[" * 500_000 + "]" * 500_000 + "}"), "nested"),
    "deepish": (framed('{"w":' + "[" * 100 + "]" * 100 + "}"), "nested"),
    "long-integer": (framed('{"w": {"shape": [%s]}}' % ("9" * 10_000)), "thousands of digits"),
    "nan": (framed('{"w": {"shape": [NaN]}}'), "the number NaN"),
    "infinite": (framed('{"w": {"shape": [1e999]}}'), "the number 1e999"),
    "duplicate-tensor": (framed(TWICE, DATA), "key 'w' occurs twice"),
    "duplicate-field": (framed('{"w": {"dtype": "F32", "dtype": "F16"}}'), "key 'dtype' occurs twice"),
    "metadata-not-strings": (framed({"__metadata__": {"n": 1}}), "__metadata__"),
    "metadata-list": (framed({"__metadata__": []}), "__metadata__"),
    "entry-list": (framed({"w": []}), "w: wanted dtype, shape, data_offsets"),
    "entry-field-missing": (framed({"w": {"dtype": "F32"}}), "w: wanted dtype, shape, data_offsets"),
    "entry-field-unknown": (framed({"w": {**entry(), "stride": 1}}, DATA), "stride"),
    "name-empty": (framed({"": entry()}, DATA), "empty or not Unicode"),
    "name-surrogate": (framed(b'{"\\ud800": 1}'), "\\ud800: the name of a tensor is empty or not Unicode"),
    "dtype-unknown": (framed({"w": entry(dtype="F37")}, DATA), "w: dtype 'F37' is not supported"),
    "dtype-near": (framed({"w": entry(dtype="BF15")}, DATA), "did you mean 'BF16'?"),
    "dtype-list": (framed({"w": entry(dtype=["F32"])}, DATA), "is not supported"),
    "shape-overflow": (framed({"w": entry((2**62, 8))}, DATA), "overflows"),
    "shape-overflow-zero": (framed({"w": entry((2**62, 8, 0), (0, 0))}), "overflows"),
    "shape-beyond-int64": (framed({"w": entry((2**63,))}, DATA), "w: shape [9223372036854775808]"),
    "shape-negative": (framed({"w": entry((-2, -4))}, DATA), "w: shape [-2, -4]"),
    "shape-float": (framed({"w": entry((2.0, 4))}, DATA), "w: shape [2.0, 4]"),
    "shape-bool": (framed({"w": entry((True, 8))}, DATA), "w: shape [True, 8]"),
    "shape-number": (framed({"w": {**entry(), "shape": 8}}, DATA), "w: shape 8"),
    "shape-of-100000-axes": (framed({"w": entry((2**62,) * 100_000)}, DATA), "up to 32 integers"),
    "offsets-three": (framed({"w": entry(offsets=(0, 16, 32))}, DATA), "w: data_offsets [0, 16, 32]"),
    "offsets-negative": (framed({"w": entry(offsets=(-32, 0))}, DATA), "w: data_offsets [-32, 0]"),
    "offsets-reversed": (framed({"w": entry(offsets=(32, 0))}, DATA), "span -32 bytes"),
    "offsets-wrong-size": (framed({"w": entry(offsets=(0, 16))}, DATA), "span 16 bytes; F32 [2, 4] takes 32"),
    "offsets-out-of-range": (framed({"w": entry((2**40,), (0, 2**42))}, DATA), "truncated: "),
    "overlap": (framed({"a": entry(), "b": entry(offsets=(16, 48))}, bytes(48)), "b: overlaps a"),
    "same-place": (framed({"a": entry(), "b": entry()}, DATA), "overlaps"),
    "gap": (framed({"a": entry(), "b": entry(offsets=(40, 72))}, bytes(72)), "b: leaves a gap of 8 bytes"),
    "gap-at-start": (framed({"a": entry(offsets=(8, 40))}, bytes(40)), "a: leaves a gap of 8 bytes"),
    "truncated": (GOOD[:-5], f"truncated: {len(GOOD) - 5} of {len(GOOD)} bytes"),
    "trailing": (GOOD + b"PK\3\4", "4 trailing bytes"),
    "zip": (b"PK\3\4\x14" + bytes(60), "a zip archive as torch.save writes it (a pickle)"),
    "pickle": (b"\x80\x02}q\0(X\5\0\0\0" + bytes(60), "a pickle, not safetensors"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(60), "a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html><body>404", "HTML"),
}


def check_message(error: GrowError, where: str, what: str) -> None:
    text = str(error)
    assert where in error.where, text
    assert what in text, text
    assert error.fix, text
    assert error.exit_code == 2
    assert len(text) < 3000
    assert all(line.isprintable() for line in text.splitlines()), text


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_header_fault_is_named_and_costs_nothing(fault, tmp_path):
    raw, what = HEADER_FAULTS[fault]
    path = write_single(tmp_path) / SINGLE
    path.write_bytes(raw)
    with pytest.raises(BadInput) as direct:
        read_header(path)
    check_message(direct.value, str(path), what)
    tracemalloc.start()
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(found.value) == str(direct.value)
    assert peak < 100_000 + 60 * len(raw)


S1, S2 = SHARDS
QUANTISED = {"quant_method": "gptq", "bits": 4}
FOLDER_FAULTS: dict[str, tuple[Callable[[Path], object], type[GrowError], str, str]] = {
    "shard-fifo": (replace(S2, os.mkfifo), BadInput, S2, "no regular file"),
    "shard-folder": (replace(S2, Path.mkdir), BadInput, S2, "is a folder"),
    "shard-socket": (replace(S2, listen), BadInput, S2, "no regular file"),
    "shard-device": (
        replace(S2, lambda path: path.symlink_to("/dev/zero")),
        BadInput,
        S2,
        "leaves the folder",
    ),
    "shard-link-outside": (replace(S2, outside), BadInput, S2, "leaves the folder"),
    "shard-link-dangling": (replace(S2, lambda path: path.symlink_to("gone")), BadInput, S2, "No such file"),
    "shard-link-loop": (replace(S2, lambda path: path.symlink_to(S2)), BadInput, S2, "symbolic links"),
    "shard-empty": (write(S2, b""), BadInput, S2, "is empty"),
    "shard-without-tensors": (write(S2, framed("{}")), BadInput, INDEX, "norm.weight"),
    "shards-missing": (
        only("config.json", INDEX),
        BadInput,
        "model",
        f"2 of 2 shards are missing: {S1}, {S2}",
    ),
    "name-parent": (name_shard("../x.safetensors"), BadInput, "norm.weight", "'../x.safetensors' leaves"),
    "name-absolute": (name_shard("/etc/x.safetensors"), BadInput, "norm.weight", "leaves the folder"),
    "name-subfolder": (name_shard("sub/x.safetensors"), BadInput, "norm.weight", "leaves the folder"),
    "name-drive": (name_shard("C:\\x.safetensors"), BadInput, "norm.weight", "leaves the folder"),
    "name-host": (name_shard("\\\\host\\x.safetensors"), BadInput, "norm.weight", "leaves the folder"),
    "name-stream": (name_shard("x.safetensors:y"), BadInput, "norm.weight", "leaves the folder"),
    "name-device": (name_shard("CON.safetensors"), BadInput, "norm.weight", "is a device on Windows"),
    "name-device-bare": (name_shard("lpt1"), BadInput, "norm.weight", "is a device on Windows"),
    "name-nul": (name_shard("a\0b.safetensors"), BadInput, "norm.weight", "NUL"),
    "name-newline": (name_shard("a\nb.safetensors"), BadInput, "norm.weight", "control character"),
    "name-surrogate": (name_shard("\ud800.safetensors"), BadInput, "norm.weight", "lone surrogate"),
    "name-empty": (name_shard(""), BadInput, "norm.weight", "is no file name"),
    "name-dot": (name_shard("."), BadInput, "norm.weight", "is no file name"),
    "name-space-end": (name_shard("x.safetensors "), BadInput, "norm.weight", "is no file name"),
    "name-long": (name_shard("x" * 300 + ".safetensors"), BadInput, "norm.weight", "is no file name"),
    "name-number": (name_shard(7), BadInput, "norm.weight", "is no file name"),
    "name-list": (name_shard([S2]), BadInput, "norm.weight", "is no file name"),
    "name-case": (
        name_shard(S1.upper().replace("SAFETENSORS", "safetensors")),
        BadInput,
        INDEX,
        "only in case",
    ),
    "name-bin": (name_shard("pytorch_model.bin"), Refused, INDEX, "not safetensors"),
    "index-not-json": (write(INDEX, "{"), BadInput, INDEX, "line 1, column 2"),
    "index-false": (write(INDEX, "false"), BadInput, "weight_map", "missing"),
    "index-null": (write(INDEX, "null"), BadInput, "weight_map", "missing"),
    "index-fifo": (replace(INDEX, os.mkfifo), BadInput, INDEX, "no regular file"),
    "index-without-map": (write(INDEX, '{"metadata": {}}'), BadInput, "weight_map", "missing"),
    "index-map-empty": (edit_index(weight_map={}), BadInput, "weight_map", "empty"),
    "index-map-list": (edit_index(weight_map=[1]), BadInput, "weight_map", "not an object"),
    "index-metadata-list": (edit_index(metadata=[]), BadInput, "metadata", "wanted an object"),
    "index-key-twice": (
        write(INDEX, '{"weight_map": {"a": "b", "a": "b"}}'),
        BadInput,
        INDEX,
        "'a' occurs twice",
    ),
    "index-promises-more": (
        edit_index(weight_map={**dict(zip(TENSORS, SHARDS)), "head.weight": S1}),
        BadInput,
        INDEX,
        f"head.weight ({S1})",
    ),
    "index-lists-less": (
        write(S2, serialised({"norm.weight": TENSORS["norm.weight"], "x": TENSORS["norm.weight"]})),
        BadInput,
        INDEX,
        "1 unlisted",
    ),
    "index-misplaces": (edit_index(weight_map=dict(zip(TENSORS, (S2, S1)))), BadInput, INDEX, "2 misplaced"),
    "tensor-in-two-shards": (write(S2, GOOD), BadInput, INDEX, f"embed.weight ({S1}, {S2})"),
    "single-and-index": (write(SINGLE, GOOD), BadInput, "model", "as well as an index"),
    "shards-without-index": (only("config.json", S1, S2), BadInput, "model", f"found {S1}, {S2}"),
    "no-weights": (only("config.json"), BadInput, "model", "no weights at all"),
    "pickle-only": (only("config.json", add="pytorch_model.bin"), Refused, "model", "pickled weights only"),
    "pickle-shards-only": (
        only("config.json", add="pytorch_model.bin.index.json"),
        Refused,
        "model",
        "pickled weights only",
    ),
    "gguf-only": (only(add="model-q4.gguf"), Refused, "model", "GGUF weights only: model-q4.gguf"),
    "gguf-and-config": (only("config.json", add="model.gguf"), Refused, "model", "GGUF weights only"),
    "keras-only": (only("config.json", add="tf_model.h5"), Refused, "model", "Keras weights only"),
    "adapter": (write("adapter_config.json", "{}"), Refused, "model", "PEFT adapter"),
    "empty-folder": (only(), BadInput, "model", "the folder is empty"),
    "no-config": (only(S1, S2, INDEX), BadInput, "model", "has no config.json"),
    "config-fifo": (replace("config.json", os.mkfifo), BadInput, "config.json", "no regular file"),
    "config-link-outside": (replace("config.json", outside), BadInput, "config.json", "leaves the folder"),
    "config-not-json": (
        write("config.json", '{"a": 1,\n "b" 2}'),
        BadInput,
        "config.json",
        "line 2, column 6",
    ),
    "config-empty": (write("config.json", ""), BadInput, "config.json", "line 1, column 1"),
    "config-utf16": (write("config.json", "{}".encode("utf-16")), BadInput, "config.json", "not UTF-8"),
    "config-list": (write("config.json", "[]"), BadInput, "config.json", "is a list; wanted an object"),
    "config-key-twice": (
        write("config.json", '{"a": 1, "a": 2}'),
        BadInput,
        "config.json",
        "'a' occurs twice",
    ),
    "config-nan": (edit_config(hidden_size=math.nan), BadInput, "hidden_size", "NaN"),
    "config-infinity": (edit_config(num_hidden_layers=-math.inf), BadInput, "num_hidden_layers", "-Infinity"),
    "config-overflow": (write("config.json", '{"a": 1e400}'), BadInput, "config.json", "1e400"),
    "config-deep": (write("config.json", "[" * 10**6), BadInput, "config.json", "nested"),
    "model-type-missing": (write("config.json", "{}"), BadInput, "model_type", "missing"),
    "model-type-number": (edit_config(model_type=3), BadInput, "model_type", "3 (int)"),
    "hidden-negative": (edit_config(hidden_size=-64), BadInput, "hidden_size", "-64 (int)"),
    "hidden-zero": (edit_config(hidden_size=0), BadInput, "hidden_size", "0 (int)"),
    "hidden-string": (edit_config(hidden_size="64"), BadInput, "hidden_size", "'64' (str)"),
    "hidden-float": (edit_config(hidden_size=64.0), BadInput, "hidden_size", "64.0 (float)"),
    "hidden-bool": (edit_config(hidden_size=True), BadInput, "hidden_size", "True (bool)"),
    "heads-list": (edit_config(n_head=[4]), BadInput, "n_head", "[4] (list)"),
    "vocab-2^63": (edit_config(vocab_size=2**63), BadInput, "vocab_size", "9223372036854775808 (int)"),
    "vocab-10^4000": (edit_config(vocab_size=10**4000), BadInput, "vocab_size", "(int)"),
    "two-sizes": (edit_config(hidden_size=0, vocab_size=-1), BadInput, "hidden_size", "vocab_size: -1 (int)"),
    "dtype-unknown": (edit_config(dtype="float37"), BadInput, "dtype", "did you mean 'float32'?"),
    "torch-dtype-number": (edit_config(torch_dtype=16), BadInput, "torch_dtype", "16 (int)"),
    "quantised": (edit_config(quantization_config=QUANTISED), Refused, "quantization_config", "quantised"),
    "custom-code": (edit_config(auto_map={"AutoModel": "m.M"}), Refused, "auto_map", "never runs"),
    "other-weight-file": (edit_config(transformers_weights="x.bin"), Refused, "transformers_weights", SINGLE),
    "tokenizer-link-outside": (replace("tokenizer.json", outside), BadInput, "tokenizer.json", "leaves"),
    "tokenizer-fifo": (replace("tokenizer.json", os.mkfifo), BadInput, "tokenizer.json", "no regular file"),
    "tokenizer-folder": (replace("tokenizer.json", Path.mkdir), BadInput, "tokenizer.json", "is a folder"),
    "pooling-link-outside": (
        replace("1_Pooling", lambda path: path.symlink_to("/")),
        BadInput,
        "1_Pooling",
        "leaves the folder",
    ),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folder_fault_is_named_and_leaves_no_file_open(fault, tmp_path):
    edit, kind, where, what = FOLDER_FAULTS[fault]
    folder = write_sharded(tmp_path / "model")
    open_checkpoint(folder).close()
    edit(folder)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(kind) as found:
        open_checkpoint(folder)
    check_message(found.value, where, what)
    assert type(found.value) is kind
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("", "the path is empty"),
        ("missing", "does not exist"),
        ("org/name", "hf download org/name"),
        ("~/models/x", "leave ~ unquoted"),
        ("a\0b", "embedded null byte"),
        ("x" * 4096, "File name too long"),
        ("spaced name\n☃", "does not exist"),
        ("-leading-dash", "does not exist"),
        (__file__, "is a file; wanted the folder"),
        ("/dev/null", "is a file; wanted the folder"),
    ],
)
def test_a_path_that_is_no_folder_is_explained(path, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as found:
        open_checkpoint(path)
    check_message(found.value, "", what)


def random_fault(rng: random.Random) -> bytes:
    """A sound file with a few bytes flipped, cut, inserted, or its length replaced."""
    raw = bytearray(GOOD)
    end = 8 + int.from_bytes(GOOD[:8], "little")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(end, len(raw)) or 1)
        match rng.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                raw[at : at + 1] = rng.choice(b'{}[]",:0123456789eE-. \\').to_bytes(1, "little")
            case 2:
                del raw[at:]
            case 3:
                raw[at:at] = rng.randbytes(rng.randint(1, 4))
            case 4:
                raw[:8] = rng.getrandbits(rng.randint(1, 64)).to_bytes(8, "little")
    return bytes(raw)


def test_random_damage_of_the_header_is_survived(tmp_path):
    rng, path, refused = random.Random(0), tmp_path / "x.safetensors", 0
    tracemalloc.start()
    for _ in range(250):
        raw = random_fault(rng)
        path.write_bytes(raw)
        try:
            tensors, _ = read_header(path)
        except BadInput as error:
            refused += 1
            check_message(error, str(path), "")
        else:
            assert sum(info.nbytes for info in tensors.values()) == len(raw) - min(
                (info.offset for info in tensors.values()), default=len(raw)
            )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 180
    assert peak < 1_000_000


def contents(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found = {}
    for name, info in checkpoint.tensors.items():
        raw = checkpoint.read(info, 0, info.nbytes)
        found[name] = np.frombuffer(raw, DTYPES[info.dtype][1]).reshape(info.shape)
    return found


def assert_sound(checkpoint: Checkpoint) -> None:
    found = contents(checkpoint)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_single_file_opens(tmp_path):
    with open_checkpoint(write_single(tmp_path)) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.path == tmp_path.resolve()
        assert checkpoint.config == CONFIG
        assert checkpoint.files == [tmp_path / SINGLE]
        assert checkpoint.notes == []
        checkpoint.check_unchanged()


def test_shards_are_merged(tmp_path):
    with open_checkpoint(str(write_sharded(tmp_path))) as checkpoint:
        assert_sound(checkpoint)
        assert [file.name for file in checkpoint.files] == list(SHARDS)
        assert [info.file.name for info in checkpoint.tensors.values()] == list(SHARDS)


@pytest.mark.parametrize("index", [{}, {"metadata": {}}, {"metadata": {"total_size": 160}}])
def test_an_index_needs_no_metadata(index, tmp_path):
    write_json(write_sharded(tmp_path) / INDEX, {**index, "weight_map": dict(zip(TENSORS, SHARDS))})
    with open_checkpoint(tmp_path) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.notes == []


def test_a_stale_total_size_is_a_note(tmp_path):
    edit_index(metadata={"total_size": -1})(write_sharded(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert "total_size -1 is stale, the tensors hold 160" in checkpoint.notes[0]


def test_unlisted_tensors_are_ignored_only_on_request(tmp_path):
    write(S2, serialised({"norm.weight": TENSORS["norm.weight"], "old.bias": np.ones(3, "<f4")}))(
        write_sharded(tmp_path)
    )
    with pytest.raises(BadInput, match=r"unlisted +old\.bias") as found:
        open_checkpoint(tmp_path, ignore_unexpected=["*.weight"])
    assert "ignore_unexpected=" in found.value.fix
    with open_checkpoint(tmp_path, ignore_unexpected=["old.*"]) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.notes == ["ignored, as asked: old.bias"]


def test_a_hub_cache_opens_through_its_links_and_no_further(tmp_path):
    repo = tmp_path / "models--org--name"
    snapshot = write_sharded(repo / "snapshots" / "0123abc")
    (snapshot / "1_Pooling").mkdir()
    write_json(snapshot / "1_Pooling" / "config.json", {})
    blobs = repo / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.rglob("*.*"))):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    with open_checkpoint(snapshot) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.companions == ["1_Pooling/config.json"]
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (blobs / "2").rename(other / "2")
    link = next(path for path in snapshot.iterdir() if path.is_symlink() and not path.exists())
    link.unlink()
    link.symlink_to(other / "2")
    with pytest.raises(BadInput, match="leaves the folder"):
        open_checkpoint(snapshot)
    with open_checkpoint(snapshot, follow_symlinks=True) as checkpoint:
        assert_sound(checkpoint)


def test_a_followed_link_must_still_end_in_a_file(tmp_path):
    replace(SINGLE, lambda path: path.symlink_to("/dev/zero"))(write_single(tmp_path))
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path, follow_symlinks=True)
    check_message(found.value, SINGLE, "no regular file")


def test_a_file_without_tensors_is_no_checkpoint(tmp_path):
    write(SINGLE, framed("{}"))(write_single(tmp_path))
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path)
    check_message(found.value, SINGLE, "holds no tensor")


def test_a_folder_that_is_itself_a_link_opens(tmp_path):
    write_single(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    with open_checkpoint(tmp_path / "link") as checkpoint:
        assert checkpoint.path == (tmp_path / "real").resolve()


@pytest.mark.parametrize("name", ["with space", "new\nline", "snow☃man", "-dash", "x" * 200])
def test_odd_folder_names_open(name, tmp_path):
    with open_checkpoint(write_single(tmp_path / name)) as checkpoint:
        assert_sound(checkpoint)


def test_a_config_with_a_byte_order_mark_opens(tmp_path):
    write("config.json", b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == CONFIG


def test_null_sizes_and_absent_refusals_are_accepted(tmp_path):
    fields = {"head_dim": None, "n_inner": None, "quantization_config": None, "auto_map": {}, "dtype": None}
    edit_config(**fields)(write_single(tmp_path))
    open_checkpoint(tmp_path).close()


def test_private_fields_are_stripped_at_every_depth(tmp_path):
    private = {"_attn_implementation_internal": "org/evil", "text": {"_x": 1, "y": [{"_z": 2}]}}
    edit_config(**private)(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == {**CONFIG, "text": {"y": [{}]}}
        assert "_attn_implementation_internal, text._x, text.y._z" in checkpoint.notes[0]


COMING = """
    1_Pooling/config.json LICENSE LICENSE.txt added_tokens.json chat_template.jinja
    config_sentence_transformers.json generation_config.json merges.txt modules.json
    preprocessor_config.json sentence_bert_config.json special_tokens_map.json tokenizer.json
    tokenizer.model tokenizer_config.json vocab.json vocab.txt
"""
STAYING = """
    README.md LICENSE.py modeling_x.py pytorch_model.bin optimizer.pt training_args.bin model.gguf
    trainer_state.json weights.model consolidated.safetensors 1_Pooling/model.safetensors
"""


def test_companions_are_what_describes_and_never_weights_or_code(tmp_path):
    write_single(tmp_path)
    coming, staying = COMING.split(), STAYING.split()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "LICENSES").mkdir()
    for name in (*coming, *staying):
        (tmp_path / name).write_bytes(b"\n\x0a" if name != "weights.model" else b"\x80\x02}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.companions) == coming
        assert any("weights.model" in note for note in checkpoint.notes)
        assert any("consolidated.safetensors" in note for note in checkpoint.notes)


def test_an_invalid_generation_config_comes_along_unread(tmp_path):
    write("generation_config.json", "{nonsense")(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.companions == ["generation_config.json"]


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_and_empty_tensor_is_located(code, tmp_path):
    size, dtype = DTYPES[code]
    header = {"a": entry((3,), (0, 3 * size), code), "none": entry((0, 5), (3 * size, 3 * size), code)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed({**header, "__metadata__": {"format": "pt"}}, bytes(3 * size)))
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert tensors["a"].nbytes == 3 * size
    assert tensors["none"].shape == (0, 5)
    assert dtype is None or dtype.itemsize == size


def test_files_written_by_safetensors_are_read(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, write_single(tmp_path) / SINGLE, metadata={"format": "np"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert_sound(checkpoint)


def test_slices_are_read_from_many_threads(tmp_path):
    with open_checkpoint(write_sharded(tmp_path)) as checkpoint:
        info, wrong = checkpoint.tensors["embed.weight"], []

        def work(row: int) -> None:
            into = np.zeros(8, "<f4")
            for _ in range(200):
                raw = checkpoint.read(info, row * 32, row * 32 + 32)
                assert checkpoint.read_into(info, row * 32, into) == 32
                if raw != TENSORS["embed.weight"][row].tobytes() or raw != into.tobytes():
                    wrong.append(row)

        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert checkpoint.read(info, 5, 5) == b""


def test_bytes_outside_a_tensor_and_closed_files_are_programming_errors(tmp_path):
    checkpoint = open_checkpoint(write_single(tmp_path))
    info = checkpoint.tensors["norm.weight"]
    for start, stop in ((0, 33), (-1, 4), (8, 4)):
        with pytest.raises(ValueError, match=r"norm\.weight: bytes"):
            checkpoint.read(info, start, stop)
    with pytest.raises(ValueError, match=r"norm\.weight: bytes"):
        checkpoint.read_into(info, 4, bytearray(32))
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ValueError, match="is not open"):
        checkpoint.read(info, 0, 4)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def swap(path: Path) -> None:
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)


@pytest.mark.parametrize("change", [touch, swap, Path.unlink, lambda path: os.truncate(path, 9)])
@pytest.mark.parametrize("name", ["config.json", INDEX, SHARDS[1], "tokenizer.json"])
def test_a_change_while_open_is_noticed(change, name, tmp_path):
    write("tokenizer.json", "{ longer than nine bytes }")(write_sharded(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_unchanged()
        change(tmp_path / name)
        with pytest.raises(BadInput) as found:
            checkpoint.check_unchanged()
    check_message(found.value, str(tmp_path), f"changed since it was opened: {name}")


def test_a_file_cut_while_open_is_no_short_read(tmp_path):
    with open_checkpoint(write_single(tmp_path)) as checkpoint:
        info = checkpoint.tensors["norm.weight"]
        os.truncate(tmp_path / SINGLE, info.offset + 8)
        for read in (
            lambda: checkpoint.read(info, 0, 32),
            lambda: checkpoint.read_into(info, 0, bytearray(32)),
        ):
            with pytest.raises(BadInput) as found:
                read()
            check_message(found.value, SINGLE, "ends")


def test_a_header_read_from_an_open_file_is_the_same(tmp_path):
    path = write_single(tmp_path) / SINGLE
    with path.open("rb") as file:
        assert parse_header(file.fileno(), path) == read_header(path)


def test_strict_json_reads_what_json_is():
    assert strict_json(b' {"a": [1, 2.5e-3, null, "\\u00e9"]} ', "x", "y") == {"a": [1, 2.5e-3, None, "é"]}


def hub_error(kind: str, status: int | None) -> Exception:
    """An error of huggingface_hub as a real response would make it, whichever HTTP library is below."""
    cls = getattr(errors, kind)
    error = cls.__new__(cls, "first line\nsecond line")
    error.response = status and SimpleNamespace(status_code=status, headers={})
    return error


HUB_FAULTS = {
    "gated": (hub_error("GatedRepoError", 401), "is gated", "hf auth login"),
    "absent": (hub_error("RepositoryNotFoundError", 404), "not found: no folder here", "spelling"),
    "private": (hub_error("HfHubHTTPError", 401), "not found", "hf auth login"),
    "revision": (hub_error("RevisionNotFoundError", 404), "has no such revision", "/commits"),
    "busy": (hub_error("HfHubHTTPError", 429), "429", "wait a minute"),
    "server": (hub_error("HfHubHTTPError", 503), "not in the cache", "on this machine"),
    "offline": (hub_error("OfflineModeIsEnabled", None), "not in the cache", "on this machine"),
    "unplugged": (ConnectionError("x"), "not in the cache", "on this machine"),
    "slow": (TimeoutError("x"), "not in the cache", "on this machine"),
    "disk": (OSError(28, "No space left on device"), "No space left on device", "disk space"),
    "strange": (ValueError("first\nsecond"), "ValueError: first", "hf download"),
}


@pytest.mark.parametrize("fault", HUB_FAULTS)
def test_a_hub_fault_is_one_message(fault, monkeypatch, tmp_path):
    error, what, fix = HUB_FAULTS[fault]

    def fail(*_, **__):
        raise error

    def uncached(*_, **__):
        raise errors.LocalEntryNotFoundError("not cached")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", uncached)
    with pytest.raises(BadInput) as found:
        locate("org/name", revision="v1")
    check_message(found.value, "org/name@v1", what)
    assert fix in found.value.fix
    assert found.value.__suppress_context__


def fake_hub(monkeypatch, siblings: tuple[str, ...] = (SINGLE,)) -> list[dict]:
    calls: list[dict] = []

    def info(_, repo, revision=None, timeout=None):
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in siblings])

    def download(repo, **options):
        calls.append({"repo": repo, **options})
        return "/cache"

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_hub_id_is_fetched_at_one_commit_without_pickles(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch)
    assert locate("org/name", revision="main") == Path("/cache")
    assert [call["revision"] for call in calls] == ["c0ffee"]
    files = [
        "config.json",
        SINGLE,
        "tokenizer.model",
        "1_Pooling/config.json",
        "pytorch_model.bin",
        "modeling.py",
    ]
    skipped = [
        "onnx/config.json",
        "consolidated.safetensors",
        "2_Dense/model.safetensors",
        "training_args.bin",
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        files + skipped, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_SKIP)
    )
    assert list(wanted) == files[:4]
    assert calls[0]["allow_patterns"] == list(HUB_FILES)


def test_without_a_network_the_cached_snapshot_is_used(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise hub_error("OfflineModeIsEnabled", None)

    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    assert locate("org/name") == Path("/cache")
    assert calls[0]["local_files_only"] is True
    assert calls[0]["allow_patterns"] == list(HUB_FILES)


def test_a_pickled_repository_is_refused_before_the_download(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch, ("config.json", "pytorch_model.bin", "onnx/model.safetensors"))
    with pytest.raises(Refused) as found:
        locate("org/name")
    check_message(found.value, "org/name", "has no safetensors weights")
    assert calls == []


def test_a_folder_wins_over_a_bundled_name_and_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("small", "org/name"):
        (tmp_path / name).mkdir(parents=True)
        assert locate(name) == (tmp_path / name).resolve()
        assert locate(Path(name)) == (tmp_path / name).resolve()


def test_a_bundled_name_is_found_and_opens():
    with open_checkpoint(locate("small")) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"


@pytest.mark.parametrize(
    ("src", "what"),
    [
        ("smal", "did you mean 'small'?"),
        ("no-such-thing-at-all", "neither a folder nor a bundled name"),
        ("", "the path is empty"),
        ("./small", "does not exist"),
        ("a/b/c", "does not exist"),
        ("a\0b", "neither a folder nor a bundled name"),
        ("C:\\models\\x", "neither a folder nor a bundled name"),
        (Path("small"), "does not exist"),
    ],
)
def test_a_source_that_is_nothing_is_explained(src, what, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as found:
        locate(src)
    check_message(found.value, "", what)


def test_only_a_hub_id_has_a_revision(tmp_path):
    for src in (str(tmp_path), "small", tmp_path):
        with pytest.raises(BadInput, match="is not a hub id"):
            locate(src, revision="main")


def test_check_folder_follows_links_to_the_real_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert check_folder(tmp_path / "b") == (tmp_path / "a").resolve()
