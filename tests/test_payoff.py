"""When growing is not expected to pay, and what a run takes over from how its weights were trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny as files
from training import QUICK, refused, tokens

import grow
from grow.costs.literature import doubts
from grow.costs.training_cost import peak_of
from grow.planning.record import read_record
from grow.training.begin.defaults import inherited
from grow.training.settings.run_settings import Settings, Training

PAPERS = {"factor": "2409.12903", "source": "2510.06548", "tokens": "2605.13405", "experts": "2406.06563"}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> Training:
    return grow.train(tiny("llama"), text, out=tmp_path_factory.mktemp("run") / "run", **{**QUICK, "lr": 3e-3})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, []),
        ({"parameters": 4000}, []),
        ({"parameters": 4001}, ["factor"]),
        ({"parameters": 9000, "upcycled": True}, []),
        ({"source_tokens": 20_000}, []),
        ({"source_tokens": 20_001}, ["source"]),
        ({"tokens": 80_000}, []),
        ({"tokens": 80_001}, ["tokens"]),
        ({"flops": 5.0, "source_flops": 2.0}, []),
        ({"flops": 4.0, "source_flops": 2.0, "upcycled": True}, []),
        ({"flops": 5.0, "source_flops": 2.0, "upcycled": True}, ["experts"]),
        ({"flops": 5.0, "upcycled": True}, []),
        ({"parameters": 5000, "tokens": 10**6, "source_tokens": 10**6}, ["factor", "source", "tokens"]),
    ],
)
def test_doubts_are_those_of_the_literature(given, found):
    """1,000 parameters, doubled."""
    said = doubts(**{"parameters": 2000, "source_parameters": 1000, **given})
    assert [next(k for k, paper in PAPERS.items() if paper in sentence) for sentence in said] == found


def test_a_plan_says_what_speaks_against_its_factor(monkeypatch, capsys):
    large = ["plan", "--from", "small", "--to", "hidden_size=512,heads=16,kv_heads=8"]
    code, out, _ = files.command(monkeypatch, capsys, *large)
    assert code == 0
    assert "one growth multiplies the parameters by " in out
    assert "one growth" in json.loads(files.command(monkeypatch, capsys, *large, "--json")[1])["notes"][-1]
    assert "one growth" not in files.command(monkeypatch, capsys, "plan", "--from", "small", "--to", "base")[1]
    experts = ["upcycle", "--from", "small", "--experts", "16", "--dry-run"]
    assert "one growth" not in files.command(monkeypatch, capsys, *experts)[1]


def test_a_run_says_what_speaks_against_it_once(run, text, tmp_path):
    """The source has seen 384 tokens of 7,000 parameters; so much is in no doubt until somebody says otherwise."""
    grown = grow.widen(
        run.checkpoint, {"hidden_size": 36, "heads": 12, "kv_heads": 4}, out=tmp_path / "g", verify=False
    )
    one = {**QUICK, "steps": 1}

    def notes(name: str, **options: Any) -> list[str]:
        done = grow.train(options.pop("src", grown.path), text, out=tmp_path / name, **{**one, **options})
        return [note for note in done.notes if "arXiv" in note]

    assert notes("quiet") == []
    assert [PAPERS["source"] in note for note in notes("said", source_tokens=10**6)] == [True]
    record = json.loads((grown.path / "grow.json").read_text())
    assert record["source"]["spent"]["tokens"] == run.tokens
    assert record["plan"]["parameters"] == list(grown.plan.parameters)
    record["source"]["spent"]["tokens"] = 10**6
    (grown.path / "grow.json").write_text(json.dumps(record))
    (first,) = notes("recorded")
    assert f"{10**6 / record['plan']['parameters'][0]:,.0f} tokens per parameter" in first
    assert notes("again", src=tmp_path / "recorded" / "step-00000001") == []
    assert notes("recorded", src=None, resume=True, steps=2) == []
    del record["plan"]["parameters"]
    (grown.path / "grow.json").write_text(json.dumps(record))
    assert notes("older") == []
    said = refused(src=run.checkpoint, data=text, out=tmp_path / "none", source_tokens=5, **one)
    assert "source_tokens=5: step-00000004 is not known to have grown" in said


def test_the_peak_of_the_rate_stays_unless_another_is_given(run, text, tmp_path):
    plain = {k: v for k, v in QUICK.items() if k != "lr"} | {"steps": 1}
    grown = grow.widen(run.checkpoint, {"layers": 3}, out=tmp_path / "grown", verify=False)
    assert peak_of(run.checkpoint) == peak_of(grown.path) == ("adamw", 3e-3)
    for k, source in enumerate((run.checkpoint, grown.path)):
        kept = grow.train(source, text, out=tmp_path / f"kept-{k}", **plain)
        assert kept.settings.lr == 3e-3
        told = "the peak learning rate is the one that the weights were trained with, 0.003; lr=… changes it"
        assert told in kept.notes
    assert peak_of(kept.checkpoint) == ("adamw", 3e-3)
    alone = shutil.copytree(kept.checkpoint, tmp_path / "alone")
    shutil.rmtree(alone / "state")
    assert peak_of(alone) == ("adamw", 3e-3)
    for k, options in enumerate(({"lr": 1e-3}, {"optimizer": "muon", "state": "drop"})):
        done = grow.train(run.checkpoint, text, out=tmp_path / f"other-{k}", **plain, **options)
        assert done.settings.lr == options.get("lr", 1e-4)  # muon: nothing is recorded of its rate
        assert not any("peak" in note for note in done.notes)


def test_what_is_new_is_re_warmed_unless_somebody_says_otherwise(tiny, run, text, tmp_path, monkeypatch, capsys):
    grown = grow.widen(run.checkpoint, {"layers": 3}, out=tmp_path / "grown", verify=False)
    experts = grow.upcycle(tiny("mistral"), 4, out=tmp_path / "experts", verify=False)

    def rewarm(src: Path, **options: Any) -> tuple[float, int] | None:
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        return grow.train(src, text, out=out, **{**QUICK, "steps": 1, **options}).settings.rewarm

    assert rewarm(grown.path, steps=20) == (1.25, 2)
    assert rewarm(grown.path) == (1.25, 1)
    assert rewarm(grown.path, rewarm=(2.0, 3)) == (2.0, 3)
    for options in ({"rewarm": None}, {"freeze_old": True}, {"rates": "mup"}):
        assert rewarm(grown.path, **options) is None
    assert rewarm(experts.path) == (1.25, 1)
    assert rewarm(run.checkpoint) is None
    last = next(path for path in tmp_path.glob("run-*/step-00000020"))
    assert rewarm(last) is None  # nothing in it is new any more
    line = ["train", "--from", grown.path, "--data", text, "--out", tmp_path / "off", "--rewarm", "off", "--json"]
    line += [f"--{k.replace('_', '-')}={v}" for k, v in {**QUICK, "steps": 1}.items()]
    code, out, _ = files.command(monkeypatch, capsys, *line)
    assert (code, json.loads(out)["settings"]["rewarm"]) == (0, None)


def test_re_warming_lasts_250_steps_at_most(run, tmp_path):
    grown = grow.widen(run.checkpoint, {"layers": 3}, out=tmp_path / "grown", verify=False)
    settings, notes = inherited(Settings(steps=9000, begin=500), {}, grown.path, read_record(grown.path))
    assert settings.rewarm == (1.25, 250)
    told = "new entries are re-warmed: their updates are multiplied by 1.25 for 250 steps; rewarm=None"
    assert notes[-1] == f"{told} trains them like the others"
    settings, _ = inherited(Settings(steps=900, begin=500), {}, grown.path, read_record(grown.path))
    assert settings.rewarm == (1.25, 40)


@pytest.mark.parametrize("settings", [None, 3, {}, {"lr": 1e-3}, {"optimizer": "adamw", "lr": "x"}, {"lr": 0.0}])
def test_a_record_without_a_rate_says_nothing(tmp_path, settings):
    (tmp_path / "grow.json").write_text(json.dumps({"training": {"peak": settings}, "source": 7}))
    assert peak_of(tmp_path) is None
