"""Text to token files: tokenized in batches, hashed, complete or not there at all."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grow.data.corpus import DTYPES, MANIFEST, OFFSETS, TOKENS, Manifest, SplitInfo, sha256_of, tokenizer_sha256
from grow.data.readers import documents
from grow.errors import BadInput
from grow.files.locate import locate
from grow.files.staging import Staging, check_apart
from grow.files.writer import write_json
from grow.models.tokenizers import load_tokenizer
from grow.spelling import check_flags, check_functions, check_path, check_text, check_whole, command, option
from grow.version import __version__
from grow.waiting import beside
from grow.zoo import TEXTS

BATCH = 256  # documents tokenized at once
LARGEST_BATCH = 1 << 22  # characters of them


def prepare(
    sources: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike,
    out: str | os.PathLike,
    field: str = "text",
    separator: str = "",
    split: str = "train",
    validation: float = 0.01,
    seed: int = 0,
    end: bool = True,
    overwrite: bool = False,
    revision: str | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Manifest:
    """Write `out` with the tokens of `sources`; returns its manifest.

    sources     files (.txt, .md, .jsonl, .parquet; .gz, .xz, .bz2), folders, datasets of the hub, a bundled text
    tokenizer   a checkpoint: folder, hub id or bundled name
    validation  share of documents kept for validation, drawn by `seed`; of a single document its last part
    end         put the tokenizer's end-of-text id after each document
    progress    called with the tokens written so far

    Raises BadInput: nothing was written. Empty documents are left out.
    """
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else sources
    _check_options(sources, tokenizer, out, validation, seed, revision)
    for name, text in (("field", field), ("separator", separator), ("split", split)):
        check_text(name, text, "it is compared with what the inputs hold", "text")
    check_flags(end=end, overwrite=overwrite)
    check_functions(progress=progress)
    folder = locate(tokenizer, revision=revision)
    reader = _load(folder)
    size = max(reader.get_vocab().values()) + 1
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    stop = _end_of(reader) if end else None
    target = Path(out)
    for path in (tokenizer, *(source for source in sources if os.fspath(source) not in TEXTS)):
        check_apart(Path(os.path.abspath(target)), path)
    with Staging(target, overwrite=overwrite, kind=TOKENS) as stage:
        writers = {name: _Writer(stage.path, name, dtype) for name in ("train", "val")}
        counts: list[dict[str, Any]] = []

        def alive() -> None:
            progress(sum(w.tokens for w in writers.values()))

        read = partial(documents, field=field, separator=separator, split=split)
        try:
            number = itertools.count()
            for source in (os.fspath(source) for source in sources):
                texts = (text for text in read(source) if text.strip())
                written = 0
                for ids, length in _tokens(reader, texts, stop, alive):
                    kept = _drawn(seed, next(number)) < validation
                    writers["val" if kept else "train"].add(ids, length)
                    written += 1
                    alive()
                if not written:
                    raise BadInput(source, what="holds no text", why="every document is empty", fix="another file")
                counts.append({"name": Path(source).name if Path(source).exists() else source, "documents": written})
        finally:
            for writer in writers.values():
                writer.close()
        if validation and not writers["val"].documents:
            _cut(stage.path, writers, validation)
        manifest = Manifest(
            dtype,
            {"name": os.fspath(tokenizer), "sha256": tokenizer_sha256(reader), "vocab_size": size, "end": stop},
            {name: writer.info() for name, writer in writers.items()},
            tuple(counts),
            seed,
            validation,
            __version__,
        )
        write_json(stage.path / MANIFEST, manifest.document())
        stage.commit({MANIFEST: None, **_sizes(manifest)})
    return manifest


def _check_options(sources: Any, tokenizer: Any, out: Any, validation: Any, seed: Any, revision: Any) -> None:
    """BadInput names the first option that has a value of another kind."""
    if not isinstance(sources, Sequence):
        check_path("sources", sources, "they are files, folders, datasets of the hub or bundled texts")
    for source in sources:
        check_path("sources", source, "each of them is a file, a folder, a dataset of the hub or a bundled text")
    if not sources:
        fix = command("data prepare", sources="TEXT")
        raise BadInput(option("sources"), what="no text is named", why="tokens come from text", fix=fix)
    check_path("tokenizer", tokenizer, "it is a checkpoint whose tokenizer reads the text")
    check_path("out", out, "token files are written to a folder")
    real = isinstance(validation, (int, float)) and not isinstance(validation, bool)
    if not real or not 0 <= validation < 1:
        raise BadInput(
            option(validation=validation),
            what="must be a number from 0 to below 1",
            why="it is a share of the documents",
            fix=option(validation=0.01),
        )
    check_whole("seed", seed, "the documents for validation are drawn by it", least=0)
    if revision is not None:
        check_text("revision", revision, "it is a branch, a tag or a commit of a hub id", "main")


def _load(folder: Path) -> Any:
    """The tokenizer of a checkpoint folder; BadInput when the folder has none."""
    try:
        return load_tokenizer(folder)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            str(folder),
            what="has no tokenizer that loads",
            why=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix=f"{option('tokenizer')} with a checkpoint that has one",
        ) from None


def _end_of(tokenizer: Any) -> int | None:
    """The id that ends a document: end of text, else the separator."""
    return next((i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None), None)


def _tokens(
    tokenizer: Any, texts: Iterable[str], stop: int | None, alive: Callable[[], None]
) -> Iterator[tuple[np.ndarray, int]]:
    """(ids, bytes of the text) of every document, without the special tokens around a model's input.

    alive  called every second while a batch is read
    """
    from grow.models.true_float64 import quiet

    read = partial(tokenizer, add_special_tokens=False, return_attention_mask=False)
    for batch in _batches(texts):
        with quiet():
            encoded = beside(partial(read, batch), alive)["input_ids"]
        for text, ids in zip(batch, encoded):
            whole = ids if stop is None else [*ids, stop]
            yield np.asarray(whole, dtype=np.int64), len(text.encode())


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == BATCH or size > LARGEST_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _drawn(seed: int, number: int) -> float:
    """A number that is uniform on [0, 1) and depends on the seed and the document's number alone."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


