"""What was asked for and has no effect is told: as an error where it can only be a mistake, else as a note."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

import grow
from grow.errors import BadInput
from grow.staged.recipe import read_recipe


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
    assert (error.value.where, error.value.what) == (f'to="{to}"', "has an empty field")
    assert error.value.fix == f'to="{fix}"'


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
    with pytest.raises(BadInput, match="is not a name for a stage's folder"):
        read_recipe(file)


def test_names_that_differ_in_case_are_told(tmp_path):
    file = tmp_path / "r.toml"
    stage = '[[stage]]\nkind = "{}"\nname = "{}"\n{}\n'
    file.write_text(
        'name = "r"\n' + stage.format("init", "One", 'from = "small"') + stage.format("widen", "one", 'to = "2x"')
    )
    with pytest.raises(BadInput, match="'One' and 'one' differ in case alone"):
        read_recipe(file)


# Options of growth


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"place": "top"}, 'place="top"'),
        ({"place": [0]}, "place=[0]"),
        ({"fill": "fresh"}, 'fill="fresh"'),
        ({"assume_harmless": ["hidden_sise"]}, 'assume_harmless=["hidden_sise"]'),
    ],
)
@pytest.mark.parametrize("to", ["2x", {"hidden": 48}, "hidden_size=48"])
def test_an_option_of_what_does_not_grow_is_told(source, options, where, to):
    with pytest.raises(BadInput) as error:
        grow.plan(source, to, **options)
    assert error.value.where == where
    assert "no effect" in error.value.what or "no such field" in error.value.what
    assert error.value.why
    assert error.value.fix


@pytest.mark.parametrize(
    ("to", "options"),
    [
        ({"layers": 3}, {"place": "top", "fill": "fresh"}),
        ({"layers": 3}, {"deepen": True}),
        ({"vocab": 40}, {"new_tokens": "zero"}),
        ({"hidden": 48}, {"place": "spread", "fill": "copy", "new_tokens": "blend"}),
    ],
)
def test_an_option_that_has_an_effect_is_not_told(source, to, options):
    assert not [note for note in grow.plan(source, to, **options).notes if "no effect" in note]


def test_an_operator_of_an_axis_that_stays_is_a_note(source):
    said = grow.plan(source, {"hidden": 48}, operators={"hidden": "copies", "ffn": "copies", "heads": "copies"}).notes
    assert [note for note in said if "no effect" in note] == [
        'operators={"ffn": "copies"} has no effect: ffn does not grow',
        'operators={"heads": "copies"} has no effect: heads does not grow',
    ]


@pytest.mark.parametrize("to", ["2x", {"hidden": 48}, "hidden_size=48"])
def test_settings_of_what_may_come_are_a_note(source, to):
    said = grow.plan(source, to, new_tokens="zero", deepen=True).notes
    assert sum("no effect" in note for note in said) == 2
    assert any(note.startswith('new_tokens="zero" has no effect') for note in said)
    assert any(note.startswith("deepen=True has no effect") for note in said)


def test_a_config_of_as_many_layers_makes_deepening_a_note(source, tmp_path):
    target = tiny.checkpoint(tmp_path / "target", "llama", hidden_size=48)
    assert any("deepen=True has no effect" in note for note in grow.plan(source, str(target), deepen=True).notes)


def test_a_field_that_is_known_needs_nobody_to_vouch_for_it(source):
    seen = grow.inspect(source, assume_harmless=["hidden_size"])
    assert any("assume_harmless=… has no effect on hidden_size" in note for note in seen.notes)


def test_a_field_that_is_not_there_is_spelled_for_the_user(tmp_path):
    folder = tiny.checkpoint(tmp_path / "odd", "llama", my_field=1)
    with pytest.raises(BadInput, match="did you mean 'my_field'"):
        grow.inspect(folder, assume_harmless=["my_feild"])


# Options of the other commands


@pytest.mark.parametrize(
    "line",
    [
        "verify SRC SRC --samples 3",
        "verify SRC --against x --seed 3",
        "verify SRC SRC --overwrite",
        "run --list recipe",
        "run --list --dry-run",
        "run recipe --dry-run --resume",
        "run recipe --dry-run --out x",
        "run recipe --dry-run --world 2",
        "plot x --overwrite",
        "train --from SRC --out x --schedule cosine --decay 3",
        "train --from SRC --out x --schedule cosine --decay-shape linear",
        "compare --from SRC --to 2x --rate 0.5",
        "data prepare a.txt --tokenizer small --out x --field words",
        "data prepare a.txt --tokenizer small --out x --split test",
        "data prepare a.jsonl --tokenizer small --out x --separator |",
        "data prepare sotu-heldout --tokenizer small --out x --separator |",
    ],
)
def test_an_option_without_effect_is_refused(line, source, tmp_path, monkeypatch, run):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}')
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*[str(source) if word == "SRC" else word for word in line.split()])
    assert code == 2
    assert any(said in err for said in ("no meaning with", " is of ", " is for ", "has no effect")), err
    assert not (tmp_path / "x").exists()
