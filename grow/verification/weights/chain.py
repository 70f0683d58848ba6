"""A checkpoint that grew more than once, proved one growth after the other.

Each `grow.json` keeps the records of the growths before its own. A growth follows from its source, its maps and its
seed, so what stood in between is grown once more, and the sha256 that were recorded of it say whether it is the same.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.errors import BadInput, GrowError
from grow.planning.parsed_record import Record
from grow.planning.record import read_record
from grow.verification.verdict import Check
from grow.verification.weights.certificate import certificate
from grow.verification.weights.recorded_growth import NoSpace, Replay


@contextmanager
def growths_between(record: Record, source: Checkpoint, grown: Checkpoint) -> Iterator[tuple[Replay, ...]]:
    """The growths that lead from `source` to `grown`, the first one first; one, unless it grew more than once.

    BadInput where `source` is not one of the checkpoints that grow.json tells of.
    """
    last, earlier = None, []
    try:
        last = Replay(record, source, grown)
    except BadInput:
        if not (earlier := _records_between(record, source, grown)):
            raise
    if last is not None:
        yield (last,)
        return
    with ExitStack() as stack:
        replays, before = [], source
        for one in earlier:
            after = stack.enter_context(_again(one, before))
            replays.append(Replay(one, before, after))
            before = after
        yield (*replays, Replay(record, before, grown))


def _records_between(record: Record, source: Checkpoint, grown: Checkpoint) -> list[Record]:
    """The records of the growths between `source` and the last one; none where it is not a source of any."""
    earlier = list(record.earlier) or _beside(record, grown)
    for k, one in enumerate(earlier):
        if source.config.get("model_type") != one.model_type:
            continue
        try:
            Replay(one, source, source)
        except GrowError:
            continue
        return earlier[k:]
    return []


def _beside(record: Record, grown: Checkpoint) -> list[Record]:
    """What the grow.json of the source says where that lies beside the grown checkpoint: older ones keep nothing."""
    name = str(record.raw["source"].get("name", ""))
    folder = grown.path.parent / Path(name).name
    try:
        with open_checkpoint(folder) as between:
            known = read_record(folder)
            if known is None:
                return []
            known.raw["dtypes"] = {name: info.dtype for name, info in between.tensors.items()}
            return [*known.earlier, known]
    except (GrowError, OSError):
        return []


@contextmanager
def _again(record: Record, source: Checkpoint) -> Iterator[Checkpoint]:
    """What this growth made of `source`, grown once more into a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="grow-between-"))
    try:
        dtypes = record.raw.get("dtypes")
        Replay(record, source, source).again(dtypes if isinstance(dtypes, dict) else {}, folder)
        with open_checkpoint(folder) as made:
            yield made
    except NoSpace as error:
        raise BadInput(
            str(source.path),
            what="cannot be held against a checkpoint that grew more than once",
            why=str(error),
            fix="free some disk, or set TMPDIR to a larger one",
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def certificate_of_chain(chain: Sequence[Replay]) -> Check:
    """The certificate of every growth in turn."""
    if len(chain) == 1:
        return certificate(chain[0])
    checks = [certificate(replay) for replay in chain]
    worst = next((k for k, check in enumerate(checks) if check.status == "fail"), None)
    if worst is None:
        worst = next((k for k, check in enumerate(checks) if check.status == "skip"), len(checks) - 1)
    shown = checks[worst]
    measured = {**shown.measured, "growths": len(chain)}
    measured["tensors"] = sum(check.measured["tensors"] for check in checks)
    residuals = [check.measured.get("largest_residual") for check in checks]
    measured["largest_residual"] = max((r for r in residuals if r is not None), default=0.0)
    reason = shown.reason and f"growth {worst + 1} of {len(chain)}: {shown.reason}"
    return Check("certificate", shown.status, measured, f"{shown.limit}, in each of {len(chain)} growths", reason)


def read_through(backs: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    """One readback for several growths, the first one first; those that leave the axis as it is are None."""
    known = [back for back in backs if back is not None]
    if not known or any(back[2:] != known[0][2:] for back in known):
        return None
    source, factor, *rest = known[0]
    for later, scale, *_ in known[1:]:
        copied = np.maximum(later, 0)
        source = np.where(later >= 0, source[copied], -1)
        factor = np.where(later >= 0, factor[copied] * scale, scale)
    return (source, factor, *rest)
