"""The steps behind a plan: write the result, verify it, carry the training state along."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from grow.applying.engine import FileSource, share, write_plan
from grow.applying.sharded_source import PiecedCheckpoint, write_stock
from grow.checkpoint.reader import Checkpoint, open_checkpoint
from grow.costs.training_cost import history
from grow.errors import BadInput, GrowError, listing
from grow.files.owned import written
from grow.files.writer import write_json
from grow.growth.companions import copy_companions
from grow.optimizer.state.unreadable import foreign
from grow.planning.plan import Plan
from grow.planning.record import NAME, earlier_of, record_of
from grow.processes import World
from grow.spelling import command, option
from grow.verification.ladder import verify_folders
from grow.verification.rungs import FUNCTION, LOSSY
from grow.verification.verdict import Verification
from grow.version import __version__


class Different(GrowError):
    """The grown checkpoint does not compute what its source computes; nothing was kept. Exit code 1."""

    exit_code = 1

    def __init__(self, where: str, *, verification: Verification | None = None, **parts: Any) -> None:
        self.verification = verification
        super().__init__(where, **parts)


def check_same(the_plan: Plan, checkpoint: Checkpoint, world: World) -> None:
    """BadInput unless every process has read the same source and makes the same plan."""
    shapes = [(t.name, t.old, t.new_shape, t.dtype) for t in the_plan.tensors]
    mine = hashlib.sha256(repr((the_plan.config, the_plan.new_config, shapes)).encode()).hexdigest()
    first = world.broadcast(mine)
    with world.together():
        if mine != first:
            raise BadInput(
                str(checkpoint.path),
                what=f"is another checkpoint for process {world.rank} than for process 0",
                why="each process grows its share of one source",
                fix="give all nodes the same files, or one folder on a shared file system",
            )


def write_result(
    the_plan: Plan,
    checkpoint: Checkpoint,
    folder: Path,
    shard: int,
    name: str,
    progress: Callable[[int, int], None],
    world: World,
) -> None:
    """All of the result but its verification: each process its share of the tensors, the first one the rest."""
    done, total = 0, sum(t.nbytes for t in share(the_plan.tensors, world))

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with world.together():
        # before any weight is written: they may not be there to be read
        past = history(checkpoint.path)
        before = earlier_of(checkpoint.path, {t.name: t.dtype for t in checkpoint.tensors.values()})
    digests = write_plan(the_plan, FileSource(checkpoint), folder, shard, advance, world)
    with world.together():
        if world.first:
            write_json(folder / "config.json", the_plan.new_config)
            copy_companions(checkpoint, folder, the_plan)
            record = record_of(
                the_plan, source=name, version=__version__, tensors=digests, history=past, earlier=before
            )
            write_json(folder / NAME, record)


def verified(
    the_plan: Plan,
    checkpoint: Checkpoint,
    folder: Path,
    names: tuple[str, str],
    on_rung: Callable[[str], None],
    world: World,
) -> Verification:
    """What the first process finds, which is in grow.json too; Different where the result must not be kept."""
    stock = folder / ".source"
    if isinstance(checkpoint, PiecedCheckpoint):
        write_stock(checkpoint, stock, world)
    verification = None
    with world.together(), ExitStack() as stack:
        if world.first:
            if isinstance(checkpoint, PiecedCheckpoint):
                checkpoint = stack.enter_context(open_checkpoint(stock))
            verification = _checked(the_plan, checkpoint, folder, names, on_rung)
            shutil.rmtree(stock, ignore_errors=True)
    return world.broadcast(verification)


def _checked(
    the_plan: Plan, checkpoint: Checkpoint, folder: Path, names: tuple[str, str], on_rung: Callable[[str], None]
) -> Verification:
    rungs = LOSSY if the_plan.lossy else FUNCTION
    with open_checkpoint(folder) as grown:
        verification = verify_folders(checkpoint, grown, rungs=rungs, seed=the_plan.seed, names=names, progress=on_rung)
    if not (_as_declared(verification) if the_plan.lossy else verification.sound):
        failed = (f"{r.name}: {r.reason}" for r in verification.checks if r.status == "fail")
        raise Different(
            names[1],
            what=f"is {verification.verdict} after the growth; it was not kept",
            why=next(failed, "no check was able to run"),
            fix=f"report this with the plan ({command('plan', json=True)}); "
            f"{option(verify=False)} keeps the result, unverified",
            verification=verification,
        )
    add_to_record(folder, "verification", _published(verification.to_dict(), checkpoint.path, folder, names[1]))
    return verification


def check_written(the_plan: Plan, checkpoint: Checkpoint, folder: Path, out: Path, state: bool) -> dict[str, int]:
    """Relative path -> bytes of all that was written; BadInput where some of it went away meanwhile."""

    def lost(what: str) -> BadInput:
        return BadInput(
            option(out=out),
            what=f"{what} while the result was made",
            why=f"another program works in {folder.name}; nothing was kept",
            fix="end it, then run the same command again",
        )

    try:
        with open_checkpoint(folder) as made:
            stored = {name: (info.dtype, info.shape) for name, info in made.tensors.items()}
    except GrowError as error:
        raise lost(f"the weights were damaged ({error.what})") from None
    planned = {t.name: (t.dtype, tuple(t.new_shape)) for t in the_plan.tensors}
    if stored != planned:
        odd = sorted(name for name in {*stored, *planned} if stored.get(name) != planned.get(name))
        raise lost(f"{listing(odd)} changed")
    files = written(folder)
    wanted = [*checkpoint.companions, "README.md", *(["state/train.json"] if state else [])]
    if gone := [name for name in wanted if name not in files]:
        raise lost(f"{listing(gone)} went away")
    return files


def _published(document: dict[str, Any], source: Path, folder: Path, out: str) -> dict[str, Any]:
    """The document without paths of this machine, for a result is shared: both folders as grow.json calls them."""
    known = json.loads((folder / NAME).read_text(encoding="utf-8"))["source"]["name"]
    last = Path(out).name

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return value.replace(str(folder), last).replace(str(source), known) if isinstance(value, str) else value

    return {**plain(document), "source": known, "grown": last}


def training_state(
    stack: ExitStack, checkpoint: Checkpoint, the_plan: Plan, policy: str | None, trust: bool
) -> tuple[Any, tuple[str, ...]]:
    """(a `GrownState`, open as long as the stack, or None; notes). Nothing is imported where no state is."""
    read = any((checkpoint.path / name).exists() for name in ("state", "optimizer.pt"))
    if policy in (None, "drop") and not read and not foreign(checkpoint.path):
        return None, ()
    from grow.optimizer.state.grown_state import grown_state

    state, notes = grown_state(checkpoint.path, the_plan, policy, trust)
    if state is not None:
        stack.callback(state.close)
    return state, notes


def write_state(
    moments: Any, stage: Path, shard: int, world: World, *, required: bool, notes: tuple[str, ...]
) -> tuple[Any, tuple[str, ...]]:
    """(the state, notes) once it is written; None and why it stays behind where its numbers are found to be damaged
    and nobody has named it."""
    from grow.optimizer.state.grown_state import left_behind

    try:
        moments.write(stage, shard, world)
        return moments, notes
    except BadInput as fault:
        if required:
            raise
        with world.together():
            if world.first:
                shutil.rmtree(stage / "state", ignore_errors=True)
        return None, (*notes[:-1], left_behind(fault))


def add_to_record(folder: Path, key: str, value: Any) -> None:
    """Say more in grow.json."""
    path = folder / NAME
    record = json.loads(path.read_text(encoding="utf-8"))
    record[key] = value
    write_json(path, record)


def _as_declared(verification: Verification) -> bool:
    """Whether a growth that is not exact runs and is stored as it should be; what it computes may differ."""
    failed = {check.name for check in verification.checks if check.status == "fail"}
    measured = verification.check("true_float64")
    return failed <= {"true_float64", "loss"} and measured is not None and bool(measured.measured)
