"""Token files: every bad input is refused, and what was damaged is found."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from launched import command, started
from small_texts import TEXTS, jsonl

import grow
from grow.data import Corpus, Loader, prepare
from grow.data.corpus import tokenizer_sha256
from grow.data.readers import documents

# Bad input


def refused(*arguments, **options) -> grow.BadInput:
    with pytest.raises(grow.BadInput) as caught:
        prepare(*arguments, **options)
    error = caught.value
    assert all((error.where, error.what, error.why, error.fix))
    return error


BAD = {
    "empty.txt": (b"", "holds no text"),
    "blank.jsonl": (b'{"text": " "}\n', "holds no text"),
    "latin.txt": ("Größe".encode("latin-1"), "is not UTF-8 text"),
    "cut.txt.gz": (gzip.compress(b"x" * 10_000)[:20], "cannot be unpacked"),
    "cut.txt.xz": (lzma.compress(b"x" * 10_000)[:40], "cannot be unpacked"),
    "no.txt.gz": (b"plain text", "cannot be unpacked"),
    "bad.jsonl": (b'{"text": "a"}\n{"text": \n', "is not JSON"),
    "field.jsonl": (b'{"body": "a"}\n', "has no field 'text'"),
    "list.jsonl": (b"[1, 2]\n", "has no field 'text'"),
    "number.jsonl": (b'{"text": 5}\n', "text is 5"),
    "half.jsonl": (b'{"text": "\\ud83d"}\n', "is not text"),
    "deep.jsonl": (b"[" * 100_000, "is not JSON"),
    "flipped.txt.gz": (gzip.compress(bytes(range(256)) * 99)[:30] + b"\xff" * 99, "cannot be unpacked"),
    "no.txt.bz2": (b"plain text", "cannot be unpacked"),
    "not.parquet": (b"PAR1 is not enough", "is not a parquet file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_text(tmp_path, name):
    content, what = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert what in refused([tmp_path / name], tokenizer="small", out=tmp_path / "t").what
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, content in (("a.txt", "word"), ("b.jsonl", '{"text": "word"}')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert list(documents(str(tmp_path / name))) == ["word"]


def test_a_dataset_that_breaks_off_is_an_error_that_says_where(monkeypatch):
    def rows():
        yield {"text": "a"}
        yield {"text": "b"}
        raise ConnectionError("gone")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: rows()))
    found = documents("some/dataset")
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(grow.BadInput, match="breaks off after row 1"):
        next(found)


def test_what_is_read_is_never_replaced(tmp_path):
    """A folder of token files in which somebody keeps the text."""
    source = jsonl(tmp_path / "a.jsonl")
    prepare([source], tokenizer="small", out=tmp_path / "t")
    source.rename(tmp_path / "t" / "a.jsonl")
    for inputs, out in ((["t/a.jsonl"], "t"), (["t"], "t"), (["t"], "t/new")):
        found = refused([tmp_path / name for name in inputs], tokenizer="small", out=tmp_path / out, overwrite=True)
        assert "is the source, inside it or around it" in found.what
    assert (tmp_path / "t" / "a.jsonl").is_file()


def test_other_refusals_write_nothing(tmp_path):
    source = jsonl(tmp_path / "a.jsonl")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "llama"}')
    out = tmp_path / "t"
    assert "does not exist" in refused([tmp_path / "gone.txt"], tokenizer="small", out=out).what
    assert "holds no text" in refused([tmp_path / "nothing"], tokenizer="small", out=out).what
    assert "no text is named" in refused([], tokenizer="small", out=out).what
    assert "empty name" in refused([""], tokenizer="small", out=out).what
    assert "does not exist" in refused(["no.parquet"], tokenizer="small", out=out).what
    assert "no tokenizer" in refused([source], tokenizer=tmp_path / "bare", out=out).what
    for share in (-0.1, 1, float("nan")):
        assert (
            "must be a number from 0 to below 1" in refused([source], tokenizer="small", out=out, validation=share).what
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for overwrite in (False, True):
        refused([source], tokenizer="small", out=tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    assert not out.exists()


DAMAGE = {
    "cut": lambda t: os.truncate(t / "train.bin", (t / "train.bin").stat().st_size - 1),
    "longer": lambda t: (t / "val.bin").write_bytes((t / "val.bin").read_bytes() + b"\0"),
    "gone": lambda t: (t / "train.bin").unlink(),
    "docs": lambda t: os.truncate(t / "train.docs", 4),
    "schema": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m.update(schema=99)),
    "dtype": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m.update(dtype="int8")),
    "a count that is true": lambda t: tiny.edit_json(
        t / "manifest.json", lambda m: m["splits"]["val"].update(bytes=True)
    ),
    "a size of words": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m["tokenizer"].update(vocab_size="9")),
    "no hash": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m["splits"]["val"].update(sha256="")),
    "counts": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m["splits"]["val"].update(tokens=-1)),
    "no split": lambda t: tiny.edit_json(t / "manifest.json", lambda m: m["splits"].pop("val")),
    "json": lambda t: (t / "manifest.json").write_text("{"),
    "list": lambda t: (t / "manifest.json").write_text("[]"),
    "no manifest": lambda t: (t / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_token_files_are_not_opened(tmp_path, tokens, damage):
    import shutil

    copy = Path(shutil.copytree(tokens, tmp_path / "tokens"))
    DAMAGE[damage](copy)
    with pytest.raises(grow.BadInput) as caught:
        Corpus.open(copy)
    assert caught.value.fix


def test_changed_ids_are_found_by_their_hash(tmp_path, tokens):
    import shutil

    copy = Path(shutil.copytree(tokens, tmp_path / "tokens"))
    raw = bytearray((copy / "val.bin").read_bytes())
    raw[100] ^= 1
    (copy / "val.bin").write_bytes(raw)
    corpus = Corpus.open(copy)
    with pytest.raises(grow.BadInput, match=r"val\.bin: is not the file that was written"):
        corpus.check_bytes()
    shutil.copy(tokens / "val.bin", copy / "val.bin")
    corpus.check_bytes()
    docs = np.fromfile(copy / "train.docs", "<u8")
    docs[1] += 1
    docs.tofile(copy / "train.docs")
    with pytest.raises(grow.BadInput, match=r"train\.docs: is not the file that was written"):
        corpus.check_bytes()


def test_ids_of_another_model_are_refused(tokens, reader):
    corpus = Corpus.open(tokens)
    corpus.check_model(2048, tokenizer_sha256(reader), "small")
    corpus.check_model(4096, None, "a model without a tokenizer")
    with pytest.raises(grow.BadInput, match="2048 tokens"):
        corpus.check_model(2000, None, "narrow")
    with pytest.raises(grow.BadInput, match="another one"):
        corpus.check_model(2048, "0" * 64, "other")


def test_too_little_data_is_told(tokens):
    split = Corpus.open(tokens).split("val")
    with pytest.raises(grow.BadInput, match="one block takes"):
        Loader([split], length=len(split.ids), batch=4)
    with pytest.raises(grow.BadInput, match="cannot be shared by 3"):
        Loader([split], length=8, batch=4).batch(0, 0, 3)
    with pytest.raises(grow.BadInput, match="2 weights for 1"):
        Loader([split], length=8, batch=4, weights=[1, 2])
    for weights in ([0.0], [-1.0], [float("nan")]):
        with pytest.raises(grow.BadInput, match="weights"):
            Loader([split], length=8, batch=4, weights=weights)


def test_a_killed_run_leaves_nothing_under_the_name(tmp_path, monkeypatch, capsys):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", compresslevel=1) as file:
        for k in range(40_000):
            file.write(json.dumps({"text": f"line {k} " * 20}) + "\n")
    (tmp_path / "said").mkdir()
    line = ["data", "prepare", tmp_path / "a.jsonl.gz", "--tokenizer", "small", "--out", tmp_path / "t"]
    for kill in (signal.SIGTERM, signal.SIGKILL):
        child = started(partial(command, *line), tmp_path / "said")
        while not list(tmp_path.glob(".t.grow-partial/train.bin")):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), (tmp_path / "said" / "stderr").read_text()
        os.kill(child, kill)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert not (tmp_path / "t").exists()
        assert code == (130 if kill == signal.SIGTERM else -9)
        assert bool(list(tmp_path.glob(".t.grow-partial"))) == (kill == signal.SIGKILL)
    jsonl(tmp_path / "a.jsonl")
    line[2] = tmp_path / "a.jsonl"
    assert tiny.command(monkeypatch, capsys, *line, "--overwrite", "--validation", "0.5")[0] == 0
    assert not list(tmp_path.glob(".t.grow-partial"))


def test_the_command_and_its_document(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    line = ["data", "prepare", tmp_path / "a.txt", "--tokenizer", "small", "--separator", r"\n\n"]
    code, out, err = tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "t", "--json", "--validation", "0.5")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == 1
    assert sum(split["documents"] for split in document["splits"].values()) == 4
    code, out, err = tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "t2")
    assert code == 0
    assert "train" in out
    code, _, err = tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "t2")
    assert code == 2
    assert "--overwrite" in err
    assert tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "t2", "--overwrite")[0] == 0
