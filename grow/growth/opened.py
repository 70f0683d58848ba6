"""A checkpoint opened to be grown: every tensor and config field is accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grow.applying.sharded_source import PiecedCheckpoint, is_pieced
from grow.architectures import architecture_of
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.match import Match, check_duplicates, match, twins
from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.errors import BadInput, did_you_mean, listing
from grow.files.header import CHUNK, show
from grow.files.locate import locate
from grow.planning.record import assumed
from grow.spelling import option


@contextmanager
def opened(
    src: str | os.PathLike, *, revision: str | None = None, assume_harmless: Sequence[str] = (), trust: bool = False
) -> Iterator[tuple[Checkpoint, Match]]:
    """A checkpoint whose every tensor and config field is accounted for.

    trust  open a sharded training checkpoint, whose index is a pickle, even where it is somebody else's
    """
    folder = locate(src, revision=revision)
    with PiecedCheckpoint(folder, trust) if is_pieced(folder) else open_checkpoint(folder) as checkpoint:
        source = architecture_of(checkpoint.config)
        vouched = {*assume_harmless, *assumed(checkpoint.path, checkpoint.config)}
        checkpoint.notes += check_vouched(source, assume_harmless)
        checkpoint.notes += check_fields(source, vouched)
        checkpoint.vouched = {k: v for k, v in checkpoint.config.items() if k in vouched and not source.family.knows(k)}
        if isinstance(checkpoint, PiecedCheckpoint):
            checkpoint.name_as(source)
        matched = match(source, checkpoint.tensors, str(checkpoint.path))
        check_duplicates(matched, lambda a, b: _same_bytes(checkpoint, a, b))
        checkpoint.notes += [
            f"{a} and {b} hold the same numbers and config.json does not tie them: they grow apart; where they were "
            'one, "tie_word_embeddings": true keeps them one'
            for a, b in twins(matched)
            if _same_bytes(checkpoint, a, b)
        ]
        yield checkpoint, matched


def check_vouched(source: Architecture, names: Sequence[str]) -> list[str]:
    """Notes of fields that need nobody to vouch for them; BadInput for one that is not there."""
    family, config = source.family, source.config
    for name in names:
        if name not in config:
            hint = did_you_mean(name, [field for field in config if not family.knows(field)] or config)
            raise BadInput(
                option(assume_harmless=[show(name, 80)]),
                what=f"config.json has no such field; {hint}".rstrip("; "),
                why="it names fields of config.json that the family does not know",
                fix="leave it out, or spell it as config.json does",
            )
    known = [name for name in names if family.knows(name)]
    note = f"{option('assume_harmless')} has no effect on {listing(known)}: the family knows what it is"
    return [note] if known else []


def _same_bytes(checkpoint: Checkpoint, a: str, b: str) -> bool:
    first, second = checkpoint.tensors[a], checkpoint.tensors[b]
    alike = (first.dtype, first.shape) == (second.dtype, second.shape)
    ranges = ((at, min(at + CHUNK, first.nbytes)) for at in range(0, first.nbytes, CHUNK))
    return alike and all(checkpoint.read(first, *span) == checkpoint.read(second, *span) for span in ranges)
