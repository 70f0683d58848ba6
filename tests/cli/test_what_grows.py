"""What every axis of a family can do: `grow families NAME`, and the page of all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import grow
from grow.architectures import FAMILIES
from grow.architectures.facts import Refusal
from grow.planning.what_grows import EXACT, REFUSED, ROUNDED, growths

KINDS = {
    ("llama", "hidden"): (EXACT, ROUNDED), ("llama", "heads"): (EXACT, EXACT),
    ("llama", "head_dim"): (ROUNDED, ROUNDED),
    ("granite", "head_dim"): (EXACT, EXACT),  # its scale is a field
    ("gemma", "hidden"): (ROUNDED, ROUNDED),  # stock code multiplies the embedding by √hidden
    ("olmo2", "heads"): (EXACT, REFUSED),  # one norm runs over all heads
    ("bert", "hidden"): (EXACT, REFUSED), ("bert", "layers"): (ROUNDED, ROUNDED), ("bert", "types"): None,
    ("mixtral", "experts"): (EXACT, REFUSED), ("llama", "experts"): None,
}  # fmt: skip


@pytest.mark.parametrize("cell", KINDS, ids="-".join)
def test_what_an_axis_can_do(cell):
    name, axis = cell
    found = {growth.axis: (growth.multiple.kind, growth.other.kind) for growth in growths(FAMILIES[name])}
    assert found.get(axis) == KINDS[cell]


def test_what_depends_on_the_model_class():
    eurobert = FAMILIES["eurobert"]
    assert growths(eurobert)[0].other.kind == ROUNDED
    assert growths(eurobert, "ForSequenceClassification")[0].other.kind == REFUSED


def test_axes_that_have_to_grow_along_are_named():
    heads = {growth.axis: growth for growth in growths(FAMILIES["gpt2"])}["heads"]
    assert heads.multiple.beside == ("hidden",)


def test_an_axis_that_the_family_keeps_says_its_reason():
    family = replace(FAMILIES["llama"], refusals=(Refusal("ffn", "it is counted in dozens"),))
    ffn = {growth.axis: growth for growth in growths(family)}["ffn"]
    assert (ffn.multiple.kind, ffn.multiple.detail) == (REFUSED, "it is counted in dozens")


def test_one_family_in_full(grow_):
    shown = grow_("families", "qwen2_moe")[1]
    assert "any other size" in shown
    assert "expert_ffn" in shown
    assert "  experts: an expert with a row of its own in the router takes tokens away" in shown
    document = json.loads(grow_("families", "qwen2_moe", "--json")[1])
    (family,) = document["families"]
    hidden = family["growths"][0]
    assert (hidden["axis"], hidden["multiple"]["kind"], hidden["other"]["kind"]) == ("hidden", EXACT, ROUNDED)


def test_the_page_in_the_documents_is_what_the_command_prints(grow_):
    """`grow families --markdown > docs/families.md` mends it."""
    page = (Path(grow.__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
    assert page == grow_("families", "--markdown")[1]
    lines = page.splitlines()
    rows = {line.split("|")[1].strip() for line in lines if line.startswith("| ")}
    assert FAMILIES.keys() <= rows
    llama = next(line for line in lines if line.startswith("| llama "))
    assert llama == "| llama | `=≈` | `==` | `==q` | `≈≈` | `==` | `==` |  | `==` | `==` |  |"
