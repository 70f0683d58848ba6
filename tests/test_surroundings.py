"""What surrounds a command (variables of other programs, streams that take nothing, names that lead to themselves) ends
in one message and an exit code that says what happened: never in a traceback, never in 1, which means *different*."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import grow
from grow.errors import BadInput
from grow.processes import world_of
from grow.zoo import bundled_path

PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(grow.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("source") / "llama")


# Variables of torchrun

WIDEN = ("--to", "hidden=48", "--no-verify", "--out")


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE=x"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE=1.5"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE=²"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE=9"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK=x"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1e9"}, "MASTER_PORT=1e9"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "65536"}, "MASTER_PORT=65536"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "2950"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "2950", "MASTER_ADDR": " "}, "MASTER_ADDR"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_variables_that_are_no_processes_are_told(variables, where, as_json, source, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = ("widen", "--from", source, *WIDEN, tmp_path / "out", *(["--json"] if as_json else []))
    code, out, err = tiny.command(monkeypatch, capsys, *line)
    assert code == 2
    assert err.startswith(f"error: {where}")
    assert "unset WORLD_SIZE" in err
    assert not as_json or json.loads(out)["exit_code"] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1"},
        {"RANK": "x", "LOCAL_RANK": "y"},
        {"WORLD_SIZE": "1", "RANK": "3"},
        {"WORLD_SIZE": "", "RANK": "7"},
    ],
)
def test_a_rank_that_was_left_over_silences_nobody(variables, source, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, _ = tiny.command(monkeypatch, capsys, "widen", "--from", source, *WIDEN, tmp_path / "out")
    assert code == 0
    assert "unverified" in out
    code, _, err = tiny.command(monkeypatch, capsys, "widen", "--from", source, *WIDEN, tmp_path / "out")
    assert code == 2
    assert "error: " in err


def test_processes_that_do_not_come_can_be_waited_for_no_longer(monkeypatch):
    """SIGTERM and Ctrl-C end the wait, which says what it waits for."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    module = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(module, "rendezvous", lambda *_: iter(lambda: time.sleep(99), None))

    def told(self) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("grow.processes._Waiting.told", told)
    with pytest.raises(KeyboardInterrupt), world_of(None, train=False):
        pass


# Streams


@pytest.mark.parametrize(
    ("line", "stdout", "stderr", "code"),
    [
        ("plan --from llama --to hidden=48", "/dev/full", None, 2),
        ("plan --from llama --to hidden=48 --json", "/dev/full", None, 2),
        ("plan --from llama --to hidden=48 --json", "/dev/full", "/dev/full", 2),
        ("widen --from llama --to hidden=48 --no-verify --out OUT --json", "/dev/full", None, 2),
        ("families --json", "/dev/full", None, 2),
        ("--version", "/dev/full", None, 2),
        ("plan --from nowhere --to 2x", None, "/dev/full", 2),
        ("plan --from nowhere --to 2x --json", "/dev/full", "/dev/full", 2),
        ("nonsense", None, "/dev/full", 2),
        ("plan --from llama --to hidden=48", None, "/dev/full", 0),
    ],
)
def test_a_stream_that_takes_nothing(line, stdout, stderr, code, source, tmp_path):
    words = [{"llama": str(source), "OUT": str(tmp_path / "out")}.get(word, word) for word in line.split()]
    with open(stdout or os.devnull, "w") as out, open(stderr or tmp_path / "err", "w") as err:
        done = subprocess.run([sys.executable, "-m", "grow", *words], env=PLAIN, stdout=out, stderr=err, timeout=120)
    assert done.returncode == code
    said = "" if stderr else (tmp_path / "err").read_text()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert not stdout or stderr or said.startswith("error: stdout"), said
    if "OUT" in line:  # what was done stays, and is told
        assert (tmp_path / "out" / "config.json").is_file()
        assert "is complete and stays" in said


# Names that lead to themselves


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_an_output_that_is_a_link_to_itself(more, source, tmp_path, monkeypatch, capsys):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    line = ("widen", "--from", source, "--to", "hidden=48", "--no-verify", *more, "--out")
    for out in (loop, loop / "below"):
        code, _, err = tiny.command(monkeypatch, capsys, *line, out)
        assert (code, err[:12]) == (2, "error: --out")
    for command in (
        ("compare", "--from", source, "--to", "2x", "--out", loop),
        ("data", "prepare", "sotu-heldout", "--tokenizer", "small", "--out", loop),
        ("train", "--from", source, "--out", loop),
        ("plot", loop, "--out", loop),
        ("verify", "--record", loop, source),
        ("plan", "--from", loop, "--to", "2x"),
        ("plan", "--from", source, "--to", loop),
        ("run", loop, "--dry-run"),
    ):
        code, _, err = tiny.command(monkeypatch, capsys, *command)
        assert code == 2, (command, err)
        assert err.startswith("error: "), err
    assert os.readlink(loop) == "loop"


# Numbers without end


@pytest.mark.parametrize(
    "to", ["head_dim=2147483646", "hidden=1000000000", f"vocab={'9' * 400}", "layers=1e400x", "1e400x"]
)
def test_a_target_of_any_length_is_told_at_once(to, source):
    with pytest.raises(grow.GrowError) as error:
        grow.plan(source, to)
    assert error.value.why
    assert error.value.fix


def test_a_factor_of_any_length_in_a_record_is_told(source, tmp_path):
    grown = grow.widen(source, {"hidden": 48}, out=tmp_path / "grown", verify=False).path

    def change(record: dict) -> None:
        run = record["plan"]["maps"]["hidden"]["runs"][0]
        run[-1] = 10**400

    tiny.edit_json(grown / "grow.json", change)
    with pytest.raises(BadInput, match=r"grow\.json"):
        grow.verify(source, grown, rungs=("certificate",))


@pytest.mark.parametrize("text", ['{"model_max_length": NaN}', '{"model_max_length": 64, "a": Infinity}', "[" * 5000])
def test_a_tokenizer_config_that_cannot_be_read_comes_along_and_is_told(text, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    (source / "tokenizer_config.json").write_text(text)
    grown = grow.widen(source, {"max_position_embeddings": 80}, out=tmp_path / "out", verify=False)
    assert (grown.path / "tokenizer_config.json").read_text() == text
    assert [note for note in grown.notes if note.startswith("tokenizer_config.json") and "stays the old one" in note]


@pytest.mark.parametrize("where", ["added_tokens", "vocab"])
@pytest.mark.parametrize("number", [2**31, 2**32 - 1, 2**40])
def test_an_id_without_end_is_told_before_the_library_makes_a_table_of_it(where, number, tmp_path, monkeypatch, capsys):
    words = tmp_path / "words"
    shutil.copytree(bundled_path("small"), words)

    def change(stored: dict) -> None:
        if where == "vocab":
            stored["model"]["vocab"][next(reversed(stored["model"]["vocab"]))] = number
        else:
            stored["added_tokens"].append({**stored["added_tokens"][0], "id": number, "content": "<odd>"})

    tiny.edit_json(words / "tokenizer.json", change)
    line = ("data", "prepare", "sotu-heldout", "--tokenizer", words, "--out", tmp_path / "out")
    code, _, err = tiny.command(monkeypatch, capsys, *line)
    assert code == 2
    assert f"names the id {number:,}" in err
    grow.plan(words, {"ffn": 512})  # weights grow: whoever loads the tokenizer is told