class _Writer:
    """Appends documents to one split."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self.dtype = DTYPES[dtype]
        self.paths = folder / f"{name}.bin", folder / f"{name}.docs"
        self.ids, self.starts = (open(path, "wb") for path in self.paths)  # noqa: SIM115
        self.tokens = self.documents = self.bytes = 0
        self.digest = hashlib.sha256()

    def add(self, ids: np.ndarray, length: int) -> None:
        raw = ids.astype(self.dtype).tobytes()
        self.starts.write(np.asarray([self.tokens], OFFSETS).tobytes())
        self.ids.write(raw)
        self.digest.update(raw)
        self.tokens += len(ids)
        self.documents += 1
        self.bytes += length

    def close(self) -> None:
        for file in (self.ids, self.starts):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def info(self) -> SplitInfo:
        return SplitInfo(self.tokens, self.documents, self.bytes, self.digest.hexdigest(), sha256_of(self.paths[1]))


def _cut(folder: Path, writers: dict[str, _Writer], share: float) -> None:
    """Make the last part of the training tokens the validation split, where no document was drawn for it."""
    train, val = writers["train"], writers["val"]
    at = train.tokens - int(train.tokens * share)
    if at in (0, train.tokens):
        return
    ids = np.fromfile(train.paths[0], train.dtype)
    starts = np.fromfile(train.paths[1], OFFSETS).astype(np.int64)
    parts = ((train, ids[:at], starts[starts < at]), (val, ids[at:], np.append(0, starts[starts > at] - at)))
    whole = train.bytes
    for writer, some, begins in parts:
        some.tofile(writer.paths[0])
        begins.astype(OFFSETS).tofile(writer.paths[1])
        writer.digest = hashlib.sha256(some.tobytes())
        writer.tokens, writer.documents = len(some), len(begins)
        writer.bytes = round(whole * len(some) / len(ids))  # no byte is known for a cut through a document


def _sizes(manifest: Manifest) -> dict[str, int]:
    """File -> the bytes that it must have."""
    width = DTYPES[manifest.dtype].itemsize
    ids = {f"{name}.bin": info.tokens * width for name, info in manifest.splits.items()}
    return ids | {f"{name}.docs": info.documents * OFFSETS.itemsize for name, info in manifest.splits.items()}
