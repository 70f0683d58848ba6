"""What a model learns from text: masks, spans, infilling, encoder-decoders and documents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from training import QUICK, curve, refused

import grow
import grow.data
from grow.data.loader import Batch
from grow.errors import Refused
from grow.training.step.model_and_loss import check_documents, inputs, loss_sum
from grow.training.text.objectives import IGNORED, Objective, causal, draws, infill, masked, spans

# Objectives


MASKS = Objective("masked", 1000, special=(0, 1, 2, 3, 4), frame=(2, 3), mask=4)


def test_masked_text_has_the_shares_of_bert_and_is_the_same_every_time():
    ids = np.random.default_rng(0).integers(5, 1000, (400, 500))
    ids[:, 7] = 1
    rows = [masked(MASKS, block, draws(3, 5, k)) for k, block in enumerate(ids)]
    again = [masked(MASKS, block, draws(3, 5, k)) for k, block in enumerate(ids)]
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(rows, again) for key in a)
    inputs = np.stack([row["input_ids"] for row in rows])
    labels = np.stack([row["labels"] for row in rows])
    assert (inputs[:, 0] == 2).all()
    assert (inputs[:, -1] == 3).all()
    assert (labels[:, [0, -1]] == IGNORED).all()
    inputs, labels = inputs[:, 1:-1], labels[:, 1:-1]
    chosen = labels != IGNORED
    assert (labels[chosen] == ids[chosen]).all()
    assert not chosen[:, 7].any()
    assert (inputs[~chosen] == ids[~chosen]).all()
    hidden, kept = inputs[chosen] == 4, inputs[chosen] == ids[chosen]
    # 200,000 draws: a share has a standard deviation of at most 0.003
    assert chosen.mean() == pytest.approx(0.15 * 499 / 500, abs=0.004)
    assert [hidden.mean(), kept.mean()] == pytest.approx([0.8, 0.1], abs=0.01)
    assert not np.isin(inputs[chosen][~hidden], (0, 1, 2, 3)).any()
    assert not np.array_equal(rows[0]["labels"], masked(MASKS, ids[0], draws(3, 6, 0))["labels"])


SPANS = Objective("spans", 200, sentinels=tuple(range(199, 99, -1)), end=1, start=0)


@pytest.mark.parametrize("n", [4, 12, 77, 500])
def test_spans_are_cut_out_and_can_be_put_back(n):
    ids = np.random.default_rng(n).integers(2, 100, n)
    cut = []
    for row in range(60):
        made = spans(SPANS, ids, draws(0, 1, row))
        given, labels, decoder = made["input_ids"], made["labels"], made["decoder_input_ids"]
        assert (given[-1], labels[-1], decoder[0]) == (1, 1, 0)
        assert np.array_equal(decoder[1:], labels[:-1])
        parts: dict[int, list[int]] = {}
        for token in labels[:-1]:
            if token >= 100:
                parts[token] = []
            else:
                parts[next(reversed(parts))].append(token)
        *used, last = parts
        assert used == [199 - k for k in range(len(used))]
        assert parts[last] == []
        assert all(parts[token] for token in used)
        back = [token for x in given[:-1] for token in (parts[x] if x >= 100 else [x])]
        assert back == ids.tolist()
        cut.append(sum(map(len, parts.values())))
    assert set(cut) == {max(1, round(0.15 * n))}


@pytest.mark.parametrize("length", [8, 64, 512])
def test_a_block_of_spans_fills_the_input(length):
    n = SPANS.block(length)
    assert length - 2 <= len(spans(SPANS, np.full(n, 5), draws(0, 0, 0))["input_ids"]) <= length


def test_an_encoder_decoder_learns_from_spans(tmp_path):
    """T5's forward takes what the objective makes, and the loss falls on one text."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = dict(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0)
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    ids = np.random.default_rng(0).integers(2, 100, (4, 31))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(30):
        given = inputs(SPANS.apply(Batch(ids), seed=0, step=0, first=0), torch.device("cpu"))
        loss = loss_sum(model, given) / given["labels"].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0]


INFILLS = Objective("infill", 200, frame=(0, 2), mask=4, start=2)


