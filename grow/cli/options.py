"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from grow.growth.file_options import SHARD_SIZE
from grow.notation.dtypes import CODES
from grow.optimizer.dual_rule import POLICIES
from grow.planning.choose_maps import NEW_TOKENS
from grow.planning.growth_options import USUAL
from grow.planning.layers import FILLS
from grow.planning.methods import METHODS
from grow.planning.tensor import SPLITS
from grow.zoo import BUNDLED

SOURCE = f"The source: a checkpoint folder, a hub id or a bundled name ({', '.join(BUNDLED)})."
TARGET = (
    "The target: a size name (base), a factor (2x, 1.5x), config fields (hidden_size=960,num_attention_heads=15), "
    "or a folder whose config has the sizes."
)


def options(*options: Callable) -> Callable:
    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_json = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document to stdout and everything else to stderr."
)
source = click.option("--from", "src", required=True, metavar="SRC", help=SOURCE)
revision = click.option("--revision", metavar="REV", help="The branch, tag or commit of a hub id.")
harmless = click.option(
    "--assume-harmless",
    metavar="FIELDS",
    default="",
    help="Config fields, comma-separated, that grow does not know and that you know to change no output.",
)
family = click.option(
    "--family",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run this file of Python, and take what it says of its model type instead of what grow knows "
    "(see grow families --derive).",
)
seed = click.option("--seed", type=int, default=USUAL.seed, show_default=True, help="The seed of every random choice.")
exactness = options(
    click.option(
        "--split",
        type=click.Choice(SPLITS),
        help="How the copies of a unit share the weight that reads it [default: exact, or the method's].",
    ),
    click.option(
        "--method",
        default=USUAL.method,
        show_default=True,
        metavar="NAME",
        help="Grow as in the literature: " + ", ".join(METHODS) + ".",
    ),
    click.option("--allow-lossy", is_flag=True, help="Allow a method that is not exact, and measure what it loses."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", *CODES]),
        default=USUAL.dtype,
        show_default=True,
        help="The dtype that weights are stored in.",
    ),
    seed,
    revision,
    harmless,
    as_json,
)
layers = options(
    click.option(
        "--place",
        default=USUAL.place,
        show_default=True,
        metavar="WHERE",
        help="Where new layers go: spread, top, after:K, or the old layers that they follow (3,7,11).",
    ),
    click.option(
        "--fill",
        type=click.Choice(FILLS),
        default=USUAL.fill,
        show_default=True,
        help="What new layers hold: copies of their neighbours or fresh weights; either way their output is 0.",
    ),
)
target = click.option("--to", "to", required=True, metavar="TARGET", help=TARGET)
widths = options(
    click.option("--deepen", is_flag=True, help="Take the number of layers from a size name or a config, too."),
    layers,
    click.option(
        "--new-tokens",
        type=click.Choice(NEW_TOKENS),
        default=USUAL.new_tokens,
        show_default=True,
        help="The logits of new tokens: between the old ones, 0, or far below them by the head's bias.",
    ),
    click.option(
        "--operator",
        "operators",
        multiple=True,
        metavar="AXIS=NAME",
        help="How hidden, ffn or heads grow: copies, silent, mean or unread. May be given several times.",
    ),
    exactness,
)
growth = options(source, target, widths)
training_state = options(
    click.option(
        "--state",
        type=click.Choice(POLICIES),
        help="What becomes of the optimizer state beside the weights: new entries start at 0, copies share it, or "
        "it is dropped [default: fresh-new, where there is a state].",
    ),
    click.option(
        "--trust-checkpoint", is_flag=True, help="Read the state of a run although its files belong to another user."
    ),
)
writing = options(
    click.option("--out", type=click.Path(path_type=Path), help="The new folder [default: SRC-TARGET]."),
    click.option(
        "--max-shard-size", default=SHARD_SIZE, show_default=True, help="The largest size of one safetensors file."
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing checkpoint folder."),
    click.option("--no-verify", is_flag=True, help="Skip verification; the result says that it is unverified."),
    click.option("--dry-run", is_flag=True, help="Show the plan and write nothing."),
    training_state,
    click.option(
        "--world",
        type=click.IntRange(1),
        metavar="N",
        help="Stop with an error unless N processes (torchrun) share the work.",
    ),
)


def names_in(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))
