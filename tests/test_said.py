"""What is printed says what is so, and nothing that a file says moves the cursor of a terminal."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import transformers

import grow
from grow import comparison
from grow.cli import growth_text, terminal, verification_text
from grow.errors import BadInput, one_line, plain
from grow.files import finished
from grow.growth import from_files
from grow.models.true_float64 import quiet

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\x9b2J\u202e\u2028\x7f"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


@pytest.fixture
def source(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "source", "llama", tokenizer=True)


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *line: tiny.command(monkeypatch, capsys, *line)


def clean(*texts: str) -> None:
    for text in texts:
        assert RAW.search(text) is None, ascii(text)


# Escapes


def test_what_a_terminal_obeys_is_escaped_and_letters_are_not():
    assert plain("é × 語 😀\n") == "é × 語 😀\n"
    assert plain(EVIL) == r"\x1b]0;owned\x07\x1b[2J\x1b[31m\r\x9b2J\u202e\u2028\x7f"
    assert one_line("a\nlossless: b") == r"a\nlossless: b"


def test_an_error_has_its_lines_and_no_others():
    error = BadInput(f"a{EVIL}\nb", what="c\nd", why=f"e\n{EVIL}", fix="f\ng", details=[("h\ni", "j\nk")])
    lines = str(error).split("\n")
    assert [line[:2] for line in lines] == ["a\\", "  ", "  ", "  ", "  ", "  ", "  "]
    clean(str(error))
    assert error.where == f"a{EVIL}\nb"  # as it is, for a program


def evil_config(source: Path, **fields: object) -> Path:
    tiny.edit_json(source / "config.json", lambda config: config.update(fields))
    return source


def evil_tensor(source: Path) -> Path:
    tensors = tiny.read_tensors(source)
    tensors[f"model.{EVIL}\nlossless: all of it.weight"] = tensors["model.norm.weight"]
    tiny.write_tensors(source, tensors)
    return source


def evil_file(source: Path) -> Path:
    (source / f"{EVIL}.safetensors").write_bytes(b"x")
    return source


FAULTS = {
    "a tensor's name": evil_tensor,
    "architectures": lambda s: evil_config(s, architectures=[f"LlamaForCausalLM{EVIL}"]),
    "model_type": lambda s: evil_config(s, model_type=f"llama{EVIL}"),
    "a field": lambda s: evil_config(s, **{f"x{EVIL}\nlossless: b": 1}),
    "a value": lambda s: evil_config(s, hidden_act=f"silu{EVIL}"),
    "a file": evil_file,
    "a folder": lambda s: s.rename(s.with_name("so" + EVIL.replace("/", ""))),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("command", ["inspect", "plan", "widen", "verify"])
def test_no_message_holds_what_a_terminal_obeys(source, tmp_path, run, name, command):
    folder = FAULTS[name](source)
    line = {
        "inspect": ["inspect", folder],
        "plan": ["plan", "--from", folder, "--to", "2x"],
        "widen": ["widen", "--from", folder, "--to", "2x", "--out", tmp_path / "out", "--no-verify"],
        "verify": ["verify", folder, folder, "--rung", "certificate"],
    }[command]
    for more in ([], ["--json"]):
        _, out, err = run(*line, *more)
        clean(out, err)
        assert out + err
        assert not any(text.startswith("lossless: all of it") for text in (out + err).splitlines())
        if more and out:
            json.loads(out)
        if command == "widen":
            break


def test_json_says_the_same_with_escapes(capsys):
    terminal.print_json({"name": EVIL})
    out = capsys.readouterr().out
    clean(out)
    assert json.loads(out) == {"name": EVIL}


def test_a_cell_is_one_line(capsys):
    terminal.table(("name", "b"), [(f"x\n{EVIL}", 1)])
    head, row = capsys.readouterr().out.splitlines()
    clean(head, row)


def test_what_was_typed_is_escaped_too(run):
    code, out, err = run("plan", "--from", "small", f"--{EVIL}")
    assert code == 2
    clean(out, err)
    code, out, err = run("run", f"{EVIL}.toml")
    assert code == 2
    clean(out, err)


RECIPES = ['name = "{e}"', 'name = "x"\n"{e}" = 1', 'name = "x"\n[[stage]]\nkind = "{e}"']


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_is_quoted_escaped(tmp_path, run, text):
    (tmp_path / "r.toml").write_text(text.format(e=r"\u001B[2J\u202E\u009B"))
    code, out, err = run("run", tmp_path / "r.toml")
    assert code == 2
    clean(out, err)


# What was kept


def test_what_is_kept_is_said_while_it_is_there(tmp_path):
    finished.forget()
    assert finished.sentence() == "nothing was kept under the final name"
    inner = tmp_path / "out" / "inner"
    inner.mkdir(parents=True)
    finished.keep(inner)
    assert finished.sentence() == f"{inner} is complete and stays"
    finished.keep(tmp_path / "out", "stays")
    assert finished.sentence() == f"{tmp_path / 'out'} stays"
    inner.rmdir()
    (tmp_path / "out").rmdir()
    assert finished.sentence() == "nothing was kept under the final name"


AFTER = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), 2),
    "interrupted": (KeyboardInterrupt(), 130),
    "a fault": (ValueError("oh"), 70),
    "memory": (MemoryError(), 2),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_failure_behind_the_rename_says_that_the_result_is_there(source, tmp_path, run, monkeypatch, name):
    error, code = AFTER[name]

    def fails(*_):
        raise error

    monkeypatch.setattr(growth_text, "show_growth", fails)
    out = tmp_path / "out"
    found, _, err = run("widen", "--from", source, "--to", "2x", "--out", out, "--no-verify")
    assert (found, out.is_dir()) == (code, True)
    assert f"{out} is complete and stays" in err
    assert "nothing was kept" not in err


@pytest.mark.parametrize("name", AFTER)
def test_a_failure_before_it_says_that_nothing_is(source, tmp_path, run, monkeypatch, name):
    error, code = AFTER[name]

    def fails(*_):
        raise error

    monkeypatch.setattr(from_files, "check_written", fails)
    out = tmp_path / "out"
    found, _, err = run("widen", "--from", source, "--to", "2x", "--out", out, "--no-verify")
    assert (found, out.exists()) == (code, False)
    assert "nothing was kept" in err


def test_a_replaced_folder_that_cannot_be_removed_is_a_note_and_no_failure(source, tmp_path, run, monkeypatch):
    from grow.files import owned

    out, unlink = tiny.checkpoint(tmp_path / "out", "gpt2"), Path.unlink

    def fails(self, *arguments, **options):
        if "grow-replaced" in str(self):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return unlink(self, *arguments, **options)

    monkeypatch.setattr(owned.Path, "unlink", fails)
    line = ["widen", "--from", source, "--to", "2x", "--out", out, "--no-verify", "--overwrite"]
    code, said, err = run(*line)
    monkeypatch.undo()
    assert (code, err) == (0, "")
    assert "note: what out was before could not be removed: it is in" in said
    assert tiny.read_json(out / "config.json")["model_type"] == "llama"
    assert tiny.read_json(tmp_path / ".out.grow-replaced" / "out" / "config.json")["model_type"] == "gpt2"


def test_a_report_that_was_written_is_said_to_be_there(source, tmp_path, run, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verification_text, "show_verification", fails)
    page = tmp_path / "page.html"
    code, _, err = run("verify", source, source, "--rung", "certificate", "--report", page)
    assert (code, page.is_file()) == (2, True)
    assert f"{page} is complete and stays" in err


# A comparison


def test_an_interrupted_comparison_leaves_nothing_and_the_same_command_goes(tmp_path, run, monkeypatch):

    source, out = tiny.checkpoint(tmp_path / "llama", "llama", tokenizer=True), tmp_path / "out"
    line = ["compare", "--from", source, "--to", "2x", "--methods", "default,net2net", "--out", out]
    row = comparison._row

    def interrupted(name, *arguments, **options):
        if name == "net2net":
            assert (tmp_path / ".out.grow-partial" / "default" / "grow.json").is_file()
            raise KeyboardInterrupt
        return row(name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_row", interrupted)
        code, _, err = run(*line)
    assert (code, err.strip()) == (130, "interrupted: nothing was kept under the final name")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama"]
    code, said, err = run(*line)
    assert (code, err) == (0, "")
    assert f"out: {out}" in said
    assert (out / "comparison.json").is_file()
    assert (out / "default" / "grow.json").is_file()


# One process


def test_a_rank_that_was_left_over_silences_nothing(source, tmp_path, run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    out = tmp_path / "out"
    code, said, _ = run("widen", "--from", source, "--to", "2x", "--out", out, "--no-verify")
    assert (code, "parameters" in said, (out / "grow.json").is_file()) == (0, True, True)
    code, _, err = run("widen", "--from", source, "--to", "2x", "--out", out, "--no-verify")
    assert (code, err.startswith("error: --out")) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run("plan", "--from", source, "--to", "2x")[1]


def test_a_full_stdout_behind_the_rename_does_not_deny_the_result(source, tmp_path):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "grow", "widen", "--from", source, "--to", "2x", "--out", out, "--no-verify"]
    env = {**os.environ, "PYTHONPATH": str(Path(grow.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        done = subprocess.run(list(map(str, line)), stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert (out / "grow.json").is_file()
    assert "nothing was kept" not in done.stderr


def test_a_load_is_quiet_and_leaves_the_loggers_as_they_were(caplog):
    """Also one inside another, whose end is not the end of the other."""
    library = transformers.utils.logging
    level, offload = library.get_verbosity(), logging.getLogger("accelerate.big_modeling")
    with quiet():
        with quiet():
            pass
        assert library.get_verbosity() == library.CRITICAL
        offload.warning("weights stay on disk")
        offload.error("a fault")
    offload.warning("afterwards")
    assert caplog.messages == ["a fault", "afterwards"]
    assert (library.get_verbosity(), offload.filters) == (level, [])
