"""The commands data, train and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from grow import api
from grow.cli import terminal, training_text
from grow.cli.exit_codes import INTERRUPTED
from grow.cli.options import SOURCE, as_json, revision, seed
from grow.cli.progress import Progress
from grow.errors import BadInput
from grow.training.settings.limits import COMPUTE, MEANINGS, OPTIMIZERS, RULES, TRACKERS, plateau_of, rewarm_of
from grow.training.settings.schedule import SCHEDULES, SHAPES


@click.group()
def data() -> None:
    """Prepare text for training."""


@data.command("prepare")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--tokenizer", required=True, metavar="SRC", help="A checkpoint whose tokenizer reads the text.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The new folder.")
@click.option(
    "--field",
    default="text",
    show_default=True,
    help="The field of JSON lines, parquet and datasets that holds the text.",
)
@click.option(
    "--separator",
    default="",
    metavar="TEXT",
    help=r"Text between two documents of a text file, such as \n\n [default: a file is one document].",
)
@click.option("--split", default="train", show_default=True, help="The split of a dataset of the hub.")
@click.option(
    "--validation",
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="The share of the documents that is kept for validation.",
)
@click.option("--no-end", is_flag=True, help="Write no end-of-text token behind documents.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of token files.")
@seed
@revision
@as_json
def prepare_data(inputs: tuple[str, ...], separator: str, no_end: bool, as_json: bool, **options: Any) -> int:
    """Turn text, JSON lines, parquet and datasets of the hub into token files with a manifest."""
    from grow.data import prepare
    from grow.data.readers import check_used

    check_used(inputs, field=options["field"], separator=separator, split=options["split"])

    separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    with Progress(quiet=as_json) as progress:
        made = prepare(list(inputs), separator=separator, end=not no_end, progress=progress.tokens, **options)
    if as_json:
        terminal.print_json({"path": str(options["out"]), **made.document()})
    else:
        training_text.show_prepared(options["out"], made)
    return 0


def _rewarm(_: Any, __: Any, text: str | None) -> tuple[float, int] | tuple[()] | None:
    """RATIO:STEPS as numbers, () for off."""
    try:
        return None if text is None else rewarm_of(text) or ()
    except ValueError:
        raise BadInput(
            f"--rewarm {text}", what="must be RATIO:STEPS", why=MEANINGS["rewarm"], fix="--rewarm 1.25:250"
        ) from None


def _plateau(_: Any, __: Any, text: str | None) -> tuple[int, float] | None:
    """STEPS:NATS as numbers."""
    try:
        return None if text is None else plateau_of(text)
    except ValueError:
        raise BadInput(
            f"--plateau {text}", what="must be STEPS:NATS", why=MEANINGS["plateau"], fix="--plateau 200:0.01"
        ) from None


@click.command()
@click.option("--from", "src", metavar="SRC", help=SOURCE + " A resumed run has its own.")
@click.option(
    "--data",
    multiple=True,
    metavar="TOKENS[:WEIGHT]",
    help="Token files: a folder of grow data prepare, or sotu; several may have weights, TOKENS:WEIGHT [default: "
    "sotu-heldout].",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="The run's folder.")
@click.option("--steps", type=int, metavar="N", help="The number of optimizer steps [default: 100].")
@click.option("--tokens", type=int, metavar="N", help="The number of tokens to train on, instead of --steps.")
@click.option("--flops", type=float, metavar="F", help="The number of FLOPs to spend, instead of --steps.")
@click.option(
    "--plateau",
    metavar="STEPS:NATS",
    callback=_plateau,
    help="End early (wsd: begin the decay) where the validation loss fell by less than NATS over STEPS steps.",
)
@click.option(
    "--batch",
    "--batch-size",
    "batch",
    type=int,
    metavar="B",
    help="The number of sequences in a step, over all processes [default: 8].",
)
@click.option(
    "--length",
    type=int,
    metavar="L",
    help="The number of tokens in a sequence [default: the model's positions, at most 512].",
)
@click.option(
    "--accumulate", type=int, metavar="A", help="The number of parts in which a step is computed [default: 1]."
)
@click.option(
    "--lr",
    "--learning-rate",
    "lr",
    type=float,
    help="The peak learning rate [default: that of the run that made the weights, else 1e-4; arXiv 2602.02472].",
)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    help="The learning rate schedule; wsd is warmup, stable, decay [default: wsd].",
)
@click.option(
    "--warmup",
    "--warmup-steps",
    "warmup",
    type=int,
    metavar="N",
    help="The number of warmup steps [default: a tenth of all].",
)
@click.option(
    "--decay", type=int, metavar="N", help="The number of steps in the final decay of wsd [default: a fifth of all]."
)
@click.option("--decay-shape", type=click.Choice(SHAPES), help="The shape of the decay of wsd [default: sqrt].")
@click.option(
    "--weight-decay",
    type=float,
    help="The weight decay of matrices; norms, biases and embeddings have none [default: 0.1].",
)
@click.option(
    "--clip",
    "--max-grad-norm",
    "clip",
    type=float,
    help="The largest global norm of a gradient; 0 sets no limit [default: 1].",
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="The optimizer [default: adamw].")
@click.option(
    "--dtype",
    type=click.Choice(COMPUTE),
    help="The dtype of the computation; weights stay in float32 or wider [default: float32].",
)
@click.option(
    "--checkpointing",
    "--gradient-checkpointing",
    "checkpointing",
    is_flag=True,
    default=None,
    help="Recompute activations: less memory, more time.",
)
@click.option("--compile", is_flag=True, default=None, help="Compile every block with torch.compile.")
@click.option("--documents", is_flag=True, default=None, help="Let tokens attend to their own document only.")
@click.option(
    "--rewarm",
    metavar="RATIO:STEPS",
    callback=_rewarm,
    help="Scale the updates of new entries by RATIO for the first STEPS, or off [default: after a growth, 1.25 for a "
    "tenth of the steps, at most 250; arXiv 2602.02472].",
)
@click.option(
    "--rates",
    type=click.Choice(RULES),
    help="The learning rates after a growth: uniform; mup, by how much fan-ins grew; implied, copies learn as the "
    "entry that they copy [default: uniform].",
)
@click.option(
    "--freeze-old",
    is_flag=True,
    default=None,
    help="Freeze old entries, so that new ones learn a new domain beside them (LLaMA Pro, arXiv 2401.02415).",
)
@click.option(
    "--source",
    metavar="SRC",
    help="The checkpoint that SRC grew from; the run stops unless both start with the same loss.",
)
@click.option(
    "--source-tokens",
    type=click.IntRange(0),
    metavar="N",
    help="The tokens that SRC's source was trained on, for a warning where growth is not expected to pay.",
)
@click.option(
    "--state",
    type=click.Choice(("carry", "drop")),
    help="Continue from the optimizer state beside SRC, or begin with a fresh one [default: carry, if there is one].",
)
@click.option(
    "--continue-schedule", is_flag=True, help="Continue the schedule, masks and dropout from the state's step."
)
@click.option(
    "--skip",
    type=int,
    metavar="N",
    help="The number of sequences that were read before [default: the state's, or 0].",
)
@click.option("--save-every", type=int, metavar="N", help="The steps between checkpoints [default: 100].")
@click.option("--eval-every", type=int, metavar="N", help="The steps between evaluations [default: 50].")
@click.option(
    "--log-every",
    type=int,
    metavar="N",
    help="The steps between lines of progress where the output is a pipe [default: 10].",
)
@click.option(
    "--keep",
    type=int,
    metavar="K",
    help="The number of last checkpoints that stay; one with a file KEEP in it always stays [default: 2].",
)
@click.option("--seed", type=int, metavar="N", help="The seed of the order, the masks and dropout [default: 0].")
@click.option("--resume", is_flag=True, help="Continue the run in RUN with the same settings.")
@click.option(
    "--trust-checkpoint", is_flag=True, help="Read the state of a run although its files belong to another user."
)
@click.option(
    "--world", type=click.IntRange(1), metavar="N", help="Stop with an error unless there are N processes (torchrun)."
)
@click.option("--tensorboard", is_flag=True, default=None, help="Write event files to RUN/tensorboard too.")
@click.option(
    "--tracker",
    type=click.Choice(TRACKERS),
    help="Also write the metrics to a tracker. wandb writes to RUN/wandb and uploads only where WANDB_MODE=online; "
    "trackio writes to its local store.",
)
@revision
@as_json
def train(src: str | None, data: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Continue pretraining; RUN gets stock checkpoints, from which a run can continue. Under torchrun it is sharded.

    Exit code 130: SIGTERM or SIGINT arrived; the step was finished and saved.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if options["schedule"] not in (None, "wsd") and (named := [n for n in ("decay", "decay_shape") if n in given]):
        what = f"--{named[0].replace('_', '-')} has no effect with --schedule {options['schedule']}, only with wsd."
        raise click.UsageError(what, click.get_current_context())
    if given.get("rewarm") == ():
        given["rewarm"] = None
    done = api.train(src, data, quiet=as_json, **given)
    if not terminal.first_process():
        return INTERRUPTED if done.stopped else 0
    if as_json:
        terminal.print_json(done.document())
    else:
        training_text.show_training(done)
    return INTERRUPTED if done.stopped else 0


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Also write a picture: .png, .svg or .pdf."
)
@click.option("--baseline", metavar="NAME", help="The run with which the others are compared [default: the last].")
@click.option("--overwrite", is_flag=True, help="Replace the picture.")
@as_json
def plot(runs: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Show what runs cost and saved: loss against FLOPs, tokens and time. RUN: a grow train folder or NAME=FOLDER."""
    if options["overwrite"] and not options["out"]:
        raise click.UsageError(
            "--overwrite has no effect without --out, whose picture it replaces.", click.get_current_context()
        )
    curves = api.plot(runs, **options)
    if as_json:
        terminal.print_json(curves.document())
    else:
        training_text.show_curves(curves)
    return 0
