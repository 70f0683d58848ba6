"""The commands that grow or plan to: widen, deepen, upcycle, plan, compare."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

import grow
from grow import api
from grow.cli import comparison_text, growth_text, terminal
from grow.cli.options import (
    TARGET,
    as_json,
    exactness,
    family,
    growth,
    layers,
    names_in,
    revision,
    seed,
    source,
    widths,
    writing,
)
from grow.cli.progress import Progress
from grow.comparison import RATE
from grow.errors import BadInput
from grow.growth.from_files import check_state
from grow.growth.plan_document import plan_document
from grow.planning.change import ROUTES
from grow.planning.methods import METHODS
from grow.planning.plan import Plan
from grow.planning.target import depth_alone
from grow.processes import processes


@click.command()
@growth
@family
@writing
def widen(src: str, to: str, **options: Any) -> int:
    """Enlarge hidden size, heads, FFN, vocabulary, positions; with --deepen also layers. Every output is preserved."""
    return _grow(src, to, options)


@click.command()
@source
@click.option(
    "--layers", "count", required=True, type=click.IntRange(1), metavar="N", help="The number of layers of the result."
)
@layers
@exactness
@family
@writing
def deepen(src: str, count: int, **options: Any) -> int:
    """Insert layers that compute the identity until they are trained; every output is preserved."""
    with depth_alone():
        return _grow(src, {"layers": count}, options)


@click.command()
@source
@click.option(
    "--experts",
    required=True,
    type=click.IntRange(1),
    metavar="E",
    help="The number of experts in a layer, all slices counted.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    metavar="K",
    help="The number of experts that a token is sent to [default: 2 × granularity].",
)
@click.option(
    "--granularity",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="G",
    help="Cut the FFN into G slices: experts are smaller, and a token is sent to whole groups of G.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Put experts into every Nth layer.",
)
@click.option(
    "--route",
    type=click.Choice(ROUTES),
    default="routed",
    show_default=True,
    help="Which experts carry the old FFN: the routed ones or the shared one.",
)
@click.option(
    "--to",
    metavar="TARGET",
    help="Also grow widths or depth: a target as in grow widen, in the field names of the new family.",
)
@widths
@writing
def upcycle(
    src: str,
    to: str | None,
    experts: int,
    top_k: int | None,
    granularity: int,
    every: int,
    route: str,
    **options: Any,
) -> int:
    """Turn a dense model into one with experts; every output is preserved."""
    how = {"experts": experts, "top_k": top_k, "granularity": granularity, "every": every, "route": route}
    return _grow(src, to, {**options, "upcycling": how})


def _grow(src: str, to: Any, options: dict[str, Any]) -> int:
    """Plan, write, verify and show one growth."""
    as_json, dry_run = options.pop("as_json"), options.pop("dry_run")
    verify, world = not options.pop("no_verify"), options.pop("world") or processes()
    options = _growth_options(options)
    if dry_run:
        planned = {name: options[name] for name in signature(api.plan).parameters if name in options}
        the_plan = api.plan(src, to, **planned)
        check_state(src, the_plan, options["state"], options["trust_checkpoint"], revision=options["revision"])
        return _show_plan(the_plan, as_json, world if world > 1 else None)
    with Progress(quiet=as_json or not terminal.first_process()) as progress:
        listeners: dict[str, Any] = {"progress": progress.bytes, "on_rung": progress.rung}
        grown = api.widen(src, to, verify=verify, world=world, **listeners, **options)
    if not terminal.first_process():
        return 0
    if as_json:
        terminal.print_json(growth_text.growth_document(grown))
    else:
        growth_text.show_growth(grown)
    return 0


@click.command()
@growth
@family
@click.option(
    "--world", type=click.IntRange(1), metavar="N", help="Also show the memory of each of N processes that train it."
)
@click.option("--try", "trial", is_flag=True, help="Also build the stock class, and grow a tiny model alike.")
def plan(src: str, to: str, as_json: bool, world: int | None, **options: Any) -> int:
    """Show what grow widen would do: axes, tensors, config, parameters, FLOPs, memory, disk. Nothing is written."""
    return _show_plan(api.plan(src, to, **_growth_options(options)), as_json, world)


@click.command(
    epilog="\b\nMethods (arXiv, class):\n"
    + "\n".join(f"  {name:<24}{m.arxiv or 'ours':<12}{m.kind}" for name, m in METHODS.items())
)
@source
@click.option("--to", "to", required=True, metavar="TARGET", help=TARGET)
@click.option("--deepen", is_flag=True, help="Take the number of layers from a size name or a config, too.")
@click.option(
    "--methods", metavar="NAMES", default="", help="The methods, comma-separated [default: all that apply]; see below."
)
@click.option(
    "--train-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also train each result for N steps on the same text, beside the source and a model from scratch.",
)
@click.option("--rate", type=float, default=RATE, show_default=True, help="The peak learning rate of AdamW.")
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Train and measure on this text.")
@click.option("--out", type=click.Path(path_type=Path), help="A new folder for checkpoints, comparison.json, loss.svg.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page.")
@seed
@revision
@as_json
def compare(src: str, to: str, methods: str, as_json: bool, **options: Any) -> int:
    """Grow by several methods and compare what each loses, what can learn, and with --train-steps what it learns."""
    with Progress(quiet=as_json) as progress:
        comparison = grow.compare(src, to, names_in(methods) or None, progress=progress.rung, **options)
    with terminal.reader_may_leave():
        if as_json:
            terminal.print_json(comparison.to_dict())
        else:
            comparison_text.show_comparison(comparison)
            for name in ("out", "report"):
                if options[name]:
                    terminal.say(f"{name}: {options[name]}")
    return 0


def _growth_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the Python API takes them."""
    chosen = {}
    for item in options.pop("operators", ()):
        axis, equals, name = item.partition("=")
        if not equals:
            raise BadInput(
                f"--operator {item}",
                what="must be AXIS=NAME, got no `=`",
                why="an operator is chosen for an axis",
                fix="--operator ffn=copies",
            )
        chosen[axis.strip()] = name.strip()
    terminal.tell_of_a_family(options.get("family"))
    return {**options, "operators": chosen, "assume_harmless": names_in(options["assume_harmless"])}


def _show_plan(the_plan: Plan, as_json: bool, world: int | None) -> int:
    if as_json:
        terminal.print_json(plan_document(the_plan, world))
    else:
        growth_text.show_plan(the_plan, world)
    return 0
