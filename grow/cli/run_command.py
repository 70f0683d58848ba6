"""The command `grow run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import grow
from grow.cli import terminal
from grow.cli.exit_codes import INTERRUPTED
from grow.cli.options import as_json
from grow.cli.progress import Progress, size


@click.command()
@click.argument("recipe", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="OUT", help="The folder of the run [default: the recipe's name]."
)
@click.option(
    "--resume", is_flag=True, help="Continue in OUT where the run stopped; stages not yet begun may have changed."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Estimate the cost of every stage, its time measured on a random model; write nothing.",
)
@click.option("--list", "listed", is_flag=True, help="List the recipes that come with grow.")
@click.option(
    "--world", type=click.IntRange(1), metavar="N", help="Stop with an error unless there are N processes (torchrun)."
)
@click.option("--trust-checkpoint", is_flag=True, help="Resume a run although its files belong to another user.")
@as_json
@click.pass_context
def run(ctx: click.Context, recipe: str | None, listed: bool, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Carry out a staged recipe: train, grow, train. RECIPE is a TOML file or the name of a bundled one.

    Exit code 130: SIGTERM or SIGINT arrived; --resume goes on from there, to the same bits.
    """
    chosen = "--list" if listed else "--dry-run" if dry_run else ""
    given = {"RECIPE": recipe, "--dry-run": dry_run} if listed else {}
    given |= {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    if chosen and (ignored := [name for name, value in given.items() if value]):
        raise click.UsageError(f"{ignored[0]} has no meaning with {chosen}.", ctx)
    if listed:
        return _list_recipes(as_json)
    if recipe is None:
        raise click.MissingParameter(ctx=ctx, param_hint="'RECIPE'", param_type="argument")
    if dry_run:
        return _show_price(recipe, as_json)
    return _carry_out(recipe, as_json, **options)


def _list_recipes(as_json: bool) -> int:
    """The bundled recipes, with the first line of each."""
    from grow.staged.recipe import bundled

    recipes = {name: _headline(path) for name, path in bundled().items()}
    if as_json:
        terminal.print_json({"schema": 1, "recipes": recipes})
    else:
        terminal.table(("recipe", "what it does"), recipes.items())
    return 0


def _show_price(recipe: str, as_json: bool) -> int:
    with Progress(quiet=as_json) as progress:
        price = grow.price(recipe, progress=progress.rung)
    document = price.document()
    if as_json:
        terminal.print_json(document)
        return 0
    rows = [*document["stages"], *([document["baseline"]] if document["baseline"] else [])]
    terminal.say(f"{document['recipe']}: {len(document['stages'])} stages, priced on {document['machine']}")
    head = ("stage", "kind", "parameters", "tokens", "steps", "FLOPs", "memory", "disk", "time")
    terminal.table(head, [*map(_priced, rows), _priced({**document["total"], "name": "total", "kind": ""})])
    terminal.say(
        "memory: weights, gradients and moments, activations not counted; time: of the training steps, measured"
    )
    for row in rows:
        if row["at_most"]:
            terminal.say(f"note: {row['name']} may end earlier, at a plateau")
        if row["note"]:
            terminal.say(f"note: {row['name']}: {row['note']}")
    return 0


def _carry_out(recipe: str, as_json: bool, **options: Any) -> int:
    """Carry it out; 130 when it was interrupted."""
    with Progress(quiet=as_json) as progress:
        try:
            done = grow.run(
                recipe,
                quiet=as_json,
                on_stage=lambda line: None if as_json or not terminal.first_process() else terminal.say(line, err=True),
                progress=progress.rung,
                **options,
            )
        except KeyboardInterrupt:
            terminal.say("interrupted: the stage was not finished; --resume goes on with it", err=True)
            return INTERRUPTED
    if terminal.first_process():
        if as_json:
            terminal.print_json(done.document())
        else:
            _finished(done)
    return INTERRUPTED if done.stopped else 0


def _finished(done: Any) -> None:
    head = ("stage", "kind", "parameters", "tokens", "FLOPs", "seconds", "loss", "verdict")
    rows = [*done.stages, *([done.baseline] if done.baseline else [])]
    terminal.table(head, map(_row, rows))
    if done.stopped:
        terminal.say(f"stopped by {done.stopped}; --resume goes on from there")
        return
    terminal.say(f"{done.final} is the last checkpoint, {done.report} says how it went")


def _row(entry: Mapping[str, Any]) -> list[str]:
    losses = [entry.get(key) for key in ("loss_before", "loss_after")]
    status = entry.get("verdict") or ("" if entry["status"] == "done" else entry["status"])
    return [
        entry["name"],
        entry["kind"],
        *(_number(entry.get(key), how) for key, how in (("parameters", ","), ("tokens", ","), ("flops", ".3g"))),
        _number(entry.get("seconds"), ",.1f"),
        " -> ".join(f"{loss:.4f}" for loss in losses if loss is not None),
        status,
    ]


def _priced(row: Mapping[str, Any]) -> list[str]:
    return [
        row["name"],
        row["kind"],
        _number(row.get("parameters"), ","),
        _number(row["tokens"], ","),
        _number(row["steps"], ","),
        _number(row["flops"], ".3g"),
        size(row["train_bytes"]) if row["train_bytes"] else "",
        size(row["disk_bytes"]) if row["disk_bytes"] else "",
        _clock(row["seconds"]),
    ]


def _number(value: float | None, how: str) -> str:
    return format(value, how) if value else ""


def _clock(seconds: float | None) -> str:
    """`12 s`, `3 min 20 s`, `5 h 12 min`."""
    if not seconds:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _headline(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").strip()
