"""The command `grow`, and all the commands below it."""

from __future__ import annotations

import click

import grow
from grow.cli.checkpoint_commands import families, inspect
from grow.cli.growth_commands import compare, deepen, plan, upcycle, widen
from grow.cli.run_command import run
from grow.cli.train_commands import data, plot, train
from grow.cli.verify_command import verify
from grow.errors import BadInput
from grow.spelling import COMMAND_LINE, spelled


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(grow.__version__, prog_name="grow")
def cli() -> None:
    """Enlarge a pretrained Transformer without changing a single output."""
    click.get_current_context().with_resource(spelled(COMMAND_LINE))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a shell: eval "$(grow completion bash)"."""
    from click.shell_completion import get_completion_class

    script_class = get_completion_class(shell)
    if script_class is None:
        raise BadInput(
            f"completion {shell}",
            what="has no script in the installed version of click",
            why="the completion scripts come with click",
            fix="grow completion bash",
        )
    click.echo(script_class(cli, {}, "grow", "_GROW_COMPLETE").source())
    return 0


for _command in (widen, deepen, upcycle, plan, verify, compare, inspect, families, data, train, plot, run):
    cli.add_command(_command)
