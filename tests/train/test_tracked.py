"""Where a run's numbers go: trackers, the pace, and the live line on a terminal."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from training import QUICK, refused

import grow
import grow.data
from grow.training.settings.run_settings import Settings

TRACKED = {"loss", "lr", "grad_norm", "tokens", "flops", "seconds", "tokens_per_second", "val_loss"}


class Wandb:
    """What a tracker's package is asked for, kept."""

    def __init__(self, **options: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.entries: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.fails = options

    def init(self, **options: Any) -> Wandb:
        print("a package that speaks")
        self.asked.append(options)
        return self

    def log(self, entry: dict[str, float], step: int) -> None:
        if step == self.fails.get("at"):
            raise ConnectionError("gone")
        self.entries.append((step, entry))

    def finish(self) -> None:
        self.finished += 1


def test_tensorboard_gets_every_number(tiny, text, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {**QUICK, "steps": 2, "tracker": "tensorboard"}
    grow.train(tiny("llama"), text, out=tmp_path / "run", tensorboard=True, **options)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == TRACKED
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in TRACKED:
        wanted = [(line["step"], line[name]) for line in lines if name in line]
        found = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)  # float32 there


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_line_and_nothing_leaves_the_machine_unless_told(
    tiny, text, tmp_path, monkeypatch, capsys, name
):
    package = Wandb()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    grow.train(tiny("llama"), text, out=tmp_path / "run", tracker=name, **{**QUICK, "steps": 1})
    grow.train(out=tmp_path / "run", resume=True, steps=2)
    assert capsys.readouterr().out == ""  # stdout is for the result
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert package.entries == [(line.pop("step"), line) for line in lines]
    assert package.finished == 2
    first, second = package.asked
    assert first["project"] == "grow"
    assert first["config"]["batch"] == QUICK["batch"]
    assert (first["name"], first.get("id"), first["resume"]) == (second["name"], second.get("id"), "allow")
    assert first.get("mode") == ("offline" if name == "wandb" else None)


def test_a_tracker_that_breaks_down_does_not_stop_the_run(tiny, text, tmp_path, monkeypatch, capsys):
    package = Wandb(at=1)
    monkeypatch.setitem(sys.modules, "wandb", package)
    done = grow.train(tiny("llama"), text, out=tmp_path / "run", tracker="wandb", quiet=False, **QUICK)
    assert done.step == 4
    assert [step for step, _ in package.entries] == [0]
    assert "note: a tracker is left out from step 1 on: ConnectionError: gone" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_missing_or_does_not_start_is_refused_before_anything_is_written(
    tiny, text, tmp_path, monkeypatch, name
):
    options = {"src": tiny("llama"), "data": text, "out": tmp_path / "run", **QUICK}
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    wanted = "pip install " + ("'grow-transformers[train]'" if name == "tensorboard" else name)
    assert wanted in refused(tracker=name, **options)
    if name == "tensorboard":
        assert "tensorboard=True: needs tensorboard" in refused(tensorboard=True, **options)
    monkeypatch.setitem(sys.modules, module, SimpleNamespace())
    assert f'tracker="{name}": does not start' in refused(tracker=name, **options)
    assert list(tmp_path.iterdir()) == []
    assert "did you mean 'wandb'?" in refused(tracker="wand", **options)


def test_the_pace_follows_from_the_clock(monkeypatch):
    from grow.training.log import metrics

    now = 100.0
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now))
    pace = metrics.Pace(steps=40)
    for step in range(31):  # 9 s for the first step, then 2 s of which half a second is evaluation
        now = 100.0 + 9 * min(1, step) + 2 * max(0, step - 1)
        seconds = 8.0 * min(1, step) + 1.5 * max(0, step - 1)
        entry = {"step": step, "tokens": 300 * step, "flops": 6e9 * step, "seconds": seconds}
        pace.add(entry | ({"loss": 2.0, "tokens_per_second": 200.0} if step else {}))
        if step == 1:
            assert pace.left() is None
    assert pace.left() == 20.0
    assert pace.words() == ["200 tokens/s", "180 GFLOPs at 4 GFLOP/s", "0:20 left"]
    assert [metrics.clock(s) for s in (0, 59.6, 3723, 273900)] == ["0:00", "1:00", "1:02:03", "3 d 04:05"]
    assert [metrics.flops(x) for x in (12.0, 4.56e13, 1e21)] == ["12 ", "45.6 T", "1e+03 E"]


def test_one_live_line_on_a_terminal_and_sparse_lines_in_a_pipe(tmp_path, monkeypatch, capsys):
    from grow.training.log.metrics import Log

    settings = Settings(steps=40, log_every=10)
    entry = {
        "loss": 2.5,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens_per_second": 9.0,
    }
    for live in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda live=live: live)
        monkeypatch.setenv("COLUMNS", "30")
        log = Log(tmp_path, settings, done=0, steps=40, quiet=False)
        for step in range(1, 31):
            more = {"val_loss": 2.0} if step == 15 else {}
            log.record({"step": step, "seconds": 1.0 * step, "tokens": 2 * step, "flops": 2e9 * step, **entry, **more})
        log.note("something")
        log.close()
        said = capsys.readouterr().err
        *shown, note = said.strip("\r\x1b[2K").rstrip("\n").split("\n")
        assert note.endswith("note: something")
        if live:
            assert len(shown) == 1  # what was evaluated; all else is one line
            parts = said.split("\r\x1b[2K")
            assert all(len(part) < 30 for part in parts if "val" not in part)  # a line that wraps is not rewritten
            assert sum(part.startswith("step") for part in parts) == 30
        else:
            assert "\x1b" not in said
            assert [line.split("/")[0] for line in shown] == [f"step {k:>2}" for k in (1, 10, 15, 20, 30)]
            assert shown[2].startswith("step 15/40  loss 2.5000  val 2.0000  lr 1.00e-03  norm 0.50  2 tokens/s  ")
            assert shown[2].endswith("30 GFLOPs at 2 GFLOP/s  0:00 left")
