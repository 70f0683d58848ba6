"""`--overwrite` replaces what grow or `save_pretrained` wrote, and nothing that is somebody's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import tiny
from overwriting import web, widen

import grow
from grow.data import prepare
from grow.errors import BadInput
from grow.files.owned import CHECKPOINT, MARK, foreign
from grow.growth import from_files


def refused(source: Path, out: Path) -> BadInput:
    """The error of a growth that leaves everything around it as it was."""
    before = tiny.snapshot(out.parent)
    with pytest.raises(BadInput) as error:
        widen(source, out)
    assert tiny.snapshot(out.parent) == before
    assert error.value.fix
    return error.value


# What is not a checkpoint


CONFIGS = {
    "of something else": '{"port": 8080}',
    "no JSON": "{",
    "no object": "[]",
    "an empty type": '{"model_type": ""}',
    "a type that is none": '{"model_type": 3}',
    "no weights": '{"model_type": "llama"}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_with_a_config_alone_is_no_checkpoint(source, tmp_path, name):
    out = web(tmp_path / "site", CONFIGS[name])
    error = refused(source, out)
    assert (error.where, error.what) == (f'out="{out}"', "is not a checkpoint folder")
    assert error.details[0][0] == "found"


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_config_that_is_no_file_makes_no_checkpoint(source, tmp_path, kind):
    out = tiny.checkpoint(tmp_path / "out", "gpt2")
    (out / "config.json").rename(tmp_path / "aside.json")
    if kind == "fifo":
        os.mkfifo(out / "config.json")
    elif kind == "link":
        (out / "config.json").symlink_to(tmp_path / "aside.json")
    else:
        (out / "config.json").mkdir()
    before = sorted(os.listdir(out))
    with pytest.raises(BadInput):
        widen(source, out)
    assert sorted(os.listdir(out)) == before


# What lies beside a checkpoint


def put_file(name):
    return lambda out: (out / name).write_text("my own")


def put_folder(name, *files):
    def put(out):
        (out / name).mkdir()
        for file in files:
            (out / name / file).write_text("my own")

    return put


OTHERS = {
    "notes.txt": put_file("notes.txt"),
    "README.md": put_file("README.md"),
    "LICENSE": put_file("LICENSE"),
    "train.py": put_file("train.py"),
    ".env": put_file(".env"),
    "embeddings.safetensors": put_file("embeddings.safetensors"),
    "model.safetensors.bak": put_file("model.safetensors.bak"),
    ".git/": put_folder(".git", "HEAD"),
    "checkpoint-500/": put_folder("checkpoint-500", "model.safetensors"),
    "results/": put_folder("results"),
    "1_Pooling/notes.txt": put_folder("1_Pooling", "config.json", "notes.txt"),
    "state/keep.bin": put_folder("state", "keep.bin"),
    "vocab.txt/": put_folder("vocab.txt", "mine"),
    "merges.txt": lambda out: (out / "merges.txt").symlink_to(out.parent / "source" / "config.json"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_somebodys_own_is_named_and_stays(source, tmp_path, name):
    out = tiny.checkpoint(tmp_path / "out", "gpt2")
    OTHERS[name](out)
    error = refused(source, out)
    assert error.what == f"holds what is not part of a checkpoint: {name}"
    assert error.fix == "move it elsewhere, or another out=…"


def test_what_came_while_the_result_was_made_stays(source, tmp_path, monkeypatch):
    out, write = tiny.checkpoint(tmp_path / "out", "gpt2"), from_files.write_result

    def meanwhile(*arguments):
        (out / "notes.txt").write_text("my own")
        write(*arguments)

    monkeypatch.setattr(from_files, "write_result", meanwhile)
    with pytest.raises(BadInput, match=r"not part of a checkpoint: notes\.txt"):
        widen(source, out)
    assert (out / "notes.txt").read_text() == "my own"
    assert tiny.read_json(out / "config.json")["model_type"] == "gpt2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_what_came_at_the_last_moment_stays_with_a_note(source, tmp_path, monkeypatch):
    from grow.files import staging

    out, remove = tiny.checkpoint(tmp_path / "out", "gpt2"), staging.remove

    def late(folder, kind):
        (folder / "notes.txt").write_text("my own")
        return remove(folder, kind)

    monkeypatch.setattr(staging, "remove", late)
    aside = tmp_path / ".out.grow-replaced"
    growth = widen(source, out)
    assert growth.notes[-1] == f"what out was before could not be removed: it is in {aside}"
    assert [p.name for p in (aside / "out").iterdir()] == ["notes.txt"]
    assert tiny.read_json(out / "config.json")["model_type"] == "llama"


# What grow and stock code wrote


def test_a_grown_checkpoint_is_replaced_with_all_that_came_along(source, tmp_path):
    (source / "LICENSE.txt").write_text("as it was")
    out = tmp_path / "out"
    widen(source, out)
    listed = tiny.read_json(out / "grow.json")["files"]
    assert listed == {p.name: p.stat().st_size for p in out.iterdir() if p.name != "grow.json"}
    assert {"LICENSE.txt", "README.md", "model.safetensors"} <= listed.keys()
    widen(source, out)
    (out / "README.md").write_text("what I found out about this model")
    assert refused(source, out).what.endswith(": README.md")


def test_what_save_pretrained_and_a_trainer_wrote_is_replaced(source, tmp_path, tiny_trainer_files):
    out = tmp_path / "out"
    for name in tiny_trainer_files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    (out / "config.json").write_text('{"model_type": "llama"}')
    assert foreign(out, CHECKPOINT) == []
    assert widen(source, out).path == out
    assert not (out / "trainer_state.json").exists()


@pytest.fixture
def tiny_trainer_files():
    return (
        "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json "
        "optimizer.pt scheduler.pt rng_state.pth rng_state_1.pth trainer_state.json training_args.bin tokenizer.json "
        "special_tokens_map.json 1_Pooling/config.json 2_Dense/model.safetensors modules.json chat_template.jinja "
        "additional_chat_templates/tool.jinja"
    ).split()


def test_stock_models_and_tokenizers_write_nothing_that_is_foreign(tmp_path):
    import transformers

    out = tmp_path / "out"
    model = transformers.AutoModelForCausalLM.from_pretrained(zoo("small"))
    model.save_pretrained(out, max_shard_size="500KB")
    transformers.AutoTokenizer.from_pretrained(zoo("small")).save_pretrained(out)
    assert len(list(out.glob("*.safetensors"))) > 1
    assert foreign(out, CHECKPOINT) == []


def zoo(name: str) -> Path:
    from grow.zoo import bundled_path

    return bundled_path(name)


def test_a_list_that_lies_or_is_none_saves_nothing_from_being_named(source, tmp_path):
    out = widen(source, tmp_path / "out").path
    for files in (7, None, ["README.md"], {"README.md": "x"}, {"README.md": 3}, {"../source/config.json": 3}):
        tiny.edit_json(out / "grow.json", lambda record, files=files: record.update(files=files))
        assert refused(source, out).what.endswith("README.md")


# Token files


def test_token_files_are_replaced_and_what_lies_beside_them_is_not(tmp_path):
    text, out = tmp_path / "a.txt", tmp_path / "tokens"
    text.write_text("some words of a text. " * 40)
    prepare([text], tokenizer="small", out=out)
    (out / "notes.txt").write_text("my own")
    before = tiny.snapshot(out)
    with pytest.raises(BadInput, match=r"not part of a token.*: notes\.txt"):
        prepare([text], tokenizer="small", out=out, overwrite=True, validation=0.5)
    assert tiny.snapshot(out) == before
    (out / "notes.txt").unlink()
    assert prepare([text], tokenizer="small", out=out, overwrite=True, validation=0.5).validation == 0.5
    web(tmp_path / "site").joinpath("manifest.json").write_text('{"name": "my site"}')
    before = tiny.snapshot(tmp_path / "site")
    with pytest.raises(BadInput, match="is not a token folder"):
        prepare([text], tokenizer="small", out=tmp_path / "site", overwrite=True)
    assert tiny.snapshot(tmp_path / "site") == before


# The hidden folders beside the output


@pytest.mark.parametrize("name", [".out.grow-partial", ".out.grow-replaced"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_hidden_folder_that_grow_has_not_made_is_never_removed(source, tmp_path, name, checkpoint):
    tiny.checkpoint(tmp_path / "out", "gpt2")
    if checkpoint:
        tiny.checkpoint(tmp_path / name, "gpt2")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("three years")
    error = refused(source, tmp_path / "out")
    assert (error.where, error.what) == (str(tmp_path / name), "is in the way")


def test_hidden_folders_that_grow_made_are_removed_with_a_note(source, tmp_path):
    for name in (".out.grow-partial", ".out.grow-replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARK).touch()
    shutil.copytree(tiny.checkpoint(tmp_path / "old", "gpt2"), tmp_path / ".out.grow-replaced" / "out")
    tiny.checkpoint(tmp_path / "out", "gpt2")
    assert widen(source, tmp_path / "out").notes == ("removed .out.grow-partial, left by an interrupted run",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old", "out", "source"]


def test_what_a_killed_rename_had_put_aside_is_brought_back(source, tmp_path):
    aside = tmp_path / ".out.grow-replaced"
    aside.mkdir()
    (aside / MARK).touch()
    tiny.checkpoint(aside / "out", "gpt2")
    with pytest.raises(BadInput, match="exists and is not empty"):
        grow.widen(source, "2x", out=tmp_path / "out", verify=False)
    assert tiny.read_json(tmp_path / "out" / "config.json")["model_type"] == "gpt2"
    assert not aside.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("which", [".grow-partial", "out"])
def test_an_end_in_the_middle_of_the_rename_leaves_the_old_one(source, tmp_path, monkeypatch, error, which):
    out, rename = tiny.checkpoint(tmp_path / "out", "gpt2"), Path.rename
    before = tiny.snapshot(out)

    def ends(self: Path, target: Path) -> Path:
        if self.name.endswith(which) and (which != "out" or target.parent.name.endswith("replaced")):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", ends)
    with pytest.raises(error):
        widen(source, out)
    monkeypatch.undo()
    assert tiny.snapshot(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_a_read_only_folder_is_refused_before_anything_is_made(source, tmp_path, monkeypatch):
    out, access = tiny.checkpoint(tmp_path / "out", "gpt2"), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != out and access(path, mode))
    assert refused(source, out).what == "is read-only"
