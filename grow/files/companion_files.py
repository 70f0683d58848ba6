"""The files beside the weights that come along to a grown checkpoint: tokenizer, licence, modules."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable
from pathlib import Path

from grow.errors import BadInput
from grow.files.allowed_files import inside, plain_name
from grow.files.header import show
from grow.files.regular import read_file

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "bpe.codes",
    "tekken.json",
    "*.tiktoken",
    "*.model",
    "*.spm",
    "chat_template.json",
    "*.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "*_Pooling/config.json",
    "LICEN[CS]E*",
    "NOTICE*",
)
"""Files that describe how a checkpoint is used: they come along to the grown one unchanged."""
SUBFOLDERS = ("*_Pooling", "additional_chat_templates")
MODULES = "modules.json"
LARGEST_MODULES = 1 << 20  # bytes of it
MODULE_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
"""Files of a module that `modules.json` names; its weights are its own, and nothing reads a pickle here."""
MODULE_DEPTH = 3  # folders below each other: those of a router lie in its own
NO_COMPANIONS = (".py", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def module_folder(name: object) -> bool:
    """Whether `name` is a folder beside modules.json that sentence-transformers may have written."""
    try:
        return bool(plain_name(name, MODULES))
    except BadInput:
        return False


def module_folders(folder: Path, follow_symlinks: bool = False) -> list[str]:
    """The folders that modules.json names and that are there; [] where it cannot be understood."""
    try:
        stored = json.loads(read_file(inside(folder, MODULES, follow_symlinks), most=LARGEST_MODULES))
    except (BadInput, ValueError, RecursionError, OSError):
        return []
    entries = stored if isinstance(stored, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    folders = dict.fromkeys(str(path) for path in paths if module_folder(path))
    return [path for path in folders if (folder / path).is_dir()]


def module_files(folder: Path, follow_symlinks: bool = False) -> list[str]:
    """The files of the modules that modules.json names, without code."""
    paths: list[str] = []
    for path in module_folders(folder, follow_symlinks):
        inside(folder, path, follow_symlinks)
        for place, below, names in os.walk(folder / path):
            at = Path(place).relative_to(folder)
            below[:] = sorted(below) if len(at.parts) < MODULE_DEPTH else []
            paths += [
                str(at / name)
                for name in sorted(names)
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in MODULE_FILES)
            ]
    return paths


def companions(folder: Path, names: Iterable[str], follow_symlinks: bool = False) -> list[str]:
    """Paths relative to `folder` that match COMPANIONS, never code or weights; `names`: its listing."""
    candidates = []
    names = list(names)
    modules = module_files(folder, follow_symlinks) if MODULES in names else []
    own = {module.split(os.sep)[0] for module in modules}
    for name in names:
        path = folder / name
        if name in own:
            continue
        if not path.is_dir():
            candidates.append(name)
        elif name in COMPANIONS:
            raise BadInput(show(path), what="is a folder; wanted a file", why="it comes along", fix="remove it")
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in SUBFOLDERS):
            inside(folder, name, follow_symlinks)
            candidates += [f"{name}/{child}" for child in sorted(os.listdir(path)) if not (path / child).is_dir()]
    kept = [
        name
        for name in candidates
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS)
        and not name.lower().endswith(NO_COMPANIONS)
    ]
    return kept + modules
