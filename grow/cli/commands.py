"""The commands that grow, plan, verify and show."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

import grow
from grow import api
from grow.architectures import FAMILIES
from grow.cli import show, train_commands
from grow.cli.options import (
    TARGET,
    as_json,
    exactness,
    growth,
    harmless,
    layers,
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
from grow.planning.change import ROUTES
from grow.planning.methods import METHODS
from grow.planning.target import depth_alone
from grow.processes import processes
from grow.spelling import COMMAND_LINE, spelled
from grow.verification.rungs import LADDER


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(grow.__version__, prog_name="grow")
def cli() -> None:
    """Enlarge a pretrained Transformer without changing a single output."""
    click.get_current_context().with_resource(spelled(COMMAND_LINE))


for _command in (train_commands.data, train_commands.train, train_commands.plot, train_commands.run):
    cli.add_command(_command)


@cli.command()
@growth
@writing
def widen(src, to, **options) -> int:
    """Enlarge hidden size, heads, FFN, vocabulary, positions; with --deepen layers too. Every output is preserved."""
    return _grow(src, to, options)


@cli.command()
@source
@click.option(
    "--layers", "count", required=True, type=click.IntRange(1), metavar="N", help="The number of layers of the result."
)
@layers
@exactness
@writing
def deepen(src, count, **options) -> int:
    """Insert layers that compute the identity until they are trained; every output is preserved."""
    with depth_alone():
        return _grow(src, {"layers": count}, options)


@cli.command()
@source
@click.option(
    "--experts", required=True, type=click.IntRange(1), metavar="E", help="The experts of a layer, slices counted."
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    metavar="K",
    help="The experts that a token is sent to [default: 2 × granularity].",
)
@click.option(
    "--granularity",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="G",
    help="Cut the FFN into G slices, so that experts are smaller and a token is sent to whole groups.",
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
@click.option("--to", metavar="TARGET", help="Grow widths or depth too; TARGET in the words of the new family.")
@widths
@writing
def upcycle(src, to, experts, top_k, granularity, every, route, **options) -> int:
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
    with Progress(quiet=as_json or not show.first_process()) as progress:
        told: dict[str, Any] = {"progress": progress.bytes, "on_rung": progress.rung}
        grown = api.widen(src, to, verify=verify, world=world, **told, **options)
    if not show.first_process():
        return 0
    if as_json:
        show.print_json(show.growth_document(grown))
    else:
        show.growth(grown)
    return 0


@cli.command()
@growth
@click.option(
    "--world", type=click.IntRange(1), metavar="N", help="Also show the memory of each of N processes that train it."
)
def plan(src, to, as_json, world, **options) -> int:
    """Show what widen would do: axes, tensors, config, parameters, FLOPs, memory, disk. No byte is written."""
    return _show_plan(api.plan(src, to, **_growth_options(options)), as_json, world)


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
            "--record": ("rungs", "recover", "tasks", "samples", "report"),
            "--against": ("recover", "tasks", "samples", "revision", "seed"),
        }
        chosen = "--record" if record else "--against" if against else ""
        ignored = [name for name in alone.get(chosen, ()) if ctx.params[name] not in (None, (), False)]
        if ignored:
            option = "--" + ignored[0].removesuffix("s" if ignored[0] == "rungs" else "")
            raise click.UsageError(f"{option} has no meaning with {chosen}.", ctx)
        asked = ctx.params["tasks"] is not None or {"downstream", "tasks"} & set(ctx.params["rungs"])
        if ctx.params["samples"] is not None and not asked:
            raise click.UsageError("--samples is of the tasks that --tasks asks for.", ctx)
        if ctx.params["overwrite"] and not record:
            raise click.UsageError("--overwrite is for the golden file of --record.", ctx)
        return rest


@cli.command(cls=_Verify)
@click.argument("src", required=False)
@click.argument("grown", required=False)
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="FILE", help="Write what SRC answers to a golden file."
)
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="FILE", help="Compare with a golden file instead of SRC."
)
@click.option("--overwrite", is_flag=True, help="Replace the golden file.")
@click.option(
    "--rung",
    "rungs",
    multiple=True,
    metavar="NAME",
    help="Run only these rungs, or single checks: " + ", ".join(LADDER) + ".",
)
@click.option("--recover", is_flag=True, help="Also rebuild SRC's weights from GROWN and compare them bit for bit.")
@click.option(
    "--tasks",
    is_flag=False,
    flag_value="",
    metavar="NAMES",
    help="Also run downstream tasks (lm-evaluation-harness), comma-separated; without names those that come with grow.",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use at most N samples of each task.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page.")
@seed
@revision
@as_json
def verify(
    src, grown, record, against, overwrite, rungs, recover, tasks, samples, report, seed, revision, as_json
) -> int:
    """Check that GROWN computes the function of SRC.

    Exit code 0: lossless, or certified (the weights follow the table; no model could be run or was asked for). 1:
    different, unproved, or unrecorded (the same function, but not the growth that grow.json records).
    """
    if record:
        with Progress(quiet=as_json) as progress:
            kept = api.record(src, record, seed=seed, revision=revision, overwrite=overwrite, on_step=progress.rung)
        if as_json:
            show.print_json(kept)
        else:
            show.recorded(kept)
        return 0
    with Progress(quiet=as_json) as progress:
        found = (
            api.verify_against(against, src, rungs=rungs or None, report=report, on_rung=progress.rung)
            if against
            else api.verify(
                src,
                grown,
                rungs=(*(rungs or LADDER), *(["recover"] if recover else [])),
                tasks=None if tasks is None else _fields(tasks),
                samples=samples,
                report=report,
                seed=seed,
                revision=revision,
                on_rung=progress.rung,
            )
        )
    with show.reader_may_leave():
        if as_json:
            show.print_json(found.to_dict())
        else:
            show.verification(found)
            if report:
                show.say(f"report: {report}")
    return found.exit_code


@cli.command(
    epilog="\b\nMethods (arXiv, class):\n"
    + "\n".join(f"  {name:<24}{m.arxiv or 'ours':<12}{m.kind}" for name, m in METHODS.items())
)
@source
@click.option("--to", "to", required=True, metavar="TARGET", help=TARGET)
@click.option("--deepen", is_flag=True, help="Take the number of layers of a size or a config too.")
@click.option(
    "--methods", metavar="NAMES", default="", help="The methods, comma-separated [default: all that apply]; see below."
)
@click.option(
    "--train-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also train each for N steps on the same text, beside the source and a model from scratch.",
)
@click.option("--rate", type=float, default=RATE, show_default=True, help="The peak learning rate of AdamW.")
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Train and measure on this text.")
@click.option("--out", type=click.Path(path_type=Path), help="A new folder for checkpoints, comparison.json, loss.svg.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page.")
@seed
@revision
@as_json
def compare(src, to, methods, as_json, **options) -> int:
    """Grow by several methods: what each loses at once, what can learn, and with --train-steps what it learns."""
    with Progress(quiet=as_json) as progress:
        found = grow.compare(src, to, _fields(methods) or None, progress=progress.rung, **options)
    with show.reader_may_leave():
        if as_json:
            show.print_json(found.to_dict())
        else:
            show.comparison(found)
            for name in ("out", "report"):
                if options[name]:
                    show.say(f"{name}: {options[name]}")
    return 0


@cli.command()
@click.argument("src")
@revision
@harmless
@as_json
def inspect(src, revision, assume_harmless, as_json) -> int:
    """Show what a checkpoint is: family, sizes, tensors with their signatures. No weight is read."""
    seen = api.inspect(src, revision=revision, assume_harmless=_fields(assume_harmless))
    if as_json:
        show.print_json(show.inspection_document(seen))
    else:
        show.inspection(seen)
    return 0


@cli.command()
@click.argument("name", required=False)
@as_json
def families(name, as_json) -> int:
    """List the families and their sizes; with NAME, its table of tensors."""
    if name is not None and name not in FAMILIES:
        from grow.architectures import family_of

        family_of(name)
    chosen = [FAMILIES[name]] if name else list(FAMILIES.values())
    if as_json:
        show.print_json({"schema": 1, "families": [show.family_document(f) for f in chosen]})
    elif name:
        show.family(chosen[0])
    else:
        show.families(chosen)
    return 0


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a shell: eval "$(grow completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise BadInput(
            f"completion {shell}",
            what="is not supported by this click",
            why="click brings the scripts",
            fix="bash",
        )
    click.echo(found(cli, {}, "grow", "_GROW_COMPLETE").source())
    return 0


def _growth_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the Python API takes them."""
    chosen = {}
    for item in options.pop("operators", ()):
        axis, equals, name = item.partition("=")
        if not equals:
            raise BadInput(
                f"--operator {item}",
                what="has no `=`",
                why="an operator is chosen for an axis",
                fix="--operator ffn=copies",
            )
        chosen[axis.strip()] = name.strip()
    return {**options, "operators": chosen, "assume_harmless": _fields(options["assume_harmless"])}


def _fields(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _show_plan(the_plan, as_json: bool, world: int | None) -> int:
    if as_json:
        from grow.growth.plan_document import plan_document

        show.print_json(plan_document(the_plan, world))
    else:
        show.plan(the_plan, world)
    return 0
