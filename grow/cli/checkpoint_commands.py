"""The commands that show what there is: inspect and families."""

from __future__ import annotations

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
@as_json
def families(name: str | None, markdown: bool, as_json: bool) -> int:
    """List the families and their sizes; with NAME, its table of tensors, and what each of its axes can do."""
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
