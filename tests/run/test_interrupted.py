"""A recipe goes on from wherever it was stopped to the same bits."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import tiny as files
from models import seeded
from short_recipes import SHORT, SMALL, STEPS, TRAIN, assert_same_runs, plain, recipe_json, written
from training import curve, killed_at

import grow
from grow.errors import BadInput, GrowError
from grow.staged import recipe_folder, recipe_report, stages
from grow.training.log import metrics
from grow.training.saved import checkpoints
from grow.training.step import loop

# Interrupted


def killed_recipe(event: int, recipe: Path, out: Path) -> int:
    """A recipe, begun or continued, that is killed at its n-th event: whatever is written, synced, renamed, removed,
    recorded or stepped."""
    patched = (
        (checkpoints, ("save_state", "write_stock", "_write_documents", "_sync", "prune")),
        (recipe_folder, ("write_json", "_sync")),
        (stages, ("write_json", "random_checkpoint", "hashes")),
        (Path, ("rename", "replace", "mkdir", "write_text", "write_bytes", "symlink_to")),
        (shutil, ("rmtree",)),
        (os, ("pwrite", "fsync")),
        (metrics.Log, ("record", "sync")),
        (loop, ("set_rate", "gradient_norm")),
    )
    return killed_at(event, patched, lambda: grow.run(recipe, out=out, resume=out.is_dir()))


def test_killed_at_any_moment_a_recipe_goes_on_as_if_it_had_not_been(short, done, tmp_path):
    out = tmp_path / "out"
    draw, kills, code = seeded("recipe"), 0, -9
    while code:
        code = killed_recipe(draw.randrange(20, 300), short, out)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        assert kills < 60
    assert kills > 5
    assert_same_runs(out, done.path)
    assert (out / recipe_report.REPORT).is_file()
    assert os.readlink(out / "final") == os.readlink(done.final)
    assert not [p for p in out.glob("**/.*") if p.name != ".lock" and p.name != ".metadata"]


def test_sigterm_finishes_the_step_and_the_command_goes_on_from_there(short, done, tmp_path, monkeypatch, capsys):
    from grow.training.log.metrics import Log

    record = Log.record

    def in_the_last_stage(self, entry):
        record(self, entry)
        if self.path.parent.name == "05-train" and entry["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    line = ["run", short, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(Log, "record", in_the_last_stage)
        code, out, _ = files.command(monkeypatch, capsys, *line)
    assert code == 130
    assert "stopped by SIGTERM; --resume goes on from there" in out
    assert [e["status"] for e in recipe_json(tmp_path / "out")["stages"]] == [*["done"] * 4, "running"]
    code, out, err = files.command(monkeypatch, capsys, *line, "--resume")
    assert (code, "stage 5 of 5: 05-train (train)" in err, "stage 4" in err) == (0, True, False)
    assert "is the last checkpoint" in out
    assert_same_runs(tmp_path / "out", done.path)


def test_an_interrupted_growth_is_done_again(short, done, tmp_path, monkeypatch, capsys):
    from grow.growth import written_and_verified

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    line = ["run", short, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(written_and_verified, "copy_companions", killed)
        code, _, err = files.command(monkeypatch, capsys, *line)
    assert code == 130
    assert "interrupted: the stage was not finished; --resume goes on with it" in err
    assert not (tmp_path / "out" / "03-widen").exists()
    (tmp_path / "out" / "03-widen").mkdir()  # under its name, and not done
    (tmp_path / "out" / "03-widen" / "config.json").write_text("{}")
    grow.run(short, out=tmp_path / "out", resume=True)
    assert_same_runs(tmp_path / "out", done.path)


def test_a_finished_recipe_has_nothing_left_to_do(done, short, monkeypatch, capsys):
    before = files.snapshot(done.path / "05-train")
    again = grow.run(short, out=done.path, resume=True)
    assert files.snapshot(done.path / "05-train") == before
    assert again.document()["stages"] == [dict(entry) for entry in done.stages]


CHANGED: dict[str, tuple[str, str, str]] = {
    "the name": ('"short"', '"other"', "resume=True: name: is 'other'"),
    "the seed": (
        "[train]",
        "[train]\nseed = 4",
        ": stage 2 (train): seed: is 4, and the run was begun with 0",
    ),
    "a rate": ("lr = 1e-2", "lr = 2e-2", "resume=True: stage 2 (train): lr: is 0.02"),
    "a budget": ("steps = 8", "steps = 9", "resume=True: stage 2 (train): steps: is 9"),
    "another budget": ("steps = 8", "tokens = 99", "resume=True: stage 2 (train): tokens: is 99"),
    "a size": ("hidden = 24", "hidden = 32", "resume=True: stage 1 (init): sizes"),
    "a target": ("ffn = 28", "ffn = 29", "resume=True: stage 3 (widen): to: is {'ffn': 29}"),
    "a kind": ('kind = "widen"\nto = {ffn = 28}', 'kind = "deepen"\nlayers = 3', "stage 3 (deepen)"),
    "fewer stages": ('[[stage]]\nkind = "train"\nsteps = 3\n', "", "resume=True: stages: is '4 in all'"),
    "the baseline": ("[baseline]", "[baseline]\nlr = 1e-3", "resume=True: [baseline]: lr: is 0.001"),
    "no baseline": ("[baseline]", "", "resume=True: [baseline]: is 'absent'"),
    "one stage more": ("[baseline]", STEPS + "[baseline]", "resume=True: stages: is 6, and"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_recipe_is_refused_naming_the_key(place, done, name):
    old, new, said = CHANGED[name]
    assert old in SHORT
    before = files.snapshot(done.path)
    path = written(place, SHORT.replace(old, new), "changed.toml")
    with pytest.raises(BadInput) as error:
        grow.run(path, out=done.path, resume=True)
    assert said in str(error.value) or name == "a kind"
    assert error.value.where.startswith("resume=True: ")
    assert {k: v[2] for k, v in files.snapshot(done.path).items()} == {k: v[2] for k, v in before.items()}


def test_stages_not_yet_begun_may_change_and_so_may_settings_that_change_no_result(place, short, tmp_path, monkeypatch):
    from grow.training.log.metrics import Log

    record = Log.record

    def in_the_first(self, entry):
        record(self, entry)
        if entry["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "record", in_the_first)
        stopped = grow.run(short, out=tmp_path / "out")
    assert stopped.stopped == "SIGTERM"
    changed = SHORT.replace("ffn = 28", "ffn = 31").replace("save_every = 2", "save_every = 3")
    again = grow.run(written(place, changed, "later.toml"), out=tmp_path / "out", resume=True)
    assert grow.inspect(again.final).sizes["ffn"] == 31
    assert (again.path / "recipe.toml").read_bytes() == (place / "later.toml").read_bytes()
    refused_later = SHORT.replace("{ffn = 28}", '"0.5x"')
    with monkeypatch.context() as patch:
        patch.setattr(Log, "record", in_the_first)
        grow.run(short, out=tmp_path / "two")
    with pytest.raises(GrowError, match=re.escape('stage 3 (widen): to = "0.5x"')):
        grow.run(written(place, refused_later, "later.toml"), out=tmp_path / "two", resume=True)


GOES_ON = f"""
name = "goes-on"
[train]
{TRAIN.replace("decay = 1", "decay = 0")}
[[stage]]
kind = "init"
from = "llama"
{SMALL}
[[stage]]
kind = "train"
steps = 3
[[stage]]
kind = "widen"
to = {{ffn = 28}}
state = "carry"
verify = false
[[stage]]
kind = "train"
continues = true
steps = 4
decay = 2
[[stage]]
kind = "train"
continues = true
decay = 2
flops = 1e6
"""


def test_a_schedule_goes_on_through_the_growth_and_so_does_the_text(place, tmp_path, monkeypatch):
    """Steps 4 to 7 of one schedule of 7, whose last two decay; interrupted in there and continued, the same bits."""
    from grow.training.log.metrics import Log

    lasting = GOES_ON[: GOES_ON.rindex("[[stage]]")]
    path = written(place, lasting, "goes-on.toml")
    done = grow.run(path, out=tmp_path / "out")
    lines = curve(done.path / "04-train")
    assert [line["step"] for line in lines] == [3, 4, 5, 6, 7]
    at_most = 1e-2
    assert [line["lr"] / at_most for line in lines[1:]] == pytest.approx([1, 1, 1 - (1 / 3) ** 0.5, 1 - (2 / 3) ** 0.5])
    assert "reading goes on after 12 sequences" in done.stages[3]["notes"]
    assert (done.stages[3]["steps"], done.stages[3]["last_step"]) == (4, 7)
    assert grow.price(path, measured=False).rows[3].forecast.flops == done.stages[3]["flops"]
    record = Log.record

    def in_the_middle(self, entry):
        record(self, entry)
        if entry["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "record", in_the_middle)
        assert grow.run(path, out=tmp_path / "cut").stopped == "SIGTERM"
    assert grow.run(path, out=tmp_path / "cut", resume=True).final is not None
    assert plain(tmp_path / "cut" / "04-train") == plain(done.path / "04-train")
    with pytest.raises(BadInput, match=re.escape("stage 5 (train): continues = true: a change of")):
        grow.price(written(place, GOES_ON, "decayed.toml"))  # the decay is over: no schedule goes on from there
