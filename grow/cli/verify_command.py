"""The command `grow verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from grow import api
from grow.cli import terminal, verification_text
from grow.cli.options import (
    as_json,
    family,
    names_in,
    revision,
    seed,
)
from grow.cli.progress import Progress
from grow.verification.rungs import LADDER
from grow.verification.verdict import Verification


class _Verify(click.Command):
    """SRC GROWN, or only one of them where a golden file stands for the other."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:
            return rest
        given = [ctx.params[name] for name in ("src", "grown") if ctx.params[name] is not None]
        record, against = ctx.params["record"], ctx.params["against"]
        if record and against:
            raise click.UsageError("--record writes a golden file and --against reads one: give one of them.", ctx)
        if len(given) < (1 if record or against else 2):
            missing = "SRC" if record or not (given or against) else "GROWN"
            raise click.MissingParameter(ctx=ctx, param_hint=f"'{missing}'", param_type="argument")
        if len(given) == 2 and (record or against):
            raise click.UsageError(f"{'--record takes SRC' if record else '--against takes GROWN'} alone.", ctx)
        alone = {
            "--record": ("rungs", "recover", "tasks", "samples", "report", "family"),
            "--against": ("recover", "tasks", "samples", "revision", "seed", "family"),
        }
        chosen = "--record" if record else "--against" if against else ""
        ignored = [name for name in alone.get(chosen, ()) if ctx.params[name] not in (None, (), False)]
        if ignored:
            option = "--" + ignored[0].removesuffix("s" if ignored[0] == "rungs" else "")
            raise click.UsageError(f"{option} has no meaning with {chosen}.", ctx)
        runs_tasks = ctx.params["tasks"] is not None or {"downstream", "tasks"} & set(ctx.params["rungs"])
        if ctx.params["samples"] is not None and not runs_tasks:
            raise click.UsageError("--samples has no effect without --tasks, whose samples it limits.", ctx)
        if ctx.params["overwrite"] and not record:
            raise click.UsageError("--overwrite has no effect without --record, whose golden file it replaces.", ctx)
        return rest


@click.command(cls=_Verify)
@click.argument("src", required=False)
@click.argument("grown", required=False)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Record the answers of SRC in a golden file; GROWN is not given.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare GROWN with a golden file; SRC is not given.",
)
@click.option("--overwrite", is_flag=True, help="Replace the golden file that --record names.")
@click.option(
    "--rung",
    "rungs",
    multiple=True,
    metavar="NAME",
    help=f"Run only this rung, or this single check; may be given several times [default: {', '.join(LADDER)}].",
)
@click.option("--recover", is_flag=True, help="Also rebuild SRC's weights from GROWN and compare them bit for bit.")
@click.option(
    "--tasks",
    is_flag=False,
    flag_value="",
    metavar="NAMES",
    help="Also run downstream tasks of lm-evaluation-harness, comma-separated; without names, tasks of grow itself.",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use at most N samples of each task.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE", help="Also write the result as an HTML page."
)
@family
@seed
@revision
@as_json
def verify(
    src: str,
    grown: str,
    record: Path | None,
    against: Path | None,
    overwrite: bool,
    rungs: tuple[str, ...],
    recover: bool,
    tasks: str | None,
    samples: int | None,
    report: Path | None,
    family: Path | None,
    seed: int,
    revision: str | None,
    as_json: bool,
) -> int:
    """Check that GROWN computes the same function as SRC.

    \b
    Exit code 0: lossless, or certified (the weights follow the table of their family, and no model was run).
    Exit code 1: different, unproved, or unrecorded (the same function, but not the growth in grow.json).
    """
    terminal.tell_of_a_family(family)
    with Progress(quiet=as_json) as progress:
        if record:
            kept = api.record(src, record, seed=seed, revision=revision, overwrite=overwrite, on_step=progress.rung)
        elif against:  # the only folder is the grown one
            verification = api.verify_against(against, src, rungs=rungs or None, report=report, on_rung=progress.rung)
        else:
            verification = api.verify(
                src,
                grown,
                rungs=(*(rungs or LADDER), *(["recover"] if recover else [])),
                tasks=None if tasks is None else names_in(tasks),
                samples=samples,
                report=report,
                seed=seed,
                revision=revision,
                family=family,
                on_rung=progress.rung,
            )
    return _show_recorded(kept, as_json) if record else _show(verification, report, as_json)


def _show_recorded(kept: dict[str, Any], as_json: bool) -> int:
    if as_json:
        terminal.print_json(kept)
    else:
        verification_text.show_recorded(kept)
    return 0


def _show(verification: Verification, report: Path | None, as_json: bool) -> int:
    with terminal.reader_may_leave():
        if as_json:
            terminal.print_json(verification.to_dict())
        else:
            verification_text.show_verification(verification)
            if report:
                terminal.say(f"report: {report}")
    return verification.exit_code
