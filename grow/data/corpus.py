"""Token files on disk, and their manifest.

Ids are little-endian uint16, or uint32 where the vocabulary is larger; documents are uint64 offsets in tokens. The
manifest names the tokenizer by the hash of its rules, so that ids are never fed to a model that reads them otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grow.errors import BadInput, GrowError
from grow.files.owned import Kind
from grow.files.regular import is_there, opened, read_json
from grow.spelling import command

SCHEMA = 1
MANIFEST = "manifest.json"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
OFFSETS: np.dtype[Any] = np.dtype("<u8")
FILES = (MANIFEST, *(f"{split}.{kind}" for split in ("train", "val") for kind in ("bin", "docs")))


def again() -> str:
    """The fix where token files are damaged."""
    return f"{command('data prepare')} writes the folder anew"


@dataclass(frozen=True)
class SplitInfo:
    """Counts of one split, and the sha256 of its ids; starts_sha256: that of the offsets of documents, or ""."""

    tokens: int
    documents: int
    bytes: int
    sha256: str
    starts_sha256: str = ""


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    tokenizer  {"name", "sha256" of its rules, "vocab_size" (largest id + 1), "end" (id after each document, or None)}
    splits     "train" and "val"
    sources    what the text came from, in order: {"name", "documents"}
    """

    dtype: str
    tokenizer: dict[str, Any]
    splits: dict[str, SplitInfo]
    sources: tuple[dict[str, Any], ...]
    seed: int
    validation: float
    grow: str

    def document(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "sources": list(self.sources)}