@pytest.mark.parametrize("n", [4, 12, 77, 500])
def test_infilled_text_can_be_read_from_what_is_left_and_the_labels(n):
    ids = np.random.default_rng(n).integers(5, 100, n)
    masks = set()
    for row in range(60):
        made = infill(INFILLS, ids, draws(0, 1, row))
        given, labels, decoder = made["input_ids"], made["labels"], made["decoder_input_ids"]
        assert labels.tolist() == [0, *ids, 2]
        assert decoder.tolist() == [2, 0, *ids]
        assert (given[0], given[-1]) == (0, 2)
        kept = given[1:-1]
        assert len(kept) - (kept == 4).sum() == n - max(1, round(0.3 * n))
        rest = iter(ids)  # what is left stands in the text in this order
        assert all(any(token == other for other in rest) for token in kept[kept != 4])
        assert not ((kept[1:] == 4) & (kept[:-1] == 4)).any()  # spans do not touch
        masks.add(int((kept == 4).sum()))
    assert masks == {max(1, round(max(1, round(0.3 * n)) / 3))}


@pytest.mark.parametrize("kind", ["spans", "infill"])
def test_encoder_decoders_train_from_text_to_stock_checkpoints(kind, tmp_path):
    """T5 and BART with a tokenizer of their kind: the run resumes bit for bit and its checkpoint is a stock one."""
    source = encoder_decoder(tmp_path / "model", kind)
    (tmp_path / "text.txt").write_text(" ".join(f"w{k * k % 61}" for k in range(3000)), encoding="utf-8")
    grow.data.prepare([tmp_path / "text.txt"], tokenizer=source, out=tmp_path / "tokens", validation=0.1)
    options = {**QUICK, "length": 24}
    whole = grow.train(source, tmp_path / "tokens", out=tmp_path / "whole", **options)
    grow.train(source, tmp_path / "tokens", out=tmp_path / "parts", **{**options, "save_every": 1})
    for step in (3, 4):
        shutil.rmtree(tmp_path / "parts" / f"step-{step:08d}")
    grow.train(out=tmp_path / "parts", resume=True)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["objective"] == kind
    assert whole.loss < 0.9 * curve(tmp_path / "whole")[1]["loss"]
    _, said = transformers.AutoModelForSeq2SeqLM.from_pretrained(whole.checkpoint, output_loading_info=True)
    assert not said["unexpected_keys"]
    assert not said["missing_keys"]


def encoder_decoder(folder: Path, kind: str) -> Path:
    """A tiny T5 or BART beside a tokenizer of 61 words."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if kind == "infill":
        special |= {"bos_token": "<s>", "mask_token": "<mask>"}
    more = [f"<extra_id_{k}>" for k in range(20)] if kind == "spans" else []
    names = [*special.values(), *(f"w{k}" for k in range(61)), *more]
    words = Tokenizer(WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special, extra_special_tokens=more)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    ids = dict(vocab_size=len(names), pad_token_id=0, eos_token_id=1)
    if kind == "spans":
        sizes = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
        model: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**ids, **sizes))
    else:
        sizes = dict(d_model=32, encoder_layers=2, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=40)
        heads = dict(encoder_attention_heads=4, decoder_attention_heads=2, max_position_embeddings=32)
        ids |= dict(bos_token_id=3, decoder_start_token_id=1, forced_eos_token_id=1)
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**ids, **sizes, **heads))
    model.save_pretrained(folder)
    return folder


def test_the_length_of_bart_is_limited_by_its_position_table(tmp_path):
    source = encoder_decoder(tmp_path / "model", "infill")
    said = refused(src=source, out=tmp_path / "run", **{**QUICK, "length": 33})
    assert "is more than the 32 positions of the model" in said


@pytest.mark.parametrize(
    "variant",
    ["llama", "gpt2", "gpt_neox", "opt", "qwen3", "mistral-tied", "mistral", "qwen2", "qwen2-window"],
)
def test_documents_in_one_block_are_computed_as_if_each_were_alone(variant):
    model = models.make(variant).double()
    draw = np.random.default_rng(5)
    ids, lengths = draw.integers(4, 41, (2, 21)), [[5, 9, 7], [13, 1, 7]]
    segments = np.stack([np.repeat([0, 1, 2], row) for row in lengths])
    made = causal(ids, segments)
    with torch.no_grad():
        total = float(loss_sum(model, inputs(made, torch.device("cpu"))))
        alone = 0.0
        for row, parts in zip(ids, lengths):
            for document in np.split(row, np.cumsum(parts)[:-1]):
                if len(document) > 1:
                    alone += float(loss_sum(model, inputs(causal(document[None]), torch.device("cpu"))))
    assert int((made["labels"] != IGNORED).sum()) == 42 - 6
    assert total == pytest.approx(alone, rel=1e-6)  # the family's own float32 steps in another order


def test_documents_are_refused_where_layers_do_not_attend_by_a_mask():
    with pytest.raises(Refused, match="layers of linear_attention"):
        check_documents(SimpleNamespace(layer_types=["full_attention", "linear_attention"]), "causal")
