"""Token files: what stands in them, that a run's batches are a function of the step, and every bad input."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import transformers

import grow
from grow.data import Corpus, Loader
from grow.data import preparing as prepare
from grow.data.corpus import tokenizer_sha256
from grow.data.order import CYCLE, Mixture, Order
from grow.data.readers import documents
from grow.zoo import TEXTS as bundled_texts
from grow.zoo import bundled_path, heldout_text

TEXTS = [
    "The state of the Union is strong.",
    "Fellow citizens:",
    "We the people of the United States",
    "Peace and trade.",
]


@pytest.fixture(scope="module")
def reader():
    return transformers.AutoTokenizer.from_pretrained(bundled_path("small"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """The bundled text as token files."""
    out = tmp_path_factory.mktemp("data") / "tokens"
    prepare(["sotu-heldout"], tokenizer="small", out=out, validation=0.3, seed=4)
    return out


def jsonl(path: Path, texts=TEXTS, field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text, "id": k}) + "\n" for k, text in enumerate(texts)))
    return path


def ids_of(reader, texts, end: bool = True) -> list[int]:
    found = []
    for text in texts:
        found += reader(text, add_special_tokens=False).input_ids + [reader.eos_token_id] * end
    return found


# What stands in the files


def test_the_tokens_are_the_tokenizers_and_every_document_is_found(tmp_path, reader):
    made = prepare([jsonl(tmp_path / "a.jsonl")], tokenizer="small", out=tmp_path / "t", validation=0)
    train = Corpus.open(tmp_path / "t").split("train")
    assert train.ids.tolist() == ids_of(reader, TEXTS)
    assert train.starts.tolist() == [len(ids_of(reader, TEXTS[:k])) for k in range(len(TEXTS))]
    assert (made.splits["val"].tokens, made.splits["val"].documents) == (0, 0)
    assert made.splits["train"].bytes == sum(len(text.encode()) for text in TEXTS)
    assert made.tokenizer == {
        "name": "small", "sha256": tokenizer_sha256(reader), "vocab_size": 2048, "end": reader.eos_token_id,
    }  # fmt: skip
    Corpus.open(tmp_path / "t").check_bytes()


def test_bundled_texts_are_whole_speeches_and_share_none():
    known, heldout = (list(documents(name)) for name in bundled_texts)
    assert (len(known), len(heldout)) == (228, 5)
    assert all(len(speech) > 1000 for speech in known + heldout)
    assert not set(known) & set(heldout)


def test_no_end_puts_nothing_between(tmp_path, reader):
    prepare([jsonl(tmp_path / "a.jsonl")], tokenizer="small", out=tmp_path / "t", validation=0, end=False)
    assert Corpus.open(tmp_path / "t").split("train").ids.tolist() == ids_of(reader, TEXTS, end=False)


def test_every_kind_of_file_holds_the_same_documents(tmp_path, reader):
    """Text with a separator, compressed three ways, JSON lines, parquet, a folder: one content, one sha256."""
    import bz2

    import pyarrow as pa
    import pyarrow.parquet as parquet

    text = "\n--\n".join(TEXTS)
    (tmp_path / "a.txt").write_text(text)
    for packer, ending in ((gzip, ".gz"), (lzma, ".xz"), (bz2, ".bz2")):
        (tmp_path / f"a.txt{ending}").write_bytes(packer.compress(text.encode()))
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    jsonl(tmp_path / "folder" / "1.jsonl", TEXTS[:2])
    jsonl(tmp_path / "folder" / "deep" / "2.jsonl", TEXTS[2:])
    parquet.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    found = set()
    for k, name in enumerate(["a.txt", "a.txt.gz", "a.txt.xz", "a.txt.bz2", "a.jsonl", "folder", "a.parquet"]):
        made = prepare([tmp_path / name], tokenizer="small", out=tmp_path / f"t{k}", validation=0, separator="\n--\n")
        found.add((made.splits["train"].sha256, made.splits["train"].documents))
    assert found == {(next(iter(found))[0], 4)}


def test_a_separator_across_the_parts_that_are_read(tmp_path, monkeypatch, reader):
    monkeypatch.setattr("grow.data.readers.PART", 7)
    (tmp_path / "a.txt").write_text("<sep>".join(TEXTS))
    prepare([tmp_path / "a.txt"], tokenizer="small", out=tmp_path / "t", validation=0, separator="<sep>")
    assert Corpus.open(tmp_path / "t").split("train").ids.tolist() == ids_of(reader, TEXTS)


def test_a_larger_vocabulary_takes_wider_ids(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{k}": k for k in range(70_000)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "tok")
    (tmp_path / "tok" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "a.txt").write_text("w69999 w1 w66000")
    made = prepare([tmp_path / "a.txt"], tokenizer=tmp_path / "tok", out=tmp_path / "t", validation=0)
    assert made.dtype == "uint32"
    assert Corpus.open(tmp_path / "t").split("train").ids.tolist() == [69999, 1, 66000]


def test_documents_are_drawn_for_validation_by_the_seed(tmp_path, reader):
    texts = [f"Number {k} of the list." for k in range(300)]
    source = jsonl(tmp_path / "a.jsonl", texts)
    made = [prepare([source], tokenizer="small", out=tmp_path / f"t{s}", validation=0.2, seed=s) for s in (0, 1)]
    for one in made:
        assert one.splits["train"].documents + one.splits["val"].documents == 300
        assert 30 < one.splits["val"].documents < 95
    assert made[0].splits["val"].sha256 != made[1].splits["val"].sha256
    again = prepare([source], tokenizer="small", out=tmp_path / "again", validation=0.2, seed=0)
    assert again.splits == made[0].splits


def test_the_last_part_of_a_single_document_is_kept(tmp_path, reader):
    (tmp_path / "a.txt").write_text(heldout_text()[:20_000])
    made = prepare([tmp_path / "a.txt"], tokenizer="small", out=tmp_path / "t", validation=0.25)
    corpus = Corpus.open(tmp_path / "t")
    whole = ids_of(reader, [heldout_text()[:20_000]])
    train, val = corpus.split("train"), corpus.split("val")
    assert [*train.ids.tolist(), *val.ids.tolist()] == whole
    assert len(val.ids) == int(len(whole) * 0.25)
    assert (train.starts.tolist(), val.starts.tolist()) == ([0], [0])
    corpus.check_bytes()
    assert made.splits["val"].documents == 1


# Batches


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_an_epoch_holds_every_block_once_in_an_order_of_its_own(count):
    order = Order(7, count)
    epochs = order(np.arange(3 * count)).reshape(3, count)
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs.tolist())
    if count >= 16:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
        assert epochs[0].tolist() != list(range(count))
        assert Order(8, count)(np.arange(count)).tolist() != epochs[0].tolist()


def test_an_order_is_as_even_as_a_drawn_one():
    """First thousand of 10^6 blocks: each tenth gets its share, give or take five deviations of a draw."""
    found = np.histogram(Order(0, 10**6)(np.arange(1000)), bins=10, range=(0, 10**6))[0]
    assert abs(found - 100).max() < 5 * np.sqrt(90)


def test_a_place_is_found_without_those_before_it():
    order = Order(3, 1001)
    whole = order(np.arange(5000))
    for k in (0, 1000, 1001, 4321):
        assert order(np.array([k]))[0] == whole[k]


def test_a_mixture_keeps_its_shares_and_counts_each_corpus():
    mixture = Mixture([3, 0, 1, 1e-9], seed=5)
    corpora, places = mixture(np.arange(3 * CYCLE))
    assert np.bincount(corpora, minlength=4).tolist() == [9 * CYCLE // 4, 0, 3 * CYCLE // 4, 0]
    for k in (0, 2):
        assert places[corpora == k].tolist() == list(range((corpora == k).sum()))
    counts = np.bincount(corpora[:400], minlength=4)
    assert 60 < counts[2] < 140


@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_step_is_the_same_at_every_world_size(tokens, world):
    split = Corpus.open(tokens).split("train")
    loader = Loader([split, split], length=64, batch=16, seed=1, weights=[0.7, 0.3], documents=True)
    for step in (0, 3, 1000):
        whole = loader.batch(step)
        parts = [loader.batch(step, rank, world) for rank in range(world)]
        assert np.array_equal(whole.ids, np.concatenate([p.ids for p in parts]))
        assert np.array_equal(whole.segments, np.concatenate([p.segments for p in parts]))


def test_blocks_cover_the_tokens_and_overlap_by_one(tokens):
    split = Corpus.open(tokens).split("val")
    length = 50
    count = split.blocks(length)
    flat = np.concatenate([split.block(k, length)[:-1] for k in range(count)])
    assert np.array_equal(flat, split.ids[: count * length])
    assert all(split.block(k, length)[-1] == split.block(k + 1, length)[0] for k in range(count - 1))
    assert (count + 1) * length + 1 > len(split.ids)


def test_segments_tell_documents_apart(tmp_path, reader):
    source = jsonl(tmp_path / "a.jsonl", TEXTS * 5)
    prepare([source], tokenizer="small", out=tmp_path / "t", validation=0)
    split = Corpus.open(tmp_path / "t").split("train")
    whole = np.zeros(len(split.ids), dtype=int)
    whole[split.starts[1:].astype(int)] = 1
    whole = np.cumsum(whole)
    for k in range(split.blocks(13)):
        part = whole[13 * k : 13 * k + 14]
        assert split.segments(k, 13).tolist() == (part - part[0]).tolist()


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
    "bad.jsonl": (b'{"text": "a"}\n{"text": \n', "is no JSON"),
    "field.jsonl": (b'{"body": "a"}\n', "has no field 'text'"),
    "list.jsonl": (b"[1, 2]\n", "has no field 'text'"),
    "number.jsonl": (b'{"text": 5}\n', "text is 5"),
    "half.jsonl": (b'{"text": "\\ud83d"}\n', "is no text"),
    "deep.jsonl": (b"[" * 100_000, "is no JSON"),
    "flipped.txt.gz": (gzip.compress(bytes(range(256)) * 99)[:30] + b"\xff" * 99, "cannot be unpacked"),
    "no.txt.bz2": (b"plain text", "cannot be unpacked"),
    "not.parquet": (b"PAR1 is not enough", "is no parquet file"),
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
    with pytest.raises(grow.BadInput, match="ends behind row 1"):
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
        assert "is no share" in refused([source], tokenizer="small", out=out, validation=share).what
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
    with pytest.raises(grow.BadInput, match="cannot be dealt to 3"):
        Loader([split], length=8, batch=4).batch(0, 0, 3)
    with pytest.raises(grow.BadInput, match="2 weights for 1"):
        Loader([split], length=8, batch=4, weights=[1, 2])
    for weights in ([0.0], [-1.0], [float("nan")]):
        with pytest.raises(grow.BadInput, match="weights"):
            Loader([split], length=8, batch=4, weights=weights)


def test_a_killed_run_leaves_nothing_under_the_name(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        for k in range(200_000):
            file.write(json.dumps({"text": f"line {k} " * 20}) + "\n")
    line = [sys.executable, "-m", "grow", "data", "prepare", "a.jsonl.gz", "--tokenizer", "small", "--out", "t"]
    env = {**os.environ, "PYTHONPATH": str(Path(grow.__file__).parents[1])}
    for kill in (signal.SIGTERM, signal.SIGKILL):
        run = subprocess.Popen(line, cwd=tmp_path, env=env, stderr=subprocess.PIPE)
        while not list(tmp_path.glob(".t.grow-partial/train.bin")):
            assert run.poll() is None, run.stderr.read()
        run.send_signal(kill)
        code = run.wait()
        run.stderr.close()
        assert not (tmp_path / "t").exists()
        assert code == (130 if kill == signal.SIGTERM else -9)
        assert bool(list(tmp_path.glob(".t.grow-partial"))) == (kill == signal.SIGKILL)
    subprocess.run(
        [*line, "--overwrite", "--validation", "0.5"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
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
