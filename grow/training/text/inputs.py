"""The token files of a run: opened, checked against the model, made into batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from grow.data import Corpus, Loader, Tokens, prepare
from grow.data.corpus import tokenizer_sha256
from grow.data.loader import Batch
from grow.errors import BadInput
from grow.processes import World
from grow.spelling import Pair, command, left_out, option
from grow.training.run_folder import BUNDLED, FOLDERS
from grow.training.settings.run_settings import Settings
from grow.training.text.objectives import Objective
from grow.zoo import TEXTS

READ_WHOLE = 1 << 36  # bytes of a corpus: some minutes
EVALUATED = 64  # blocks of validation text, at most


@dataclass(frozen=True)
class Source:
    """A folder of token files, or a bundled text, and its share of a batch (None: by its size)."""

    path: str
    weight: float | None


def parse_sources(data: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Source]:
    """The sources that are named, each as PATH or PATH:WEIGHT; the name of a folder may itself end in :NUMBER.

    BadInput where only some have a weight.
    """
    several = [data] if isinstance(data, (str, os.PathLike)) else data
    if not isinstance(several, Sequence) or not all(isinstance(item, (str, os.PathLike)) for item in several):
        raise BadInput(
            option(data=data),
            what="must be a path or a list of paths",
            why="each of them is a folder of token files, or a bundled text",
            fix=option(data=["A:0.7", "B:0.3"]),
        )
    sources = []
    for text in [os.fspath(item) for item in several]:
        path, colon, tail = text.rpartition(":")
        weight = _number(tail) if colon and not Path(text).is_dir() else None
        sources.append(Source(path if weight is not None else text, weight))
    if len({source.weight is None for source in sources}) > 1:
        raise BadInput(
            option(data=[os.fspath(item) for item in several]),
            what="some corpora have a weight and some have none",
            why="weights are shares of a whole",
            fix=option(data=["A:0.7", "B:0.3"]),
        )
    return sources


def open_sources(
    sources: list[Source], run: Path, model: str, seed: int, world: World
) -> tuple[list[Source], list[Corpus]]:
    """The sources and their corpora. A bundled text, by default the held-out one, is tokenized into RUN."""
    sources = tokenized(sources or [Source(BUNDLED, None)], run, model, world)
    return sources, [Corpus.open(source.path) for source in sources]


def tokenized(sources: list[Source], run: Path, model: str, world: World) -> list[Source]:
    """The sources, bundled texts replaced by RUN/data…, where the model's own tokenizer has read them."""
    return [replace(s, path=_tokens_of(s.path, run, model, world)) if is_bundled(s) else s for s in sources]


def is_bundled(source: Source) -> bool:
    return source.path in TEXTS and not Path(source.path).is_dir()


def _tokens_of(name: str, run: Path, model: str, world: World) -> str:
    folder = run / FOLDERS[name]
    with world.together():
        if world.first and not folder.exists():
            prepare([name], tokenizer=model, out=folder, validation=0.05, seed=0)
    return str(folder)


