"""What goes away or is put beside a result while it is made: stages, token files, golden files, pages."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
import tiny
from overwriting import web, widen

import grow
from grow.data import prepare
from grow.errors import BadInput
from grow.growth import from_files

# What goes away while the result is made


LOST = {
    "weights": ("model.safetensors", "the weights were damaged"),
    "a companion": ("tokenizer_config.json", "tokenizer_config.json went away"),
    "the card": ("README.md", "README.md went away"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_file_that_goes_away_meanwhile_is_an_error_and_nothing_is_kept(source, tmp_path, monkeypatch, name):
    file, said = LOST[name]
    check = from_files.check_written

    def meanwhile(plan, checkpoint, folder, *rest):
        (folder / file).unlink()
        return check(plan, checkpoint, folder, *rest)

    monkeypatch.setattr(from_files, "check_written", meanwhile)
    with pytest.raises(BadInput, match="while the result was made") as error:
        grow.widen(source, "2x", out=tmp_path / "out", verify=False)
    assert error.value.what.startswith(said)
    assert not (tmp_path / "out").exists()


def test_weights_of_other_sizes_are_an_error(source, tmp_path, monkeypatch):
    check = from_files.check_written

    def meanwhile(plan, checkpoint, folder, *rest):
        tensors = tiny.read_tensors(folder)
        del tensors["model.norm.weight"]
        tiny.write_tensors(folder, tensors)
        return check(plan, checkpoint, folder, *rest)

    monkeypatch.setattr(from_files, "check_written", meanwhile)
    with pytest.raises(BadInput, match=r"model\.norm\.weight changed while"):
        grow.widen(source, "2x", out=tmp_path / "out", verify=False)


@pytest.mark.parametrize("how", ["removed", "replaced", "cut"])
def test_weights_that_go_away_while_they_are_written_are_an_error(source, tmp_path, monkeypatch, how):
    close = grow.files.writer.ShardWriter.close

    def meanwhile(self):
        file = self.folder / "model.safetensors"
        if how == "cut":
            os.truncate(file, 100)
        else:
            file.unlink()
            if how == "replaced":
                (self.folder / "x").write_bytes(b"x")
                (self.folder / "x").rename(file)
        close(self)

    monkeypatch.setattr(grow.files.writer.ShardWriter, "close", meanwhile)
    with pytest.raises(BadInput, match="went away" if how == "removed" else "was changed"):
        grow.widen(source, "2x", out=tmp_path / "out", verify=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_token_files_that_go_away_are_an_error(tmp_path, monkeypatch):
    module = sys.modules["grow.data.preparing"]
    text, write = tmp_path / "a.txt", module.write_json
    text.write_text("some words of a text. " * 40)

    def meanwhile(path, document):
        (path.parent / "train.bin").unlink()
        write(path, document)

    monkeypatch.setattr(module, "write_json", meanwhile)
    with pytest.raises(BadInput, match=r"train\.bin went away while"):
        prepare([text], tokenizer="small", out=tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


# A recipe's stages and a run's beginning


RECIPE = """
name = "one"
[[stage]]
kind = "init"
from = "small"
sizes = {num_hidden_layers = 1}
[[stage]]
kind = "widen"
to = "2x"
verify = false
"""


def test_a_stage_removes_only_what_a_stage_has_left(tmp_path):
    recipe, out = tmp_path / "one.toml", tmp_path / "out"
    recipe.write_text(RECIPE)
    grow.run(recipe, out=out)
    tiny.edit_json(out / "recipe.json", lambda book: book["stages"][1].update(status="running"))
    (out / "02-widen" / "notes.txt").write_text("my own")
    with pytest.raises(BadInput, match=r"not part of a checkpoint: notes\.txt"):
        grow.run(recipe, out=out, resume=True)
    assert (out / "02-widen" / "notes.txt").read_text() == "my own"
    (out / "02-widen" / "notes.txt").unlink()
    assert grow.run(recipe, out=out, resume=True).stages[1]["status"] == "done"


def test_a_stage_is_not_made_in_a_folder_of_somebody_elses(tmp_path):
    recipe, out = tmp_path / "one.toml", tmp_path / "out"
    recipe.write_text(RECIPE)
    grow.run(recipe, out=out)
    tiny.edit_json(out / "recipe.json", lambda book: book["stages"][1].update(status="waiting"))
    recipe.write_text(RECIPE.replace('kind = "widen"', 'kind = "widen"\nname = "notes"'))
    web(out / "notes")
    before = tiny.snapshot(out / "notes")
    with pytest.raises(BadInput):
        grow.run(recipe, out=out, resume=True)
    assert tiny.snapshot(out / "notes") == before


def test_a_file_beside_tokens_that_an_unbegun_run_left_stays(source, tmp_path):
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / ".lock").touch()
    text = tmp_path / "a.txt"
    text.write_text("some words of a text. " * 40)
    shutil.rmtree(run / "data")
    prepare([text], tokenizer="small", out=run / "data")
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    manifest["sources"][0]["name"] = "sotu-heldout"
    tiny.write_json(run / "data" / "manifest.json", manifest)
    (run / "data" / "notes.txt").write_text("my own")
    with pytest.raises(BadInput, match="exists and is not empty"):
        grow.train("small", out=run, steps=1)
    assert (run / "data" / "notes.txt").read_text() == "my own"


# Single files


def test_a_golden_file_replaces_golden_files_alone(source, tmp_path):
    from grow.verification.golden.golden_file import check_target

    mine = tmp_path / "golden.safetensors"
    for content in (b"my thesis", (source / "model.safetensors").read_bytes()):
        mine.write_bytes(content)
        with pytest.raises(BadInput, match="is not a golden file"):
            check_target(mine, True)
        assert mine.read_bytes() == content


def test_a_page_replaces_pages_alone(source, tmp_path):
    out, page = widen(source, tmp_path / "out").path, tmp_path / "page.html"
    page.write_text("<title>my site</title>")
    with pytest.raises(BadInput, match="is not a page of grow"):
        grow.verify(source, out, rungs=("certificate",), report=page)
    assert page.read_text() == "<title>my site</title>"
    page.unlink()
    for _ in range(2):
        grow.verify(source, out, rungs=("certificate",), report=page)
    assert "grow verify</title>" in page.read_text(encoding="utf-8")
