"""A recipe runs as it was priced, and its report says what its metrics say."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny as files
from launched import command, forks
from safetensors.torch import load_file
from short_recipes import NAME, ONE, SHORT, SMALL, TRAIN, plain, recipe_json, runs, written
from training import curve, refused, same

import grow
from grow.costs.training_cost import TrainingCost
from grow.planning.record import read_record
from grow.plotting.curves import read_curve
from grow.staged import pricing, recipe_report
from grow.staged.forecast import forecast
from grow.staged.recipe import bundled, read_recipe
from grow.staged.recipe_folder import Book

ROOT = Path(grow.__file__).parents[1]

WHOLE = f"""
name = "whole"
seed = 3

[train]
{TRAIN}
[[stage]]
kind = "init"
from = "llama"
{SMALL}

[[stage]]
kind = "train"
steps = 5

[[stage]]
kind = "widen"
to = {{hidden_size = 36, ffn = 28}}
verify = false

[[stage]]
kind = "verify"
rungs = ["certificate"]

[[stage]]
kind = "train"
tokens = 200
rewarm = "1.25:3"

[[stage]]
kind = "deepen"
layers = 3
verify = false

[[stage]]
kind = "train"
flops = 3e7

[baseline]
lr = 2e-2
"""


@pytest.fixture(scope="module")
def whole(place) -> Any:
    return written(place, WHOLE, "whole.toml")


@pytest.fixture(scope="module")
def ran(whole, tmp_path_factory) -> Any:
    """A recipe with every kind of stage except load and upcycle, carried out without interruption."""
    return grow.run(whole, out=tmp_path_factory.mktemp("ran") / "out")


# Priced


def test_a_dry_run_writes_nothing_and_predicts_what_happens(whole, ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = files.snapshot(whole.parent)
    priced = grow.price(whole)
    assert files.snapshot(whole.parent) == before
    assert list(tmp_path.iterdir()) == []
    done = recipe_json(ran.path)
    for row, entry in zip(priced.rows, [*done["stages"], done["baseline"]]):
        f = row.forecast
        assert (f.stage.name, f.parameters) == (entry["name"], entry["parameters"])
        assert (f.tokens, f.steps, f.flops) == tuple(entry.get(k, 0) for k in ("tokens", "steps", "flops"))
        assert (row.seconds is not None) == (entry["kind"] == "train")
        held = sum(p.stat().st_size for p in (ran.path / entry["folder"]).rglob("*.safetensors"))
        assert held <= 1.1 * f.disk_bytes + 10_000
    assert priced.document()["total"]["flops"] == sum(row.forecast.flops for row in priced.rows)
    assert "CPU cores" in priced.machine


def test_a_model_larger_than_memory_is_priced_without_its_time(whole, monkeypatch):
    monkeypatch.setattr(pricing, "_free_memory", lambda: 1000)
    row = grow.price(whole).rows[1]
    assert (row.seconds, row.note) == (None, "its time was not measured, because only 0.0 GB of memory are free")
    assert row.forecast.flops > 0


# Carried out


def test_every_stage_leaves_a_stock_checkpoint_and_a_record(ran):
    from transformers import AutoModelForCausalLM

    assert not ran.stopped
    for entry in ran.stages:
        path = ran.path / entry["checkpoint"]
        model = AutoModelForCausalLM.from_pretrained(path)
        assert sum(p.numel() for p in model.parameters()) == entry["parameters"]
        record = json.loads((path / "grow.json").read_text())
        assert ("plan" in record) == (read_record(path) is not None) == (entry["name"] >= "03")
        assert ("training" in record) == (entry["kind"] in ("init", "train"))
    assert json.loads((ran.path / "01-init" / "grow.json").read_text())["training"]["spent"]["flops"] == 0
    assert read_curve(ran.path).before == TrainingCost()  # random weights have cost nothing, which is known
    assert [e["kind"] for e in ran.stages] == ["init", "train", "widen", "verify", "train", "deepen", "train"]
    assert os.readlink(ran.final) == ran.stages[-1]["checkpoint"]
    assert grow.inspect(ran.final).sizes["layers"] == 3
    assert ran.stages[3]["verdict"] == "certified"
    told = ran.stages[4]["notes"]
    assert any(note.startswith("the validation loss before the first step is the source's") for note in told)
    assert "reading goes on after 20 sequences" in told
    for early, late in ((1, 4), (4, 6)):
        assert ran.stages[late]["loss_before"] == pytest.approx(ran.stages[early]["loss_after"], abs=1e-5)


def test_the_numbers_of_the_report_are_those_of_the_metrics(ran):
    text = (ran.path / recipe_report.REPORT).read_text()
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 0") or "| baseline" in line
    ]
    assert len(rows) == 8
    for entry in (*ran.stages, ran.baseline):
        if entry["kind"] != "train":
            continue
        lines = curve(ran.path / entry["folder"])
        held_out = [line["val_loss"] for line in lines if "val_loss" in line]
        wanted = f"| {lines[-1]['step']:,} | {lines[-1]['tokens']:,} | {lines[-1]['flops']:.4g} |"
        row = next(line for line in text.splitlines() if line.startswith(f"| {entry['name']} "))
        assert wanted in row
        assert f"| {held_out[0]:.4f} | {held_out[-1]:.4f} |" in row
    assert "## Against the same model from random weights" in text
    assert (ran.path / recipe_report.PICTURE).is_file() == (recipe_report.PICTURE in text)


def test_the_baseline_has_the_last_config_and_the_same_flops(ran):
    last, own = ran.stages[-1], ran.baseline
    assert own["parameters"] == last["parameters"]
    spent = sum(entry.get("flops", 0.0) for entry in ran.stages)
    step = own["flops"] / own["steps"]
    assert spent <= own["flops"] * (1 + 1e-9) < spent + step + 1
    a, b = (json.loads((ran.path / p / "config.json").read_text()) for p in (last["checkpoint"], "baseline-init"))
    assert {k: v for k, v in a.items() if k != "transformers_version"} == {
        k: v for k, v in b.items() if k != "transformers_version"
    }


def test_the_savings_of_the_report_are_those_of_the_curves(ran):
    found = recipe_report.curves(Book.open(ran.path))
    recipe, scratch = found.curves
    assert recipe.last.spent.flops == pytest.approx(sum(entry.get("flops", 0.0) for entry in ran.stages), rel=1e-12)
    assert scratch.last.spent.flops == ran.baseline["flops"]
    assert [mark.kind for mark in recipe.marks] == ["widen", "deepen"]


def test_a_loaded_model_is_upcycled_by_a_recipe(place, tmp_path):
    text = NAME + f"[train]\n{TRAIN}" + ONE.replace("init", "load")
    text += '[[stage]]\nkind = "upcycle"\nexperts = 4\nverify = false\n[[stage]]\nkind = "train"\nsteps = 2\n'
    text += 'rewarm = "1.2:2"\n'
    done = grow.run(written(place, text, "experts.toml"), out=tmp_path / "out")
    assert done.stages[0]["checkpoint"] == str(place / "llama")
    assert done.stages[2]["parameters"] > 2 * done.stages[0]["parameters"]
    priced = grow.price(place / "experts.toml", measured=False)
    assert priced.rows[2].forecast.flops == done.stages[2]["flops"]
    assert done.baseline is None
    assert "Against" not in (done.path / recipe_report.REPORT).read_text()


# Budgets of grow train


def test_a_plateau_ends_a_stage_and_begins_its_decay(done):
    """The loss falls by less than 9 nats in any 2 steps: after step 4 the one step of decay begins."""
    lines = curve(done.path / "02-train")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert "a plateau was found after step 4; the last step is 5" in done.stages[1]["notes"]
    assert lines[-1]["lr"] < lines[-2]["lr"]


def test_flops_are_a_budget_of_grow_train(place, tmp_path):
    options: dict[str, Any] = dict(batch=4, length=16, warmup=0, decay=0, eval_every=9, save_every=9)
    one = grow.train(place / "llama", place / "tokens", out=tmp_path / "one", steps=3, **options)
    spent = curve(one.path)[-1]["flops"]
    two = grow.train(place / "llama", place / "tokens", out=tmp_path / "two", flops=spent, **options)
    assert curve(one.path)[:-1] == curve(two.path)[:-1]
    assert grow.train(place / "llama", place / "tokens", out=tmp_path / "three", flops=1.1 * spent, **options).step == 4
    base = dict(src=place / "llama", data=place / "tokens", **options)
    assert "flops=1000000000.0: is given beside steps=3" in refused(out=tmp_path / "x", flops=1e9, steps=3, **base)
    assert "flops=1000000000.0: is given beside tokens=3" in refused(out=tmp_path / "x", flops=1e9, tokens=3, **base)
    for bad in (0, -1.0, float("nan"), float("inf"), "many"):
        assert "must be" in refused(out=tmp_path / "x", flops=bad, **base)


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], 30),  # it goes on falling
        ([5.0, 4.0, 3.95, 3.93, 2.0, 1.0], 15 + 4),  # 0.07 in the last 10 steps; what comes later is too late
        ([5.0, 4.0, 4.5, 3.99, 3.0, 2.0], 15 + 4),  # by the best one, not by the last
        ([5.0, 5.0, 4.0, 3.0, 2.0, 1.0], 30),  # 0.0 over 5 steps says nothing yet
        ([1.0, 5.0, 4.0, 3.0, 2.0, 1.5], 30),  # the one before the warm-up was over does not count
    ],
)
def test_a_plateau_follows_from_the_losses_alone(losses, end):
    from grow.training.log.plateau import Plateau
    from grow.training.settings.run_settings import Settings

    found = Plateau(Settings(steps=30, warmup=2, decay=4, plateau=(10, 0.1)))
    for k, loss in enumerate(losses):
        found.add(5 * k, loss)
    assert found.end == end
    assert found.planned.rate(end - 1) < found.planned.rate(end - 5) == found.settings.lr
    plain = Plateau(Settings(steps=30, warmup=2, schedule="cosine", plateau=(10, 0.1)))
    for k, loss in enumerate(losses):
        plain.add(5 * k, loss)
    assert plain.end == (end if end == 30 else 15)


def test_a_run_with_a_plateau_resumes_to_the_same_bits(place, tmp_path):
    options: dict[str, Any] = dict(steps=12, batch=4, length=16, warmup=1, decay=3, lr=1e-2, eval_every=1, save_every=2)
    options |= {"plateau": (3, 5.0), "keep": 9}
    done = grow.train(place / "llama", place / "tokens", out=tmp_path / "whole", **options)
    assert done.step == 4 + 3
    for kept in (2, 4, 6):
        cut = shutil.copytree(tmp_path / "whole", tmp_path / f"cut-{kept}")
        for path in sorted(cut.glob("step-*")):
            if int(path.name[5:]) > kept:
                shutil.rmtree(path)
        grow.train(out=cut, resume=True)
        assert plain(cut) == plain(tmp_path / "whole")
        assert same(*(load_file(p / "step-00000007" / "model.safetensors") for p in (cut, tmp_path / "whole")))
    assert "resume=True: plateau=(4, 5.0)" in refused(out=tmp_path / "whole", resume=True, plateau=(4, 5.0))
    assert "resume=True: steps=20" in refused(out=tmp_path / "whole", resume=True, steps=20)


# Several processes and the command line


def test_two_processes_carry_out_a_recipe_as_one_does(place, tmp_path):
    path = written(
        place, SHORT.replace("[baseline]", "").replace('steps = 8\nplateau = "2:9"', "steps = 3"), "two.toml"
    )
    done = grow.run(path, out=tmp_path / "one")
    found = forks(2, partial(command, "run", path, "--out", tmp_path / "two", "--world", 2), tmp_path)
    assert found.codes == [0, 0], found.stderr
    assert [e["status"] for e in recipe_json(tmp_path / "two")["stages"]] == ["done"] * 5
    for a, b in zip(runs(done.path), runs(tmp_path / "two")):
        for x, y in zip(plain(a), plain(b)):
            assert x.keys() == y.keys()
            # sums of float32 in another order; the second run begins with weights that Adam has divided by √v
            assert max(abs(x[k] - y[k]) / max(1.0, abs(x[k])) for k in x) < 1e-4


def test_the_commands_print_prices_recipes_and_results(whole, done, short, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pricing, "_measure", lambda one: (0.5, 0.0))
    code, out, err = files.command(monkeypatch, capsys, "run", whole, "--dry-run")
    assert (code, err) == (0, "")
    assert "  02-train  " in out
    assert "total" in out
    document = json.loads(files.command(monkeypatch, capsys, "run", whole, "--dry-run", "--json")[1])
    assert document["stages"][1]["seconds"] == 2.5
    assert document["total"]["steps"] == sum(row["steps"] for row in [*document["stages"], document["baseline"]])
    code, out, _ = files.command(monkeypatch, capsys, "run", "--list")
    assert (code, all(name in out for name in bundled())) == (0, True)
    assert files.command(monkeypatch, capsys, "run")[0] == 2
    code, out, err = files.command(monkeypatch, capsys, "run", short, "--out", done.path, "--resume", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["stages"][0]["status"] == "done"


# The recipes that come with grow


@pytest.mark.parametrize("name", bundled())
def test_bundled_recipes_can_be_read_and_have_headers(name):
    found = read_recipe(name)
    assert found.path.parent.name == "recipes"
    text = found.content.decode()
    assert text.startswith("# ")
    assert f"grow run {name}" in text
    for word in ("does", "costs", "gave"):
        assert re.search(rf"^# {word} ", text, re.M), word
    assert (ROOT / "recipes" / found.path.name).read_bytes() == found.content


def test_the_recipe_of_the_readme_can_be_read(tmp_path):
    text = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)[0]
    (tmp_path / "mine.toml").write_text(text.replace('data = ["tokens"]', ""))
    stages, baseline = forecast(read_recipe(tmp_path / "mine.toml"))
    assert [one.stage.kind for one in stages] == ["init", "train", "widen", "train"]
    assert stages[-1].settings.begin == stages[1].settings.steps
    assert baseline.flops >= stages[1].flops + stages[3].flops


def test_the_small_recipe_can_be_carried_out():
    stages, baseline = forecast(read_recipe("small-to-base"))
    assert [one.stage.kind for one in stages][:3] == ["init", "train", "widen"]
    assert baseline is not None
    assert baseline.flops == pytest.approx(sum(one.flops for one in stages), rel=0.02)
    assert baseline.parameters == stages[-1].parameters > 2 * stages[0].parameters