@dataclass(frozen=True)
class Tokens:
    """One split, memory-mapped: `ids` (tokens,), `starts` (documents,) where each document begins."""

    ids: np.ndarray
    starts: np.ndarray
    name: str

    def blocks(self, length: int) -> int:
        """How many blocks of `length` + 1 tokens there are; each begins with the last token of the one before."""
        return max(0, (len(self.ids) - 1) // length)

    def block(self, k: int, length: int) -> np.ndarray:
        """(length + 1,) int64 ids of block k: inputs and, one further, labels."""
        return np.asarray(self.ids[k * length : (k + 1) * length + 1], dtype=np.int64)

    def segments(self, k: int, length: int) -> np.ndarray:
        """(length + 1,) which document each token of block k belongs to, counted from 0 in the block."""
        low, high = k * length, (k + 1) * length + 1
        first, last = np.searchsorted(self.starts, (low, high), side="left")
        inside = np.asarray(self.starts[first:last], dtype=np.int64) - low
        begins = np.zeros(high - low, dtype=np.int64)
        np.add.at(begins, inside[inside > 0], 1)
        return np.cumsum(begins)


@dataclass(frozen=True)
class Corpus:
    """An open folder of token files."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Read the manifest and compare sizes; BadInput when something is missing, cut off or of another schema."""
        path = Path(folder)
        file = path / MANIFEST
        if not is_there(file):
            raise BadInput(
                str(folder),
                what="is not a folder of token files" if path.is_dir() else "does not exist",
                why=f"there is no {MANIFEST}",
                fix=command("data prepare", sources="TEXT", tokenizer="SRC", out=path.name or "tokens"),
            )
        manifest = _manifest(read_json(file, again()), file)
        corpus = cls(path, manifest)
        for name, info in manifest.splits.items():
            _check_size(corpus.file(name), info.tokens * DTYPES[manifest.dtype].itemsize)
            _check_size(corpus.file(name, "docs"), info.documents * OFFSETS.itemsize)
        return corpus

    def file(self, split: str, kind: str = "bin") -> Path:
        return self.path / f"{split}.{kind}"

    def split(self, name: str) -> Tokens:
        """Memory-mapped ids of "train" or "val"; an empty split has none."""
        info = self.manifest.splits[name]
        ids, starts = (
            np.memmap(self.file(name, kind), dtype=dtype, mode="r") if count else np.empty(0, dtype)
            for kind, dtype, count in (
                ("bin", DTYPES[self.manifest.dtype], info.tokens),
                ("docs", OFFSETS, info.documents),
            )
        )
        return Tokens(ids, starts, f"{self.path.name}/{name}")

    def check_bytes(self) -> None:
        """Compare the sha256 of every file; BadInput when one was changed after it was written."""
        for name, info in self.manifest.splits.items():
            for file, sha256 in ((self.file(name), info.sha256), (self.file(name, "docs"), info.starts_sha256)):
                if sha256 and sha256_of(file) != sha256:
                    raise BadInput(
                        str(file),
                        what="is not the file that was written",
                        why=f"its sha256 is not the one in {MANIFEST}",
                        fix=again(),
                    )

    def check_model(self, vocab_size: int, tokenizer_sha256: str | None, model: str) -> None:
        """BadInput when the ids are not tokens of the model: too large, or made by another tokenizer."""
        known = self.manifest.tokenizer
        if known["vocab_size"] > vocab_size:
            raise BadInput(
                str(self.path),
                what=f"was made with a tokenizer of {known['vocab_size']} tokens, {model} has {vocab_size}",
                why="an id beyond the embedding table has no row",
                fix=command("data prepare", tokenizer=model),
            )
        if tokenizer_sha256 is not None and tokenizer_sha256 != known["sha256"]:
            raise BadInput(
                str(self.path),
                what=f"was made with the tokenizer of {known['name']}, and {model} has another one",
                why="the same id would be another token",
                fix=command("data prepare", tokenizer=model),
            )


def tokenizer_sha256(tokenizer: Any) -> str:
    """The sha256 of a tokenizer's rules: of the library's JSON for a fast one, else of its vocabulary and class."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        for name in ("padding", "truncation"):  # whoever used it last has set them
            rules.pop(name, None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocab": sorted(tokenizer.get_vocab().items())}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with opened(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def _manifest(raw: Mapping[str, Any], file: Path) -> Manifest:
    try:
        if raw["schema"] != SCHEMA or raw["dtype"] not in DTYPES:
            raise ValueError(f"schema {raw['schema']!r}, dtype {raw['dtype']!r}")
        splits = {name: SplitInfo(**info) for name, info in raw["splits"].items()}
        if set(splits) != {"train", "val"}:
            raise ValueError(f"splits {sorted(splits)}")
        for s in splits.values():
            _check_kinds({"tokens": s.tokens, "documents": s.documents, "bytes": s.bytes}, int)
            _check_kinds({"sha256": s.sha256, "starts_sha256": s.starts_sha256}, str)
            if not s.sha256:
                raise ValueError("sha256 is empty")
        tokenizer = {key: raw["tokenizer"][key] for key in ("name", "sha256", "vocab_size", "end")}
        _check_kinds({key: tokenizer[key] for key in ("name", "sha256")}, str)
        _check_kinds({"vocab_size": tokenizer["vocab_size"], "end": tokenizer["end"] or 0}, int)
        return Manifest(
            raw["dtype"],
            tokenizer,
            splits,
            tuple(raw["sources"]),
            int(raw["seed"]),
            float(raw["validation"]),
            str(raw["grow"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            str(file), what="is not a manifest of token files", why=f"{type(error).__name__}: {error}", fix=again()
        ) from None


def _check_kinds(values: Mapping[str, Any], kind: type) -> None:
    for name, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError(f"{name} is {value!r}")


def _check_size(path: Path, wanted: int) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != wanted:
        raise BadInput(
            str(path),
            what="is missing" if size is None else f"must have {wanted:,} bytes, got {size:,}",
            why=f"{MANIFEST} says how many tokens there are; a file of another size is not the one that it describes",
            fix=again(),
        )


def _fault(folder: Path) -> str:
    try:
        Corpus.open(folder)
    except GrowError as error:
        return f"{error.what}, {error.why}"
    return ""


TOKENS = Kind("a token", FILES, _fault)
