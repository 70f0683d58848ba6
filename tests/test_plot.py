"""Curves count what was spent, savings are what is computed by hand, and the picture shows both."""

from __future__ import annotations

import json
import math
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import tiny as files

import grow
from grow.costs.training_cost import TrainingCost, recorded_cost
from grow.errors import BadInput
from grow.plotting.curves import named, read_curve
from grow.plotting.picture import picture
from grow.plotting.savings import compare

TEXT = {"path": "x", "weight": None, "tokens": "a" * 64, "validation": "b" * 64}
SETTINGS = {"length": 16, "documents": False}


def run(
    folder: Path,
    losses: list[float],
    *,
    per: float = 100.0,
    every: int = 1,
    before: dict[str, float] | None = None,
    first: float | None = None,
    **changes: Any,
) -> Path:
    """A run of 10 tokens, 10 · per FLOPs and half a second a step, validated every so many steps (0: never)."""
    folder.mkdir(parents=True)
    data = [{**TEXT, **{k: v for k, v in changes.items() if k in TEXT}}]
    settings = {**SETTINGS, **{k: v for k, v in changes.items() if k in SETTINGS}}
    document = {"before": before, "objective": changes.get("objective", "causal"), "settings": settings, "data": data}
    (folder / "run.json").write_text(json.dumps(document))
    lines = [] if first is None else [{"step": 0, "tokens": 0, "flops": 0.0, "seconds": 0.0, "val_loss": first}]
    for k, loss in enumerate(losses, 1):
        entry = {"step": k, "tokens": 10 * k, "flops": 10 * k * per, "seconds": 0.5 * k, "loss": loss + 0.25}
        lines.append(entry | ({"val_loss": loss} if every and k % every == 0 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def refused(work: Any) -> str:
    with pytest.raises(BadInput) as error:
        work()
    assert error.value.why
    assert error.value.fix
    return str(error.value)


# Curves


def test_a_curve_begins_with_what_its_checkpoint_had_cost(tmp_path):
    before = {"tokens": 70, "flops": 5000.0, "seconds": 3.0}
    curve = read_curve(run(tmp_path / "run", [3.0, 2.0], before=before, first=4.0))
    assert [(p.step, p.spent) for p in curve.points] == [
        (0, TrainingCost(70, 5000.0, 3.0)),
        (1, TrainingCost(80, 6000.0, 3.5)),
        (2, TrainingCost(90, 7000.0, 4.0)),
    ]
    assert curve.losses(validation=True) == [(p.spent, loss) for p, loss in zip(curve.points, (4.0, 3.0, 2.0))]
    assert curve.losses(validation=False) == [(p.spent, loss) for p, loss in zip(curve.points[1:], (3.25, 2.25))]
    assert (curve.name, curve.before) == ("run", TrainingCost(70, 5000.0, 3.0))


def test_training_losses_are_means_over_a_twentieth(tmp_path):
    losses = [math.sin(k) for k in range(60)]
    seen = read_curve(run(tmp_path / "run", losses, every=0)).losses(validation=False)
    assert [y for _, y in seen[:3]] == pytest.approx([0.25 + sum(losses[:k]) / k for k in (1, 2, 3)])
    assert seen[-1][1] == pytest.approx(0.25 + sum(losses[-3:]) / 3)


def test_a_recipe_is_its_training_stages_in_a_row_with_the_growths_marked(tmp_path):
    folder = tmp_path / "recipe"
    run(folder / "one", [5.0, 4.0])
    run(folder / "two", [3.5], per=300.0, before={"tokens": 20, "flops": 2000.0, "seconds": 1.0}, first=4.0)
    stages = [
        {"name": "first", "kind": "train", "folder": "one", "status": "done"},
        {"name": "wide", "kind": "widen", "folder": "w", "status": "done"},
        {"name": "deep", "kind": "deepen", "folder": "d", "status": "done"},
        {"name": "check", "kind": "verify", "folder": "d", "status": "done"},
        {"name": "second", "kind": "train", "folder": "two", "status": "running"},
        {"name": "more", "kind": "widen", "folder": None, "status": "pending"},
        {"name": "third", "kind": "train", "folder": "three", "status": "pending"},
    ]
    (folder / "recipe.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    curve = read_curve(folder, "all")
    assert [(p.step, p.spent, p.val_loss) for p in curve.points] == [
        (1, TrainingCost(10, 1000.0, 0.5), 5.0),
        (2, TrainingCost(20, 2000.0, 1.0), 4.0),
        (2, TrainingCost(20, 2000.0, 1.0), 4.0),
        (3, TrainingCost(30, 5000.0, 1.5), 3.5),
    ]
    assert [(m.name, m.kind, m.at) for m in curve.marks] == [
        ("wide", "widen", TrainingCost(20, 2000.0, 1.0)),
        ("deep", "deepen", TrainingCost(20, 2000.0, 1.0)),
    ]
    single = read_curve(folder / "two")
    assert [p.spent for p in single.points] == [p.spent for p in curve.points[2:]]  # the same, told by run.json


def test_a_line_that_was_cut_off_is_none(tmp_path):
    path = run(tmp_path / "run", [3.0, 2.0])
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "tokens": 30, "los')
    assert [p.step for p in read_curve(path).points] == [1, 2]


# Savings


def test_what_was_saved_is_what_is_computed_by_hand(tmp_path):
    """The grown run is at 2.5 half way between its first two steps, scratch at its 4th and last."""
    grown = run(tmp_path / "grown", [3.0, 2.0, 1.5], before={"tokens": 5, "flops": 400.0, "seconds": 1.0})
    scratch = run(tmp_path / "scratch", [6.0, 4.0, 3.0, 2.5], per=200.0)
    found = grow.plot([grown, scratch])
    assert (found.baseline, found.validation) == ("scratch", True)
    at, own = found.savings
    assert (at.run, at.of, at.loss) == ("grown", "scratch", 2.5)
    assert (at.run_cost, at.baseline_cost) == (TrainingCost(20, 400 + 1500.0, 1.75), TrainingCost(40, 8000.0, 2.0))
    assert [at.saved(c) for c in ("flops", "tokens", "seconds")] == [1 - 1900 / 8000, 0.5, 1 - 1.75 / 2]
    assert (own.of, own.loss, own.baseline_cost, own.saved("flops")) == ("grown", 1.5, None, None)
    assert found.saving("grown") is at
    back = grow.plot([grown, scratch], baseline="grown")
    both = back.saving("scratch")
    assert both is not None
    assert (both.loss, both.saved("flops")) == (2.5, 1 - 8000 / 1900)  # it cost more


def test_training_losses_are_compared_where_a_run_has_no_other(tmp_path):
    paths = [run(tmp_path / "a", [3.0, 2.0], every=0), run(tmp_path / "b", [3.0, 2.5], validation="c" * 64)]
    found = grow.plot(paths)
    assert not found.validation
    assert found.savings[0].loss == 2.75
    assert found.document()["compared"] == "training"


def test_a_run_that_begins_below_and_one_that_never_moves(tmp_path):
    low, flat = run(tmp_path / "low", [1.0]), run(tmp_path / "flat", [2.0, 2.0, 2.0])
    found = grow.plot([low, flat])
    assert found.savings[0].run_cost == found.savings[0].baseline_cost == TrainingCost(10, 1000.0, 0.5)
    assert found.savings[1].saved("flops") is None
    assert grow.plot(flat).savings == ()


@pytest.mark.parametrize(
    ("change", "validation", "said"),
    [
        ({"validation": "c" * 64}, 1, "has its losses on another text than a"),
        ({"tokens": "c" * 64}, 0, "has its losses on another text than a"),
        ({"length": 32}, 1, "causal over 32 tokens"),
        ({"documents": True}, 1, "documents apart"),
        ({"objective": "masked"}, 0, "masked over 16 tokens"),
        ({"tokens": "c" * 64}, 1, ""),  # another training text, the same held-out one
    ],
)
def test_losses_of_different_texts_are_not_put_side_by_side(tmp_path, change, validation, said):
    paths = [run(tmp_path / "a", [3.0, 2.0], every=validation)]
    paths.append(run(tmp_path / "b", [3.0, 2.0], every=validation, **change))
    if said:
        assert said in refused(lambda: grow.plot(paths))
    else:
        assert grow.plot(paths).savings[0].saved("flops") == 0


# What a checkpoint has cost


def test_training_and_growing_carry_on_what_was_spent(tmp_path):
    options: dict[str, Any] = dict(batch=2, length=16, warmup=0, decay=0, save_every=9, eval_every=9)
    first = grow.train("small", out=tmp_path / "first", steps=2, **options)
    assert recorded_cost(grow.zoo.bundled_path("small")) is None
    paid = recorded_cost(first.checkpoint)
    assert paid is not None
    curve = read_curve(first.path)
    assert (curve.before, paid) == (None, curve.last.spent)
    grown = grow.widen(first.checkpoint, "2x", out=tmp_path / "grown", verify=False)
    assert recorded_cost(grown.path) == paid
    second = grow.train(grown.path, out=tmp_path / "second", steps=1, **options)
    again = grow.train(out=second.path, resume=True, steps=2)
    curve = read_curve(second.path)
    assert (curve.before, curve.last.step) == (paid, 2)
    assert curve.points[0].spent == paid
    assert recorded_cost(again.checkpoint) == curve.last.spent
    for name in ("model.safetensors", "state/train.json"):
        (again.checkpoint / name).unlink()  # a copy for others has grow.json alone
    assert recorded_cost(again.checkpoint) == curve.last.spent
    (again.checkpoint / "grow.json").write_text("[")
    assert recorded_cost(again.checkpoint) is None


def test_seconds_go_on_where_an_interrupted_run_was(tmp_path):
    options: dict[str, Any] = dict(batch=2, length=16, warmup=0, decay=0, save_every=2)
    grow.train("small", out=tmp_path / "run", steps=2, **options)
    before = read_curve(tmp_path / "run").last.spent.seconds
    grow.train(out=tmp_path / "run", resume=True, steps=3)
    seconds = [p.spent.seconds for p in read_curve(tmp_path / "run").points]
    assert seconds == sorted(seconds)
    assert seconds[2] == before
    assert seconds[3] > before


# The picture


@pytest.fixture
def pair(tmp_path) -> list[Path]:
    steps = [6 * 0.9**k for k in range(30)]
    grown = run(tmp_path / "grown", steps[8:], before={"tokens": 9, "flops": 200.0, "seconds": 1.0})
    return [grown, run(tmp_path / "scratch", steps, per=200.0)]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_pictures_are_written_and_are_the_same_bytes_again(pair, tmp_path, suffix):
    outs = [tmp_path / f"{k}{suffix}" for k in (1, 2)]
    for out in outs:
        assert grow.plot(pair, out).out == out
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert outs[0].read_bytes().startswith(start)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    if suffix == ".svg":
        ET.parse(outs[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["grown", "scratch", *(out.name for out in outs)])


def test_the_picture_has_every_line_the_saving_and_the_marks(pair, tmp_path):
    folder = tmp_path / "recipe"
    run(folder / "one", [5.0, 4.0])
    run(folder / "two", [3.5, 2.0])
    stages = [
        {"name": k, "kind": kind, "folder": k} for k, kind in (("one", "train"), ("up", "widen"), ("two", "train"))
    ]
    (folder / "recipe.json").write_text(json.dumps({"stages": stages}))
    found = compare([read_curve(path) for path in (folder, *pair)])
    figure = picture(found)
    assert [tuple(figure.get_size_inches()), len(figure.axes)] == [(12, 4), 3]
    for panel, cost in zip(figure.axes, ("flops", "tokens", "seconds")):
        shown = {text.get_text() for text in panel.texts}
        savings = [found.saving(name) for name in ("recipe", "grown")]
        assert shown == {"", "up", *(f"{s.saved(cost):.0%} saved" for s in savings if s)}
        lines = {
            line.get_color(): line for line in panel.lines if line.get_linewidth() > 1.5 and len(line.get_xdata()) > 1
        }
        for curve, line in zip(found.curves, lines.values()):
            last = [getattr(at, cost) for at, _ in curve.losses(validation=True)]
            assert line.get_xdata()[-1] / line.get_xdata()[0] == pytest.approx(last[-1] / last[0])
            assert list(line.get_ydata()) == [y for _, y in curve.losses(validation=True)]
        assert len({line.get_linestyle() for line in lines.values()}) > 1  # the baseline is no colour alone
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        f"{c.name}  {c.final(True):.4g}" for c in found.curves
    ]


def test_what_began_at_random_does_not_press_the_others_together(tmp_path):
    a = run(tmp_path / "a", [4.0 - 0.01 * k for k in range(20)])
    b = run(tmp_path / "b", [9.0 / (k + 1) + 3.7 for k in range(20)])
    low, high = picture(grow.plot([a, b])).axes[0].get_ylim()
    assert low < 3.81
    assert 4.0 < high < 7  # of 12.7


@pytest.mark.parametrize("name", ["$x^{", "_hidden", "名前", "a\nb", "x" * 90])
def test_a_name_is_text_and_nothing_else(tmp_path, name):
    paths = [run(tmp_path / "a", [3.0, 2.0]), run(tmp_path / "b", [3.0])]
    grow.plot([f"{name}={paths[0]}", paths[1]], tmp_path / "out.svg")
    assert (tmp_path / "out.svg").stat().st_size > 9000


def test_a_run_of_one_step_is_a_point(tmp_path):
    found = grow.plot(run(tmp_path / "run", [3.0]), tmp_path / "out.png")
    assert found.savings == ()
    assert (tmp_path / "out.png").is_file()


# Bad input


def test_runs_that_are_none(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is not a folder" in refused(lambda: grow.plot(tmp_path / "nowhere"))
    assert "has no metrics.jsonl and no recipe.json" in refused(lambda: grow.plot(empty))
    (empty / "metrics.jsonl").touch()
    assert "has no loss" in refused(lambda: grow.plot(empty))
    (empty / "metrics.jsonl").write_text('{"step": 0, "tokens": 0, "flops": 0, "seconds": 0, "val_loss": 3}\n')
    assert "no step was finished" in refused(lambda: grow.plot(empty))
    for line in ('{"step": 1, "loss": 2.0}', '{"step": 1, "tokens": 1, "flops": 1, "seconds": 1, "loss": NaN}'):
        (empty / "metrics.jsonl").write_text(line + "\n")
        assert "is not a record of a run" in refused(lambda: grow.plot(empty))
    assert "runs=…: is missing" in refused(lambda: grow.plot([]))
    (empty / "recipe.json").write_text('{"stages": [{"name": "a", "kind": "train", "folder": "b"}]}')
    assert "has trained nothing yet" in refused(lambda: grow.plot(empty))
    (empty / "recipe.json").write_text('{"stages": 3}')
    assert "lists no stages" in refused(lambda: grow.plot(empty))


def test_names(pair, tmp_path):
    other = run(tmp_path / "more" / "grown", [3.0])
    assert f'grow.plot(…, runs=["run1={pair[0]}", "run2={other}"])' in refused(lambda: grow.plot([pair[0], other]))
    assert [c.name for c in grow.plot([f"a={pair[0]}", f"b={other}"]).curves] == ["a", "b"]
    assert "did you mean 'scratch'?" in refused(lambda: grow.plot(pair, baseline="scrath"))
    odd = run(tmp_path / "x=y", [3.0])
    assert named(str(odd)) == (None, odd)
    assert named("x=y") == ("x", Path("y"))


def test_pictures_that_cannot_be(pair, tmp_path, monkeypatch):
    out = tmp_path / "out.png"
    assert ".png, .svg, .pdf" in refused(lambda: grow.plot(pair, tmp_path / "out.gif"))
    assert "is not a folder" in refused(lambda: grow.plot(pair, tmp_path / "no" / "out.png"))
    out.write_text("mine")
    assert "nothing is overwritten unasked" in refused(lambda: grow.plot(pair, out))
    assert out.read_text() == "mine"
    grow.plot(pair, out, overwrite=True)
    assert out.read_bytes()[:4] == b"\x89PNG"
    out.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert "No space left on device" in refused(lambda: grow.plot(pair, out))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or p.suffix]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'grow-transformers[plot]'" in refused(lambda: grow.plot(pair, out))
    assert grow.plot(pair).savings  # the numbers need none


def test_the_command_prints_what_the_python_function_finds(pair, tmp_path, monkeypatch, capsys):
    out = tmp_path / "curves.png"
    code, said, err = files.command(monkeypatch, capsys, "plot", *pair, "-o", out)
    assert (code, err) == (0, "")
    saving = grow.plot(pair).saving("grown")
    assert saving is not None
    assert f"{saving.saved('flops'):.1%} ({saving.run_cost.flops:.3g} of {saving.baseline_cost.flops:.3g})" in said
    assert "never reached by" in said or all(s.saved("flops") is not None for s in grow.plot(pair).savings)
    assert "scratch: costs count its own steps alone" in said
    assert f"picture: {out}" in said
    code, said, err = files.command(monkeypatch, capsys, "plot", *pair, "--json")
    assert json.loads(said) == grow.plot(pair).document()


def test_a_loss_that_was_there_at_the_start_was_reached(tmp_path, monkeypatch, capsys):
    """The grown run ends above the loss that the baseline began with, and the other way round."""
    worse = run(tmp_path / "worse", [5.0, 4.5], first=6.0)
    better = run(tmp_path / "better", [3.0, 2.0], first=4.5)
    code, said, _ = files.command(monkeypatch, capsys, "plot", worse, better)
    assert code == 0
    at = next(line for line in said.splitlines() if "4.5000 of worse" in line)
    assert "never reached" not in at
    assert at.count("better begins there (") == 3
    assert "better begins there (200 of 0)" not in at  # 20 tokens, 2000 FLOPs, 1 second
    assert "better begins there (2e+03 of 0)" in at
    assert "better begins there (20 of 0)" in at
    assert "never reached by worse" in next(line for line in said.splitlines() if "2.0000 of better" in line)
    code, said, _ = files.command(monkeypatch, capsys, "plot", better, worse, "--json")
    saved = {s["loss_of"]: s for s in json.loads(said)["savings"]}["worse"]
    assert (saved["flops"]["run"], saved["flops"]["baseline"], saved["flops"]["saved"]) == (0.0, 2000.0, 1.0)


def test_two_runs_that_begin_at_a_loss_both_begin_there(tmp_path, monkeypatch, capsys):
    a, b = (run(tmp_path / name, [2.5, 3.0], first=3.0) for name in "ab")
    code, said, _ = files.command(monkeypatch, capsys, "plot", a, b)
    assert (code, said.count("both begin there"), "never" in said) == (0, 6, False)
