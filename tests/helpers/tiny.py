"""Tiny checkpoints with every tensor random, made from a family's table; safetensors read and edited byte by byte.

No torch in here: the certificate and the faults of folders need none.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.notation.axes import GAIN, READ
from grow.notation.dtypes import RAW
from grow.notation.numbers import narrow

WEIGHTS = "model.safetensors"

# Pairwise distinct sizes; eps large enough to matter.
CONFIGS = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 29,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 0.01,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 29,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 0.01,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 29,
        "n_embd": 24,
        "n_inner": 20,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 0.05,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": 29,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        "layer_norm_eps": 0.05,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    },
    "opt": {
        "architectures": ["OPTForCausalLM"],
        "vocab_size": 29,
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "tie_word_embeddings": True,
    },
    "bert": {
        "architectures": ["BertForMaskedLM"],
        "vocab_size": 29,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 0.05,
        "tie_word_embeddings": True,
    },
}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TABLES = ("vocab", "positions", "types")


@dataclass
class Tensor:
    """A stored tensor: `raw` is writable, BF16 as its bits."""

    dtype: str
    raw: np.ndarray


def checkpoint(
    folder: Path, family: str = "llama", *, seed: int = 0, dtype: str = "F32", tokenizer: bool = False, **fields
) -> Path:
    """A checkpoint of `CONFIGS[family]` with `fields` replaced: tables N(0, 1), weights N(0, 1.7 / fan_in), gains
    1 + N(0, .09), biases N(0, .09)."""
    config = {"model_type": family, "dtype": DTYPES[dtype], **CONFIGS[family], **fields}
    known = Architecture(FAMILIES[family], config)
    sizes, draw = known.sizes, np.random.default_rng(seed)
    tensors = {}
    for name, row in known.tensors.items():
        if row.optional:
            continue
        shape = row.signature.shape(sizes)
        noise = draw.standard_normal(shape)
        reads = [n for dim, n in zip(row.signature.dims, shape) if dim.role == READ]
        table = any(label.axis in TABLES for dim in row.signature.dims if dim.role == READ for label in dim.labels)
        if len(shape) == 1:
            noise = 0.3 * noise + (row.signature.dims[0].role == GAIN)
        elif not table:
            noise *= 1.3 / math.sqrt(math.prod(reads))
        tensors[name] = Tensor(dtype, narrow(noise, dtype))
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    write_tensors(folder, tensors)
    if tokenizer:
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    value = read_json(path)
    change(value)
    write_json(path, value)


def read_header(folder: Path) -> tuple[dict, int]:
    """The entries of the single weight file, and where its data begins."""
    with open(folder / WEIGHTS, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def read_tensors(folder: Path) -> dict[str, Tensor]:
    header, start = read_header(folder)
    data = (folder / WEIGHTS).read_bytes()
    tensors = {}
    for name, entry in header.items():
        low, high = (start + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(data[low:high], dtype=RAW[entry["dtype"]]).reshape(entry["shape"]).copy()
        tensors[name] = Tensor(entry["dtype"], raw)
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    header: dict = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": list(t.raw.shape), "data_offsets": [at, at + t.raw.nbytes]}
        at += t.raw.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(t.raw).tobytes() for t in tensors.values())
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_tensor(folder: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """`change` edits the raw values of one tensor in place."""
    tensors = read_tensors(folder)
    change(tensors[name].raw)
    write_tensors(folder, tensors)


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `grow` with these arguments, in this process."""
    from grow.cli import main

    monkeypatch.setattr(sys, "argv", ["grow", *map(str, arguments)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.signal(signal.SIGTERM, before)
    return code, *capsys.readouterr()


def snapshot(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, links and times included: equal before and after when nothing was touched."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found
