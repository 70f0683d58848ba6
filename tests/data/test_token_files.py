"""Token files: what stands in them, and that a run's batches are a function of the step."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest
import transformers
from small_texts import TEXTS, jsonl

from grow.data import Corpus, Loader, prepare
from grow.data.corpus import tokenizer_sha256
from grow.data.order import CYCLE, Mixture, Order
from grow.data.readers import documents
from grow.zoo import TEXTS as bundled_texts
from grow.zoo import heldout_text


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