class Data:
    """Batches of a run and its validation text.

    The tokens of a step are those that the model predicts from, without padding and sentinels.
    """

    def __init__(
        self, sources: list[Source], corpora: list[Corpus], objective: Objective, settings: Settings, world: World
    ) -> None:
        self.corpora, self.objective, self.settings, self.world = corpora, objective, settings, world
        self.notes: list[str] = []
        block = objective.block(settings.length)
        if block < 2:
            why = "a sequence holds special tokens and text"
            raise BadInput(option(length=settings.length), what="is too short", why=why, fix=option(length=64))
        weights = [source.weight for source in sources]
        given = None if None in weights else [w for w in weights if w is not None]
        options: dict[str, Any] = dict(length=block, documents=settings.documents)
        self.loader = Loader(
            [corpus.split("train") for corpus in corpora],
            batch=settings.batch,
            seed=settings.seed,
            weights=given,
            skip=settings.seen,
            **options,
        )
        self.loader.places(settings.begin, 0, world.size)  # it refuses a batch that cannot be shared
        if settings.batch // world.size % settings.accumulate:
            raise BadInput(
                option(accumulate=settings.accumulate),
                what=f"does not divide the {settings.batch // world.size} sequences of each process",
                why="every part has the same number of sequences",
                fix=option(accumulate=1),
            )
        self.rows = settings.batch // world.size // settings.accumulate
        self.validation: list[tuple[Tokens, int]] = []
        for tokens in (corpus.split("val") for corpus in corpora):
            count = tokens.blocks(block)
            if not count:
                self.notes.append(
                    f"{tokens.name} is not evaluated: {len(tokens.ids):,} tokens do not fill a block of {block}"
                )
            share = max(1, EVALUATED // len(corpora))
            self.validation += [(tokens, k) for k in range(min(count, share))]
        check_plateau(settings, len(self.validation))

    def parts(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's part of a step, in `accumulate` parts."""
        batch = self.loader.batch(step, self.world.rank, self.world.size)
        first = self.world.rank * len(batch.ids)
        for at in range(0, len(batch.ids), self.rows):
            part = slice(at, at + self.rows)
            some = Batch(batch.ids[part], None if batch.segments is None else batch.segments[part])
            yield self.objective.apply(some, seed=self.settings.seed, step=step, first=first + at)

    def held_out(self) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the validation blocks. All get as many parts; surplus ones have no labels."""
        length, width = self.loader.length, self.rows * self.world.size
        for at in range(0, len(self.validation), width):
            numbers = [at + self.world.rank * self.rows + k for k in range(self.rows)]
            chosen = [self.validation[min(n, len(self.validation) - 1)] for n in numbers]
            ids = np.stack([tokens.block(k, length) for tokens, k in chosen])
            segments = np.stack([t.segments(k, length) for t, k in chosen]) if self.settings.documents else None
            made = self.objective.apply(Batch(ids, segments), seed=0, step=0, first=numbers[0])
            made["labels"][[k for k, n in enumerate(numbers) if n >= len(self.validation)]] = -100
            yield made

    def named(self, step: int) -> str:
        """The blocks of a step, for messages: `tokens/train: blocks 4, 17`."""
        which, blocks = self.loader.places(step)
        parts = []
        for k, corpus in enumerate(self.corpora):
            some = sorted(int(b) for b in blocks[which == k])
            if some:
                more = f" and {len(some) - 16} more" if len(some) > 16 else ""
                parts.append(f"{corpus.path}/train: blocks {', '.join(map(str, some[:16]))}{more}")
        return "; ".join(parts)

    def check_files(self, vocab: int) -> None:
        """BadInput when the files hold an id without a row in the model, or were changed after they were written."""
        for corpus in self.corpora:
            size = sum(corpus.file(name).stat().st_size for name in corpus.manifest.splits)
            if size > READ_WHOLE:
                self.notes.append(f"{corpus.path} was not read and hashed before the run: {size:,} bytes are too many")
                continue
            self._check_ids(corpus, vocab)
            corpus.check_bytes()

    def _check_ids(self, corpus: Corpus, vocab: int) -> None:
        for tokens in (corpus.split("train"), corpus.split("val")):
            for at in range(0, len(tokens.ids), 1 << 24):
                part = tokens.ids[at : at + (1 << 24)]
                if part.max(initial=0) >= vocab:
                    where = at + int(np.argmax(part >= vocab))
                    raise BadInput(
                        str(corpus.path),
                        what=f"token {where:,} is {int(tokens.ids[where])}, the model has {vocab} rows",
                        why="an id beyond the embedding table has no row",
                        fix=f"{command('data prepare')} writes the folder anew",
                    )

    def document(self) -> list[dict[str, Any]]:
        """What a resumed run must find again."""
        return [
            {"tokens": c.manifest.splits["train"].sha256, "validation": c.manifest.splits["val"].sha256}
            for c in self.corpora
        ]


def check_plateau(settings: Settings, blocks: int) -> None:
    """BadInput where a run is to end at a plateau and has no validation text."""
    if settings.plateau and not blocks:
        raise BadInput(
            option(plateau=Pair(settings.plateau)),
            what="no corpus has a block of validation text",
            why="a plateau is found in the validation losses",
            fix=f"{command('data prepare', validation=0.05)}, or {left_out('plateau')}",
        )


def open_data(
    data: list[Source], run: Path, model: str, config: Any, tokenizer: Any, objective: Objective,
    settings: Settings, world: World, place: Callable[[list[dict[str, Any]]], Settings] | None = None,
) -> tuple[list[Source], Data]:  # fmt: skip
    """(sources, `Data` of corpora that fit the model); `place` gives the settings once the text is known."""
    sources, corpora = open_sources(data, run, model, settings.seed, world)
    rules = tokenizer_sha256(tokenizer) if tokenizer is not None else None
    for corpus in corpora:
        corpus.check_model(int(config.vocab_size), rules, model)
    if place is not None:
        hashes = (corpus.manifest.splits["train"].sha256 for corpus in corpora)
        settings = place([{"tokens": sha, "weight": source.weight} for source, sha in zip(sources, hashes)])
    loaded = Data(sources, corpora, objective, settings, world)
    with world.together():
        if world.first_here:  # another machine may have other files
            loaded.check_files(int(config.vocab_size))
    return sources, loaded


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
