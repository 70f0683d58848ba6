"""The options of a growth are listed once: every door has them with the same defaults, and what is none is refused."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields

import click
import pytest

import grow
from grow.cli.commands import cli
from grow.errors import BadInput
from grow.growth.file_options import FileOptions
from grow.notation.size_limits import cap_of
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.spelling import COMMAND_LINE, spelled
from grow.staged.keys import OPTIONS


@pytest.mark.parametrize("function", [grow.plan, grow.widen])
def test_functions_have_the_options_with_their_defaults(function):
    parameters = inspect.signature(function).parameters
    kinds = [GrowthOptions] if function is grow.plan else [GrowthOptions, FileOptions]
    for field in (field for kind in kinds for field in fields(kind)):
        assert parameters[field.name].default == field.default, field.name


def test_upcycling_has_the_options_with_their_defaults():
    parameters = inspect.signature(grow.upcycle).parameters
    for field in fields(UpcyclingOptions):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert parameters[field.name].default == default, field.name


def test_the_command_line_has_the_options_with_their_defaults():
    widen = cli.commands["widen"]
    given = widen.make_context("widen", ["--from", "small", "--to", "2x"], parent=click.Context(cli)).params
    for field in (*fields(GrowthOptions), *fields(FileOptions)):
        if field.name not in ("upcycling", "verify"):  # a command of its own; --no-verify
            # nothing is "" or () there
            assert (given[field.name] or None) == (field.default or None), field.name


def test_recipes_have_a_check_for_each_option():
    taken = {"out", "trust_checkpoint", "overwrite", "world", "revision", "upcycling"}  # what a recipe itself says
    assert {field.name for field in (*fields(GrowthOptions), *fields(FileOptions))} - set(OPTIONS) == taken


@pytest.mark.parametrize("name", ["experts", "granularity", "top_k"])
def test_no_more_experts_are_asked_for_than_a_config_may_have(name):
    cap = cap_of("experts")
    assert getattr(UpcyclingOptions(**{"experts": 2, name: cap}), name) == cap
    with pytest.raises(BadInput, match=f"{name}={cap + 1}: out of range"):
        UpcyclingOptions(**{"experts": 2, name: cap + 1})


def test_a_method_that_chooses_the_same_names_what_was_written():
    with pytest.raises(BadInput) as caught:
        GrowthOptions(method="net2net", split="even")
    assert caught.value.where == 'method="net2net", split="even"'
    assert caught.value.fix == 'leave split=… out, or method="default", split="even"'
    with spelled(COMMAND_LINE), pytest.raises(BadInput) as caught:
        GrowthOptions(method="hypercloning-noisy", place=[1, 2])
    assert caught.value.where == "--method hypercloning-noisy --place 1,2"
    assert caught.value.fix == "leave --place out, or --method default --place 1,2"
