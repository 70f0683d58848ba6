"""Which files of a folder were written by grow, transformers or a trainer, and may be replaced.

A folder is replaced or removed only where it is of the kind that is to be there and every part of it belongs to that
kind: a file by its name, or by its name and size in the list that grow.json keeps. Links, other folders and other
files are named and refused, so that nothing is lost which could not be made again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from grow.errors import BadInput, GrowError, listing
from grow.files.header import open_regular, read_exactly, show, strict_json
from grow.spelling import option

MARK = ".made-by-grow"  # in a folder from its beginning until it has its name
LARGEST = 100_000_000  # bytes of a JSON document
SHARD = "-?????-of-?????"
WEIGHTS = ("model.safetensors", f"model{SHARD}.safetensors", "pytorch_model.bin", f"pytorch_model{SHARD}.bin")
SAVED = (
    *("config.json", "generation_config.json", *WEIGHTS),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "router_config.json"),
    *(f"[0-9]_*/{name}" for name in ("config.json", "model.safetensors", "pytorch_model.bin")),
)
"""What `save_pretrained` of models, tokenizers and processors writes, and the modules of sentence-transformers."""
STATES = (
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "scaler.pt", "rng_state.pth"),
    *("rng_state_*.pth", "trainer_state.json", "training_args.bin"),
    *("state/train.json", "state/model.safetensors", f"state/model{SHARD}.safetensors"),
    *("state/model.safetensors.index.json", "state/*.distcp", "state/.metadata"),
)
"""What a Trainer's checkpoint and one of `grow train` hold beside that."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder that grow writes.

    words   "a checkpoint"
    files   patterns of relative paths that belong to it; `*` stays inside a name
    fault   why a folder is not of this kind, "" where it is
    listed  relative path -> bytes of further files, as a document in the folder lists them
    """

    words: str
    files: tuple[str, ...]
    fault: Callable[[Path], str]
    listed: Callable[[Path], Mapping[str, int]] = lambda folder: {}


def check_replaced(out: Path, kind: Kind, where: str, why: str) -> None:
    """BadInput unless everything in `out` may be deleted; an empty folder may."""
    if not any(out.iterdir()):
        return
    if fault := kind.fault(out):
        raise BadInput(
            where,
            what=f"is not {kind.words} folder",
            details=[("found", fault)],
            why=why,
            fix=f"another {option('out')}",
        )
    if others := foreign(out, kind):
        raise _held(where, kind, others, why, f"move it elsewhere, or another {option('out')}")


def _held(where: str, kind: Kind, others: Sequence[str], why: str, fix: str) -> BadInput:
    return BadInput(
        where,
        what=f"holds what is not part of {kind.words}: {listing(map(show, others))}",
        why=f"{why}, and this would be lost",
        fix=fix,
    )


def foreign(folder: Path, kind: Kind) -> list[str]:
    """Relative paths of all that does not belong to the kind, folders with a slash behind them."""
    listed = kind.listed(folder)
    return [name for name, mine in _walk(folder, "", kind.files, listed) if not mine]


def remove(folder: Path, kind: Kind) -> bool:
    """Delete what belongs to the kind. True when the folder is gone; what came into it meanwhile stays."""
    listed = kind.listed(folder)
    mine = [name for name, mine in _walk(folder, "", kind.files, listed) if mine]
    for name in sorted(mine, key=lambda name: name.count("/"), reverse=True):
        with contextlib.suppress(OSError):
            (folder / name).rmdir() if name.endswith("/") else (folder / name).unlink()
    for path in sorted({parent for name in mine for parent in Path(name).parents}, key=lambda p: -len(p.parts)):
        with contextlib.suppress(OSError):
            (folder / path).rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def discard(folder: Path, kinds: Sequence[Kind], why: str) -> None:
    """`folder` is gone; BadInput, and nothing is touched, where it is a folder of none of the kinds."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BadInput(show(folder), what="is in the way", why=why, fix="move it elsewhere")
    kind = min(kinds, key=lambda kind: len(foreign(folder, kind)))
    if others := foreign(folder, kind):
        raise _held(show(folder), kind, others, why, "move it elsewhere")
    if not remove(folder, kind):
        raise BadInput(show(folder), what="cannot be removed", why="it is read-only, or in use", fix="remove it")


def _walk(folder: Path, under: str, files: tuple[str, ...], listed: Mapping[str, int]) -> Iterator[tuple[str, bool]]:
    """(relative path, whether it belongs) of every file, link and folder that is not gone into."""
    for entry in sorted(os.scandir(folder / under), key=lambda entry: entry.name):
        name = under + entry.name
        if entry.is_dir(follow_symlinks=False):
            inner = [pattern for pattern in (*files, *listed) if pattern.count("/") > name.count("/")]
            known = any(_fits(name, pattern.rsplit("/", pattern.count("/") - name.count("/"))[0]) for pattern in inner)
            if known and os.listdir(folder / name):
                yield from _walk(folder, name + "/", files, listed)
            else:
                yield name + "/", known
        else:
            status = entry.stat(follow_symlinks=False)
            known = name == MARK or any(_fits(name, pattern) for pattern in files) or listed.get(name) == status.st_size
            yield name, known and stat.S_ISREG(status.st_mode)


def _fits(name: str, pattern: str) -> bool:
    """Whether a path matches a pattern, part by part: `*` does not match a slash."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def check_file(path: Path, where: str, words: str, marks: Sequence[bytes], why: str) -> None:
    """BadInput unless the file may be replaced: it is not there, is empty, or holds one of the marks of its kind."""
    if not os.path.exists(path):
        return
    fd = open_regular(path)
    try:
        start = read_exactly(fd, min(os.fstat(fd).st_size, LARGEST), 0, show(path))
    finally:
        os.close(fd)
    if start and not any(mark in start for mark in marks):
        raise BadInput(where, what=f"is not {words}, so it is not replaced", why=why, fix="another name")


def read_json(path: Path) -> Any:
    """The value of a JSON file, whatever it is; BadInput for a file that is not JSON, not regular or too large."""
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > LARGEST:
            raise BadInput(show(path), what=f"has {size:,} bytes", why=f"at most {LARGEST:,} are read", fix="check it")
        return strict_json(read_exactly(fd, size, 0, show(path)), show(path), "check it", constants=True)
    finally:
        os.close(fd)


def _checkpoint_fault(folder: Path) -> str:
    if not os.path.lexists(folder / "config.json"):
        return "no config.json"
    try:
        config = read_json(folder / "config.json")
    except GrowError as error:
        return f"config.json {error.what}"
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str) or not config["model_type"]:
        return "config.json names no model_type"
    if not any(_fits(name, pattern) for name in os.listdir(folder) for pattern in (*WEIGHTS, "grow.json")):
        return "neither weights nor grow.json"
    return ""


def _checkpoint_list(folder: Path) -> dict[str, int]:
    """What a growth or a run says that it has written; nothing where it does not say."""
    listed: dict[str, int] = {}
    for document in ("grow.json", "state/train.json"):
        with contextlib.suppress(GrowError, AttributeError, TypeError, ValueError, OverflowError):
            files = read_json(folder / document).get("files")
            listed |= {str(name): int(size) for name, size in files.items()}
    return listed


def written(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of all files in a finished folder, for the list in its grow.json; what ends with the
    writing, hidden, is not one of them."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder): path.stat().st_size for path in paths}
    return {str(name): size for name, size in names.items() if name.parts[0][0] != "." and str(name) != "grow.json"}


CHECKPOINT = Kind("a checkpoint", (*SAVED, *STATES, "grow.json"), _checkpoint_fault, _checkpoint_list)
