"""The commands that show what there is: inspect and families."""

from __future__ import annotations

from pathlib import Path

import click

from grow import api
from grow.architectures import FAMILIES, family_of
from grow.cli import checkpoint_text, families_page, terminal
from grow.cli.options import (
    as_json,
    harmless,
    names_in,
    revision,
)


@click.command()
@click.argument("src")
@revision
@harmless
@as_json
def inspect(src: str, revision: str | None, assume_harmless: str, as_json: bool) -> int:
    """Show what a checkpoint is: family, sizes, tensors with their signatures. No weight is read."""
    seen = api.inspect(src, revision=revision, assume_harmless=names_in(assume_harmless))
    if as_json:
        terminal.print_json(checkpoint_text.inspection_document(seen))
    else:
        checkpoint_text.show_inspection(seen)
    return 0


@click.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="Print what every axis of every family can do, as a page.")
@click.option(
    "--derive",
    metavar="MODEL_TYPE",
    help="Derive the family of a stock model type from its classes: tiny random models of it are grown. all: of every "
    "type, as a page.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the derived family to this file, for --family of other commands.",
)
@as_json
def families(name: str | None, markdown: bool, derive: str | None, out: Path | None, as_json: bool) -> int:
    """List the families and their sizes; with NAME, its table of tensors, and what each of its axes can do; or derive
    one that is not there."""
    if derive is not None:
        return _derive(name, derive, out, as_json)
    if out is not None:
        raise click.UsageError("--out has no effect without --derive, whose family it holds.")
    if markdown:
        for line in families_page.page([family_of(name)] if name else list(FAMILIES.values())):
            terminal.say(line)
        return 0
    if name is not None and name not in FAMILIES:
        family_of(name)
    chosen = [FAMILIES[name]] if name else list(FAMILIES.values())
    if as_json:
        terminal.print_json(
            {"schema": 1, "families": [checkpoint_text.family_document(f, whole=bool(name)) for f in chosen]}
        )
    elif name:
        checkpoint_text.show_family(chosen[0])
    else:
        checkpoint_text.show_families(chosen)
    return 0


def _derive(name: str | None, model_type: str, out: Path | None, as_json: bool) -> int:
    if name is not None:
        raise click.UsageError("NAME shows a family that grow has, and --derive makes one: give one of them.")
    if model_type == "all":
        return _survey(out)
    derived = api.derive(model_type, out)
    if as_json:
        from grow.deriving.written import document

        terminal.print_json(document(derived))
    elif out is None:
        click.echo(derived.text, nl=False)
    else:
        checkpoint_text.show_derivation(derived)
        terminal.say(f"family: {out}")
    return 0


def _survey(out: Path | None) -> int:
    """Types that are done are kept beside the page, so that a survey that was stopped goes on."""
    if out is None:
        raise click.UsageError("--derive all takes --out, the page that it writes.")
    from grow.deriving.file_of_a_family import place
    from grow.deriving.survey import MARK, survey

    survey(place(out, (MARK,), "a page of model types"), tell=lambda line: terminal.say(line, err=True))
    terminal.say(f"page: {out}")
    return 0
