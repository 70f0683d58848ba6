"""The commands. Options mean the same everywhere; every command has --json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import grow
from grow import api
from grow.change import ROUTES
from grow.choose import NEW_TOKENS
from grow.cli import show
from grow.cli.progress import Progress
from grow.depth import FILLS
from grow.errors import BadInput
from grow.families import FAMILIES
from grow.methods import DEFAULT, METHODS
from grow.optimizer import POLICIES
from grow.parallel import processes
from grow.race import RATE
from grow.tensors import DTYPE_NAMES, SPLITS
from grow.train.limits import COMPUTE, OPTIMIZERS, RULES, TRACKERS
from grow.train.schedule import SCHEDULES, SHAPES
from grow.train.settings import plateau_of, rewarm_of
from grow.verify.result import LADDER

SOURCE = "SRC: a checkpoint folder, a hub id or a bundled name (small, small-gpt2, small-bert)."
TARGET = (
    "TARGET: a size name (base), a factor (2x, 1.5x), fields (hidden_size=960,num_attention_heads=15), or a folder."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(grow.__version__, prog_name="grow")
def cli() -> None:
    """Enlarge a pretrained Transformer without changing a single output."""


def _options(*options: Callable) -> Callable:
    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, everything else on stderr."
)
source = click.option("--from", "src", required=True, metavar="SRC", help=SOURCE)
revision = click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
harmless = click.option(
    "--assume-harmless",
    metavar="FIELDS",
    default="",
    help="Config fields, comma-separated, to accept unread.",
)
seed = click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice.")
exactness = _options(
    click.option(
        "--split",
        type=click.Choice(SPLITS),
        help="How copies share a weight [default: exact, or the method's].",
    ),
    click.option(
        "--method",
        default=DEFAULT,
        show_default=True,
        metavar="NAME",
        help="Grow as in the literature: " + ", ".join(METHODS) + ".",
    ),
    click.option("--allow-lossy", is_flag=True, help="Let a method that is not exact have its way, and measure it."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", *DTYPE_NAMES]),
        default="auto",
        show_default=True,
        help="Stored dtype.",
    ),
    seed,
    revision,
    harmless,
    as_json,
)
layers = _options(
    click.option(
        "--place",
        default="spread",
        show_default=True,
        metavar="WHERE",
        help="New layers: spread, top, after:K, or the old layers behind which they stand (3,7,11).",
    ),
    click.option(
        "--fill",
        type=click.Choice(FILLS),
        default="copy",
        show_default=True,
        help="New layers hold copies of their neighbours or fresh weights; their output is 0.",
    ),
)
target = click.option("--to", "to", required=True, metavar="TARGET", help=TARGET)
widths = _options(
    click.option("--deepen", is_flag=True, help="Take the number of layers of a size or a config too."),
    layers,
    click.option(
        "--new-tokens",
        type=click.Choice(NEW_TOKENS),
        default="blend",
        show_default=True,
        help="Logits of new tokens: between the old ones, 0, or far below by the head's bias.",
    ),
    click.option(
        "--operator",
        "operators",
        multiple=True,
        metavar="AXIS=NAME",
        help="How hidden, ffn or heads grow: copies, silent, mean, unread.",
    ),
    exactness,
)
growth = _options(source, target, widths)
training_state = _options(
    click.option(
        "--state",
        type=click.Choice(POLICIES),
        help="Of a run's checkpoint: what new entries get of the optimizer's state [default: fresh-new, where there is "
        "one].",
    ),
    click.option("--trust-checkpoint", is_flag=True, help="Read the state of a run whose files are somebody else's."),
)
writing = _options(
    click.option("--out", type=click.Path(path_type=Path), help="The new folder [default: SRC-TARGET]."),
    click.option("--max-shard-size", default=api.SHARD_SIZE, show_default=True, help="Of one safetensors file."),
    click.option("--overwrite", is_flag=True, help="Replace an existing checkpoint folder."),
    click.option("--no-verify", is_flag=True, help="Skip the check; the result then says that it is unverified."),
    click.option("--dry-run", is_flag=True, help="Show the plan and write nothing."),
    training_state,
    click.option(
        "--world", type=click.IntRange(1), metavar="N", help="Fail unless there are N processes to share it (torchrun)."
    ),
)


@cli.command()
@growth
@writing
def widen(src, to, **options) -> int:
    """Enlarge hidden size, heads, FFN, vocabulary, positions; with --deepen layers too. Every output is preserved."""
    return _grow(src, to, options)


@cli.command()
@source
@click.option("--layers", "count", required=True, type=click.IntRange(1), metavar="N", help="Layers of the result.")
@layers
@exactness
@writing
def deepen(src, count, **options) -> int:
    """Insert layers that compute the identity until they are trained; every output is preserved."""
    return _grow(src, {"layers": count}, options)


@cli.command()
@source
@click.option(
    "--experts", required=True, type=click.IntRange(1), metavar="E", help="Experts of a layer, slices counted."
)
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Experts a token gets [default: 2 × granularity].")
@click.option(
    "--granularity",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="G",
    help="Cut the FFN into G slices: smaller experts, of which a token gets whole groups.",
)
@click.option(
    "--every", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Experts in every Nth layer."
)
@click.option(
    "--route",
    type=click.Choice(ROUTES),
    default="routed",
    show_default=True,
    help="Who carries the old FFN: the routed experts or the shared one.",
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
    written = {name: options.pop(name) for name in ("out", "max_shard_size", "overwrite", "state", "trust_checkpoint")}
    verify, world = not options.pop("no_verify"), options.pop("world") or processes()
    options = _growth_options(options)
    if dry_run:
        the_plan = api.plan(src, to, **options)
        api.check_state(src, the_plan, written["state"], written["trust_checkpoint"], revision=options["revision"])
        return _show_plan(the_plan, as_json, world if world > 1 else None)
    with Progress(quiet=as_json or not show.first_process()) as progress:
        told: dict[str, Any] = {"progress": progress.bytes, "on_rung": progress.rung}
        grown = api.widen(src, to, verify=verify, world=world, **told, **written, **options)
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
    "--world", type=click.IntRange(1), metavar="N", help="Also the memory of each of N processes that train it."
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
            "--against": ("recover", "tasks", "samples", "revision"),
        }
        chosen = "--record" if record else "--against" if against else ""
        ignored = [name for name in alone.get(chosen, ()) if ctx.params[name] not in (None, (), False)]
        if ignored:
            option = "--" + ignored[0].removesuffix("s" if ignored[0] == "rungs" else "")
            raise click.UsageError(f"{option} has no meaning with {chosen}.", ctx)
        if ctx.params["overwrite"] and not record:
            raise click.UsageError("--overwrite is for the golden file of --record.", ctx)
        return rest


@cli.command(cls=_Verify)
@click.argument("src", required=False)
@click.argument("grown", required=False)
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="FILE", help="Write what SRC answers to a golden file."
)
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help="A golden file instead of SRC.")
@click.option("--overwrite", is_flag=True, help="Replace the golden file.")
@click.option(
    "--rung", "rungs", multiple=True, metavar="NAME", help="Only these, or single checks: " + ", ".join(LADDER) + "."
)
@click.option("--recover", is_flag=True, help="Also rebuild SRC's weights from GROWN and compare them bit for bit.")
@click.option(
    "--tasks",
    is_flag=False,
    flag_value="",
    metavar="NAMES",
    help="Also downstream tasks (lm-evaluation-harness), comma-separated; without names those that come with grow.",
)
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Of each task, at most N.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page.")
@seed
@revision
@as_json
def verify(
    src, grown, record, against, overwrite, rungs, recover, tasks, samples, report, seed, revision, as_json
) -> int:
    """Check that GROWN computes the function of SRC. Exit code 0: lossless; 1: not."""
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
                click.echo(f"report: {report}")
    return found.exit_code


@cli.command(
    epilog="\b\nMethods (arXiv, class):\n"
    + "\n".join(f"  {name:<24}{m.arxiv or 'ours':<12}{m.kind}" for name, m in METHODS.items())
)
@source
@click.option("--to", "to", required=True, metavar="TARGET", help=TARGET)
@click.option("--deepen", is_flag=True, help="Take the number of layers of a size or a config too.")
@click.option("--methods", metavar="NAMES", default="", help="Comma-separated [default: all that apply]; see below.")
@click.option(
    "--train-steps",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also train each for N steps on the same text, beside the source and a model from scratch.",
)
@click.option("--rate", type=float, default=RATE, show_default=True, help="Learning rate of AdamW at its highest.")
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
                    click.echo(f"{name}: {options[name]}")
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
        from grow.families import family_of

        family_of(name)
    chosen = [FAMILIES[name]] if name else list(FAMILIES.values())
    if as_json:
        show.print_json({"schema": 1, "families": [show.family_document(f) for f in chosen]})
    elif name:
        show.family(chosen[0])
    else:
        show.families(chosen)
    return 0


@cli.group()
def data() -> None:
    """Text for training."""


@data.command("prepare")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--tokenizer", required=True, metavar="SRC", help="A checkpoint whose tokenizer reads the text.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The new folder.")
@click.option(
    "--field", default="text", show_default=True, help="Of JSON lines, parquet and datasets: which one is the text."
)
@click.option(
    "--separator", default="", metavar="TEXT", help=r"Between documents of a text file (\n\n) [default: one document]."
)
@click.option("--split", default="train", show_default=True, help="Of a dataset of the hub.")
@click.option(
    "--validation", default=0.01, show_default=True, metavar="SHARE", help="Of the documents, kept for validation."
)
@click.option("--no-end", is_flag=True, help="Put no end-of-text token behind documents.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of token files.")
@seed
@revision
@as_json
def prepare_data(inputs, separator, no_end, as_json, **options) -> int:
    """Turn text, JSON lines, parquet and datasets of the hub into token files with a manifest."""
    from grow.data import prepare

    separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    with Progress(quiet=as_json) as progress:
        made = prepare(list(inputs), separator=separator, end=not no_end, progress=progress.tokens, **options)
    if as_json:
        show.print_json({"path": str(options["out"]), **made.document()})
    else:
        show.prepared(options["out"], made)
    return 0


def _rewarm(_: Any, __: Any, text: str | None) -> tuple[float, int] | tuple[()] | None:
    """RATIO:STEPS as numbers, () for off."""
    try:
        return None if text is None else rewarm_of(text) or ()
    except ValueError:
        raise BadInput(
            f"--rewarm {text}", what="is no RATIO:STEPS", why="a factor and for how long", fix="--rewarm 1.25:250"
        ) from None


def _plateau(_: Any, __: Any, text: str | None) -> tuple[int, float] | None:
    """STEPS:NATS as numbers."""
    try:
        return None if text is None else plateau_of(text)
    except ValueError:
        why = "it ends where the validation loss fell by less than NATS over STEPS steps"
        raise BadInput(f"--plateau {text}", what="is no STEPS:NATS", why=why, fix="--plateau 200:0.01") from None


@cli.command()
@click.option("--from", "src", metavar="SRC", help=SOURCE + " A resumed run knows its own.")
@click.option(
    "--data",
    multiple=True,
    metavar="TOKENS[:WEIGHT]",
    help="Folder of grow data prepare, or sotu; several with their shares [default: sotu-heldout].",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="The run's folder.")
@click.option("--steps", type=int, metavar="N", help="Optimizer steps [default: 100].")
@click.option("--tokens", type=int, metavar="N", help="How many to train on, instead of --steps.")
@click.option("--flops", type=float, metavar="F", help="How many to spend, instead of --steps.")
@click.option(
    "--plateau",
    metavar="STEPS:NATS",
    callback=_plateau,
    help="End early (wsd: begin the decay) where the validation loss fell by less than NATS over STEPS steps.",
)
@click.option("--batch", type=int, metavar="B", help="Sequences of a step, over all processes [default: 8].")
@click.option("--length", type=int, metavar="L", help="Tokens of one [default: the model's positions, at most 512].")
@click.option("--accumulate", type=int, metavar="A", help="Parts that a step is computed in [default: 1].")
@click.option(
    "--lr",
    type=float,
    help="Peak of the rate [default: that of the run the weights are from, else 1e-4; arXiv 2602.02472].",
)
@click.option(
    "--schedule", type=click.Choice(SCHEDULES), help="[default: wsd] Warm-up, stable, decay: grow while it is stable."
)
@click.option("--warmup", type=int, metavar="N", help="Steps [default: a tenth].")
@click.option("--decay", type=int, metavar="N", help="Steps of wsd's decay at the end [default: a fifth].")
@click.option("--decay-shape", type=click.Choice(SHAPES), help="Of wsd [default: sqrt].")
@click.option("--weight-decay", type=float, help="On matrices, not on norms, biases, embeddings [default: 0.1].")
@click.option("--clip", type=float, help="Largest global norm of a gradient; 0: none [default: 1].")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="[default: adamw]")
@click.option("--dtype", type=click.Choice(COMPUTE), help="Of the computation; weights stay wide [default: float32].")
@click.option("--checkpointing", is_flag=True, default=None, help="Compute activations again: less memory, more time.")
@click.option("--compile", is_flag=True, default=None, help="torch.compile of every block.")
@click.option("--documents", is_flag=True, default=None, help="Tokens see their own document only.")
@click.option(
    "--rewarm",
    metavar="RATIO:STEPS",
    callback=_rewarm,
    help="Scale the updates of new entries alone, or off [default: after a growth 1.25 for a tenth of the steps, at "
    "most 250; arXiv 2602.02472].",
)
@click.option(
    "--rates",
    type=click.Choice(RULES),
    help="[default: uniform] mup: by how much fan-ins grew; implied: copies learn like the entry they hold.",
)
@click.option(
    "--freeze-old",
    is_flag=True,
    default=None,
    help="Old entries keep their bits: new ones learn a new domain beside them (LLaMA-Pro, arXiv 2401.02415).",
)
@click.option("--source", metavar="SRC", help="What SRC grew from: stop unless both start with the same loss.")
@click.option("--source-tokens", type=click.IntRange(0), metavar="N", help="That SRC's source has seen, for a warning.")
@click.option(
    "--state",
    type=click.Choice(("carry", "drop")),
    help="The optimizer's state beside SRC: continue from it, or begin with a fresh one [default: carry, if there].",
)
@click.option("--continue-schedule", is_flag=True, help="Count steps, rates, masks and dropout on from that state.")
@click.option(
    "--skip", type=int, metavar="N", help="Sequences of the text that were read before [default: the state's, or 0]."
)
@click.option("--save-every", type=int, metavar="N", help="Steps between checkpoints [default: 100].")
@click.option("--eval-every", type=int, metavar="N", help="Steps between evaluations [default: 50].")
@click.option("--log-every", type=int, metavar="N", help="Steps between lines in a pipe [default: 10].")
@click.option("--keep", type=int, metavar="K", help="Last checkpoints that stay; a file KEEP keeps more [default: 2].")
@click.option("--seed", type=int, metavar="N", help="Of order, masks and dropout [default: 0].")
@click.option("--resume", is_flag=True, help="Continue the run in RUN; what was set must be the same.")
@click.option("--trust-checkpoint", is_flag=True, help="Read the state of a run whose files are somebody else's.")
@click.option("--world", type=click.IntRange(1), metavar="N", help="Fail unless there are N processes (torchrun).")
@click.option("--tensorboard", is_flag=True, default=None, help="Event files in RUN/tensorboard too.")
@click.option(
    "--tracker",
    type=click.Choice(TRACKERS),
    help="Metrics go there too. wandb: RUN/wandb, uploaded only where WANDB_MODE=online; trackio: its local store.",
)
@revision
@as_json
def train(src, data, as_json, **options) -> int:
    """Continue pretraining; RUN gets stock checkpoints that a run continues from. Under torchrun it is sharded.

    Exit code 130: SIGTERM or SIGINT came; the step was finished and saved.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("rewarm") == ():
        given["rewarm"] = None
    done = api.train(src, data, quiet=as_json, **given)
    if not show.first_process():
        return 130 if done.stopped else 0
    if as_json:
        show.print_json(done.document())
    else:
        show.training(done)
    return 130 if done.stopped else 0


