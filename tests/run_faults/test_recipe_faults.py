"""Faults of a recipe's later stages are reported before anything runs, and finished stages stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny as files

import grow
from grow.errors import BadInput

# Recipes


INIT = (
    '[[stage]]\nkind = "init"\nfrom = "llama"\nsizes = {hidden = 24, heads = 3, kv_heads = 3, head_dim = 8, ffn = 20}\n'
)
FEW = '[[stage]]\nkind = "train"\nsteps = 2\nlength = 16\nbatch = 4\n'
WIDE = '[[stage]]\nkind = "widen"\nto = {ffn = 28}\nverify = false\n'


def recipe(place: Path, text: str) -> Path:
    (place / "recipe.toml").write_text('name = "x"\ndata = "tokens"\n' + text)
    return place / "recipe.toml"


@pytest.fixture
def place(tiny, text, tmp_path) -> Path:
    shutil.copytree(tiny("llama-tied"), tmp_path / "llama")
    shutil.copytree(text, tmp_path / "tokens")
    return tmp_path


LATE: dict[str, tuple[str, str]] = {
    "a state before any training": (INIT + FEW + 'state = "carry"\n', "stage 2 (train): state: there is no state"),
    "a growth of no state": (INIT + WIDE + 'state = "carry"\n', "stage 2 (widen): state: there is no state"),
    "a state that was dropped": (
        INIT + FEW + WIDE + 'state = "drop"\n' + FEW + 'state = "carry"\n',
        "stage 4 (train): state: there is no state to take over: what there was is dropped",
    ),
    "another optimizer": (
        INIT + FEW + 'optimizer = "muon"\n' + WIDE + FEW,
        'stage 4 (train): optimizer = "adamw": the optimizer state that comes along from 02-train belongs to muon',
    ),
    "a shard size of words": (INIT + WIDE + 'max_shard_size = "big"\n', "max_shard_size: is 'big': must be a number"),
    "a shard size that is true": (INIT + WIDE + "max_shard_size = true\n", "max_shard_size: is True: must be a size"),
    "shards without end": (INIT + WIDE + f'max_shard_size = "{"9" * 400}GB"\n', "must be a number of bytes"),
    "a budget without end": (INIT + FEW.replace("steps = 2", "flops = 1e39"), "at most"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_a_later_stage_would_refuse_is_refused_before_anything_runs(name, place):
    text, said = LATE[name]
    with pytest.raises(BadInput) as error:
        grow.run(recipe(place, text), out=place / "out")
    assert said in str(error.value)
    assert not (place / "out").exists()


def test_another_optimizer_is_allowed_where_the_state_stays_behind(place):
    drop = INIT + FEW + 'optimizer = "muon"\n' + WIDE + 'state = "drop"\n' + FEW
    assert grow.price(recipe(place, drop), measured=False).rows[3].forecast.settings.optimizer == "adamw"
    assert grow.price(
        recipe(place, INIT + FEW + 'optimizer = "muon"\n' + WIDE + FEW + 'state = "drop"\n'), measured=False
    )


def test_a_stage_that_was_refused_may_change_and_what_was_done_stays(place, monkeypatch):
    """The first stages may have taken days."""
    from grow.staged import stages

    out, train = place / "out", stages.api.train

    def refuse(*_: object, **__: object) -> None:
        raise BadInput("here", what="is refused", why="it must be", fix="another way")

    def only(folder: str) -> Callable:
        return lambda *a, **k: (refuse if Path(k["out"]).name == folder else train)(*a, **k)

    first, then, last = WIDE, FEW, "[baseline]\n"
    for name, refusing in (("widen", refuse), ("train", only("04-train")), ("train", only("baseline"))):
        with monkeypatch.context() as patch:
            patch.setattr(stages.api, name, refusing)
            with pytest.raises(BadInput, match="is refused"):
                grow.run(recipe(place, INIT + FEW + first + then + last), out=out, resume=out.exists())
        if name == "widen":
            first = WIDE.replace("28", "31")
            before = (out / "02-train" / "metrics.jsonl").read_bytes()
        elif then == FEW:
            then += "lr = 1e-3\n"
        else:
            last += "seed = 5\n"
    done = grow.run(recipe(place, INIT + FEW + first + then + last), out=out, resume=True)
    assert grow.inspect(done.final).sizes["ffn"] == 31
    assert done.stages[3]["options"]["lr"] == 1e-3
    assert (out / "02-train" / "metrics.jsonl").read_bytes() == before
    assert json.loads((out / "baseline" / "run.json").read_text())["settings"]["seed"] == 5
    fresh = grow.run(recipe(place, INIT + FEW + first + then + last), out=place / "fresh")
    assert [entry["loss"] for entry in done.stages if "loss" in entry] == [
        entry["loss"] for entry in fresh.stages if "loss" in entry
    ]
    assert done.baseline["loss"] == fresh.baseline["loss"]


def test_a_record_with_folders_elsewhere_is_neither_plotted_nor_continued(place):
    done = grow.run(recipe(place, INIT + FEW), out=place / "out")
    for elsewhere in ("../tokens", "..", 5, str(place)):
        files.edit_json(done.path / "recipe.json", lambda d, name=elsewhere: d["stages"][1].update(folder=name))
        with pytest.raises(BadInput, match="lists no stages"):
            grow.plot([done.path])
        with pytest.raises(BadInput, match="is not a record of a recipe's run"):
            grow.run(place / "recipe.toml", out=done.path, resume=True)


@pytest.mark.parametrize("line", ['{"step": "a"}', '{"step": null}', '{"step": 1.5}', "[" * 100_000])
def test_damaged_lines_of_metrics_are_not_plotted(copy, line):
    with open(copy / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    assert len(grow.plot([copy]).curves[0].points) == 5


@pytest.mark.parametrize("work", ["save", "load"])
def test_a_signal_while_the_state_is_saved_or_loaded_is_not_reported_as_damage(work, copy, monkeypatch):
    """The library that saves the state catches whatever ends its work, signals too, and raises its own error."""
    from grow.training.saved import exact_state

    planner = exact_state.dcp.DefaultSavePlanner if work == "save" else exact_state.dcp.DefaultLoadPlanner

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planner, "create_local_plan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grow.train(out=copy, resume=True, steps=5)
    assert not list(copy.glob(".step-*"))
    assert grow.train(out=copy, resume=True, steps=5).step == 5
