"""What was asked for and has no effect is told: as an error where it can only be a mistake, else as a note."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

import grow
from grow.errors import BadInput
from grow.run.recipe import read_recipe


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("source") / "llama", "llama", tokenizer=True)


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *line: tiny.command(monkeypatch, capsys, *line)


# Empty fields of a target


@pytest.mark.parametrize(
    ("to", "fix"),
    [
        ("hidden_size=48,", "hidden_size=48"),
        (",hidden_size=48", "hidden_size=48"),
        ("hidden_size=48,,num_hidden_layers=3", "hidden_size=48,num_hidden_layers=3"),
        ("hidden_size=48, ,", "hidden_size=48"),
        ("2x,", "2x"),
        ("base,", "base"),
    ],
)
def test_an_empty_field_of_a_target_is_told(source, to, fix):
    with pytest.raises(BadInput) as error:
        grow.plan(source, to)
    assert (error.value.where, error.value.what) == (f"--to {to}", "has an empty field")
    assert error.value.fix == f"--to {fix}"


@pytest.mark.parametrize("to", ["", " ", ",", ", ,"])
def test_an_empty_target_is_told(source, to):
    with pytest.raises(BadInput, match="is empty"):
        grow.plan(source, to)


def test_a_folder_may_have_commas_in_its_name(tmp_path, source):
    target = tiny.checkpoint(tmp_path / "a,,b", "llama", hidden_size=48, intermediate_size=40)
    assert grow.plan(source, str(target)).new_sizes["hidden"] == 48


# Names of stages


@pytest.mark.parametrize(
    "name",
    "recipe.json recipe.toml report.md curves.png final data data-a baseline baseline-init Recipe.JSON FINAL".split(),
)
def test_a_stage_has_no_name_that_the_run_uses(tmp_path, name):
    file = tmp_path / "r.toml"
    file.write_text(f'name = "r"\n[[stage]]\nkind = "init"\nname = "{name}"\nfrom = "small"\n')
    with pytest.raises(BadInput, match=r"stage 1 \(init\): name: .*of its own"):
        read_recipe(file)


@pytest.mark.parametrize("name", ["", ".", "..", " a", "a.", "a ", "a/b", "a:b", "a\\\\b"])
def test_a_stage_has_no_name_that_is_no_folders(tmp_path, name):
    file = tmp_path / "r.toml"
    file.write_text(f'name = "r"\n[[stage]]\nkind = "init"\nname = "{name}"\nfrom = "small"\n')
    with pytest.raises(BadInput, match="is no name for a stage's folder"):
        read_recipe(file)


def test_names_that_differ_in_case_are_told(tmp_path):
    file = tmp_path / "r.toml"
    stage = '[[stage]]\nkind = "{}"\nname = "{}"\n{}\n'
    file.write_text(
        'name = "r"\n' + stage.format("init", "One", 'from = "small"') + stage.format("widen", "one", 'to = "2x"')
    )
    with pytest.raises(BadInput, match="'One' and 'one' differ in case alone"):
        read_recipe(file)