@cli.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--out", "-o", type=click.Path(path_type=Path), metavar="FILE", help="A picture: .png, .svg or .pdf.")
@click.option("--baseline", metavar="NAME", help="The run that savings are against [default: the last].")
@click.option("--overwrite", is_flag=True, help="Replace the picture.")
@as_json
def plot(runs, as_json, **options) -> int:
    """Show what runs cost and saved: loss against FLOPs, tokens and time. RUN: a folder of train, or NAME=FOLDER."""
    found = api.plot(runs, **options)
    if as_json:
        show.print_json(found.document())
    else:
        show.curves(found)
    return 0


@cli.command()
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="OUT", help="The run's folder [default: its name].")
@click.option("--resume", is_flag=True, help="Go on in OUT where it stopped; stages not yet begun may have changed.")
@click.option("--dry-run", is_flag=True, help="Price every stage, measure its time on a random model, write nothing.")
@click.option("--list", "listed", is_flag=True, help="Name the recipes that come with grow.")
@click.option("--world", type=click.IntRange(1), metavar="N", help="Fail unless there are N processes (torchrun).")
@click.option("--trust-checkpoint", is_flag=True, help="Resume a run whose files belong to somebody else.")
@as_json
@click.pass_context
def run(ctx, recipe, listed, dry_run, as_json, **options) -> int:
    """Carry out a staged recipe: train, grow, train. RECIPE is a TOML file or a bundled one's name.

    Exit code 130: SIGTERM or SIGINT came; --resume goes on from there, to the same bits.
    """
    from grow.cli import recipes

    if listed:
        return recipes.listed(as_json)
    if recipe is None:
        raise click.MissingParameter(ctx=ctx, param_hint="'RECIPE'", param_type="argument")
    if dry_run:
        return recipes.price(recipe, as_json)
    return recipes.run(recipe, as_json, **options)


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
        from grow.describe import plan_document

        show.print_json(plan_document(the_plan, world))
    else:
        show.plan(the_plan, world)
    return 0
