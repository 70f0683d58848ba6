"""The growth of a checkpoint on disk."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from grow.applying.sharded_source import PiecedCheckpoint
from grow.checkpoint.reader import open_checkpoint
from grow.files.header import show
from grow.files.locate import locate
from grow.files.shared_staging import staged
from grow.growth.companions import companion_notes
from grow.growth.file_options import FileOptions
from grow.growth.model_card import model_card, public_name, source_card
from grow.growth.opened import opened
from grow.growth.results import Growth
from grow.growth.stock_check import check_stock
from grow.growth.written_and_verified import (
    add_to_record,
    check_same,
    check_written,
    training_state,
    verified,
    write_result,
    write_state,
)
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.planning.plan import Plan, plan_for
from grow.planning.record import ASSUMED
from grow.processes import World, world_of

LINE = 4096  # characters of a path in records and results: all of it


def plan_files(
    src: str | os.PathLike,
    to: Any,
    options: GrowthOptions,
    files: FileOptions,
) -> Plan:
    """`grow.plan` for a checkpoint on disk."""
    with opened(src, revision=files.revision, assume_harmless=files.assume_harmless) as (checkpoint, matched):
        plan = plan_for(matched, to, options)
        return replace(plan, notes=(*plan.notes, *companion_notes(checkpoint, plan)))


def widen_files(
    src: str | os.PathLike,
    to: Any,
    options: GrowthOptions,
    files: FileOptions,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    on_rung: Callable[[str], None] = lambda rung: None,
) -> Growth:
    """`grow.widen` for a checkpoint on disk."""
    started = time.monotonic()
    state, trust, verify = files.state, files.trust_checkpoint, files.verify
    with ExitStack() as stack:
        world = stack.enter_context(world_of(files.world, train=False)) if files.world else World(0, 1, None)
        stack.enter_context(world.together())
        source = opened(src, revision=files.revision, assume_harmless=files.assume_harmless, trust=trust)
        checkpoint, matched = stack.enter_context(source)
        the_plan = plan_for(matched, to, options)
        folder = Path(files.out if files.out is not None else default_name(src, to, options.upcycling))
        check_same(the_plan, checkpoint, world)
        if verify:
            with world.together():
                check_stock(the_plan)
        file_notes = companion_notes(checkpoint, the_plan)
        moments, state_notes = training_state(stack, checkpoint, the_plan, state, trust)
        needed = the_plan.nbytes + (moments.nbytes if moments else 0)
        if verify and isinstance(checkpoint, PiecedCheckpoint):
            needed += checkpoint.nbytes
        # room for the result, and for the float64 proof beside it only if somebody asks for it
        with staged(folder, world, source=checkpoint.path, overwrite=files.overwrite, needed=needed) as stage:
            name = public_name(src, checkpoint.path)
            write_result(the_plan, checkpoint, stage.path, files.shard, name.shown, progress, world)
            verification, made = None, {}
            if verify:
                names = show(src, LINE), show(folder, LINE)
                verification = verified(the_plan, checkpoint, stage.path, names, on_rung, world)
            if moments:
                moments, state_notes = write_state(
                    moments, stage.path, files.shard, world, required=state is not None, notes=state_notes
                )
            with world.together():
                if world.first:
                    if moments:
                        add_to_record(stage.path, "state", moments.document())
                    if checkpoint.vouched:
                        add_to_record(stage.path, ASSUMED, checkpoint.vouched)
                    card = model_card(the_plan, name, verification, source_card(checkpoint))
                    (stage.path / "README.md").write_text(card, encoding="utf-8")
                    made = check_written(the_plan, checkpoint, stage.path, folder, moments is not None)
                    add_to_record(stage.path, "files", made)
                checkpoint.check_unchanged()
            with world.together():
                stage.commit(made)
        notes = (*checkpoint.notes, *the_plan.notes, *file_notes, *stage.notes, *state_notes)
        return Growth(the_plan, folder, None, verification, time.monotonic() - started, notes)


def default_name(src: Any, to: Any, upcycling: UpcyclingOptions | None = None) -> str:
    """`small-2x`, `small-8-experts`: the folder of a result when nobody names one."""
    if isinstance(to, Mapping):
        text = ",".join(f"{k}={v}" for k, v in to.items())
    else:  # a config in memory has no name but its class's
        text = type(to).__name__ if hasattr(to, "to_dict") else os.fspath(to or "")
    if upcycling:
        text = f"{upcycling.experts}-experts-{text}"
    base, target = (Path(os.fspath(x)).name or "checkpoint" for x in (src, text.removesuffix("/config.json")))
    return re.sub(r"[^\w.,=+-]+", "_", f"{base}-{target}".strip("-"))[:120]


def check_state(
    src: str | os.PathLike, the_plan: Plan, state: str | None, trust_checkpoint: bool, *, revision: str | None = None
) -> None:
    """BadInput or Refused where `widen` by this plan could not do with the training state what `state` names."""
    if state is not None:
        with ExitStack() as stack, open_checkpoint(locate(src, revision=revision)) as checkpoint:
            training_state(stack, checkpoint, the_plan, state, trust_checkpoint)
