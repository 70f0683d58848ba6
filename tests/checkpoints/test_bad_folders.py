"""Every malformed folder ends in one message that names the culprit and a way out."""

import math
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from malformed import (
    GOOD,
    S1,
    S2,
    SHARDS,
    TENSORS,
    check_message,
    edit_config,
    edit_index,
    framed,
    replace,
    serialised,
    write,
    write_sharded,
)

from grow.checkpoint.reader import INDEX, SINGLE, open_checkpoint
from grow.errors import BadInput, GrowError, Refused

pytestmark = pytest.mark.quick


def name_shard(name: object) -> Callable[[Path], None]:
    return edit_index(weight_map={"embed.weight": SHARDS[0], "norm.weight": name})


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
    "name-empty": (name_shard(""), BadInput, "norm.weight", "is not a file name"),
    "name-dot": (name_shard("."), BadInput, "norm.weight", "is not a file name"),
    "name-space-end": (name_shard("x.safetensors "), BadInput, "norm.weight", "is not a file name"),
    "name-long": (name_shard("x" * 300 + ".safetensors"), BadInput, "norm.weight", "is not a file name"),
    "name-number": (name_shard(7), BadInput, "norm.weight", "is not a file name"),
    "name-list": (name_shard([S2]), BadInput, "norm.weight", "is not a file name"),
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
