"""`grow compare`: every method measured by the same rules, what does not apply said, and one plain race."""

from __future__ import annotations

import json
import re
import shutil
from xml.etree import ElementTree

import pytest
import tiny as small
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

import grow
from grow.comparison import page
from grow.comparison.text_batches import read_text
from grow.comparison.training_loop import schedule, train
from grow.zoo import bundled_path

METHODS = ["default", "hypercloning-symmetric", "bert2bert-aki", "llama-pro", "lemn"]
STEPS = 20
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 400


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny random Llama with the tokenizer of `small`, and a text."""
    folder = tmp_path_factory.mktemp("compare")
    fields = dict(vocab_size=2048, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    fields |= dict(num_key_value_heads=1, head_dim=8, max_position_embeddings=64)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields), dtype=torch.float32)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder / "source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_path("small") / name, folder / "source" / name)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder / "source"


@pytest.fixture(scope="module")
def found(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    options = dict(train_steps=STEPS, rate=1e-2, text=source.parent / "text.txt")
    return grow.compare(source, "2x", METHODS, out=folder / "out", report=folder / "page.html", **options), folder


def test_damage_and_trainability_at_step_0(found):
    c, _ = found
    assert c["default"].damage.relative <= 1e-12
    assert c["hypercloning-symmetric"].damage.relative <= 1e-12
    assert c["bert2bert-aki"].damage.relative > 0.01
    assert 0 <= c["bert2bert-aki"].damage.top1 < 1 == c["default"].damage.top1
    assert c["bert2bert-aki"].damage.kl > 1e-6
    assert c["default"].loss == pytest.approx(c.source_loss, abs=1e-5)
    assert (c["default"].kind, c["bert2bert-aki"].kind) == ("exact", "lossy")
    assert (c["default"].trainability.twins, c["default"].trainability.share) == (0, 1.0)
    assert c["hypercloning-symmetric"].trainability.twins > 0
    assert c["default"].parameters == c["bert2bert-aki"].parameters > c["source"].parameters


def test_what_does_not_apply_is_said(found):
    c, _ = found
    assert [row.name for row in c.methods if not row.applies] == ["llama-pro", "lemn"]
    assert "depth only" in c["llama-pro"].reason
    assert "did you mean 'lemon'" in c["lemn"].reason


def test_the_race_is_the_same_for_all(found):
    c, _ = found
    trained = [row for row in (*c.methods, *c.baselines) if row.curve]
    assert [row.name for row in trained] == ["default", "hypercloning-symmetric", "bert2bert-aki", "scratch", "source"]
    for row in trained:
        assert len(row.curve.train) == STEPS
        steps, flops, losses = zip(*row.curve.heldout)
        assert (steps[0], steps[-1], flops[0], losses[0]) == (0, STEPS, 0.0, row.loss)
        assert flops[-1] == pytest.approx(3 * row.flops_per_token * 8 * 64 * STEPS)
        assert row.curve.last < row.loss
    assert c["default"].curve.train[0] == pytest.approx(c["source"].curve.train[0], abs=1e-5)
    assert c.training["steps"] == STEPS


def test_what_is_kept(found):
    c, folder = found
    assert sorted(p.name for p in (folder / "out").iterdir()) == sorted(
        ["bert2bert-aki", "comparison.json", "default", "hypercloning-symmetric", "loss.svg"]
    )
    document = json.loads((folder / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert document == json.loads(json.dumps(c.to_dict()))
    assert set(document) == {
        "schema", "source", "target", "sizes", "text", "training", "source_loss", "methods", "baselines", "environment",
    }  # fmt: skip
    assert set(document["methods"][0]) == {
        "name", "kind", "paper", "arxiv", "law", "applies", "reason", "lossy_because", "storage", "parameters",
        "flops_per_token", "disk_bytes", "seconds", "damage", "loss", "trainability", "curve",
    }  # fmt: skip
    root = ElementTree.fromstring((folder / "out" / "loss.svg").read_text(encoding="utf-8"))
    names = {"".join(text.itertext()).rpartition(" ")[0] for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"default", "scratch", "source"} <= names


def test_the_page_stands_alone_and_shows_every_row(found):
    c, folder = found
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(src|href)=.https?:", text)
    assert all(row.name in text for row in (*c.methods, *c.baselines))
    assert text.count('role="img"') == 2 + 3  # two charts, and a bar for each method that applies
    assert page.render(c) != ""


def test_names_on_the_page_are_escaped(found):
    from dataclasses import replace

    c, _ = found
    text = page.render(replace(c, source="<b>&", target="</style><script>"))
    assert "<b>&" not in text
    assert "<script" not in text


def test_without_training_nothing_is_trained(source):
    c = grow.compare(source, {"layers": 4}, ["gstack", "llama-pro"])
    assert (c.training, c.baselines, c["gstack"].curve) == (None, (), None)
    assert c["gstack"].kind == "lossy"
    assert c["gstack"].damage.relative > c["llama-pro"].damage.relative
    assert c.source_loss is not None


def test_a_masked_lm_fills_in_masks(tmp_path):
    fields = dict(vocab_size=2048, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", max_position_embeddings=64, **fields))
    model.save_pretrained(tmp_path / "source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_path("small-bert") / name, tmp_path / "source" / name)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    c = grow.compare(tmp_path / "source", "2x", ["default"], train_steps=2, text=tmp_path / "text.txt")
    assert c.text["objective"] == "15% masked tokens"
    assert c["default"].loss == pytest.approx(c.source_loss, abs=1e-4)


def test_held_out_text_is_not_trained_on(source):
    text = read_text(source, None, 64, 0)
    assert len(text.train) % 256 == len(text.held_out) % 256 == 0
    assert len(text.train) == pytest.approx(9 * len(text.held_out), rel=0.05)  # the blocks left over are for training
    first, again = (list(text.batches(3)) for _ in range(2))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again))


def test_the_rate_rises_and_falls():
    shares = [schedule(step, 50) for step in range(1, 51)]
    assert max(shares) == shares[4] == 1.0
    assert shares[:5] == sorted(shares[:5])
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert 0 < shares[-1] < 0.03
    assert schedule(1, 1) == 1.0
    assert train.__doc__


BAD = {
    "no such source": ("--from nowhere --to 2x", "nowhere"),
    "no such size": ("--from SOURCE --to bse", "is not a size"),
    "only methods that do not apply": ("--from SOURCE --to 2x --methods llama-pro,gstack", "none of them applies"),
    "a text that is not there": ("--from SOURCE --to 2x --text nowhere.txt", "No such file"),
    "a text that is too short": ("--from SOURCE --to 2x --text short.txt", "tokens"),
    "no steps": ("--from SOURCE --to 2x --train-steps -1", "Invalid value for '--train-steps'"),
    "no rate": ("--from SOURCE --to 2x --train-steps 2 --rate 7", "must be a number between 0 and 1"),
    "a rate of nothing": ("--from SOURCE --to 2x --rate 1e-3", "has no effect"),
    "a folder that is taken": ("--from SOURCE --to 2x --out taken", "exists"),
    "a report that cannot be written": ("--from SOURCE --to 2x --report nowhere/page.html", "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_2_and_leaves_nothing(case, source, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    (tmp_path / "short.txt").write_text("too short")
    before = small.snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    line, said = BAD[case]
    code, out, err = small.command(monkeypatch, capsys, "compare", *line.replace("SOURCE", str(source)).split())
    assert (code, out) == (2, "")
    assert said in err
    assert small.snapshot(tmp_path) == before


def test_the_command_line(source, tmp_path, monkeypatch, capsys):
    line = ["compare", "--from", source, "--to", "2x", "--methods", "default,gstack"]
    code, out, err = small.command(monkeypatch, capsys, *line)
    assert (code, err) == (0, "")
    assert re.search(r"^  default +exact +\d\.\de-1\d +\d\.\de[-+]\d\d +100\.0% ", out, re.M)
    assert "gstack does not apply: hidden" in out
    code, out, err = small.command(monkeypatch, capsys, *line, "--json")
    assert (code, err, json.loads(out)["schema"]) == (0, "", 1)
