"""A recipe is checked as a whole, runs as it was priced, and goes on from wherever it was stopped to the same bits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny as files
from models import seeded
from safetensors.torch import load_file
from test_train import curve, forked, refused, same, tokens

import grow
from grow.costs.spent_so_far import Spent
from grow.errors import BadInput, GrowError
from grow.planning.record import read_record
from grow.plotting.curves import read_curve
from grow.staged import keys, pricing, recipe_report
from grow.staged.forecast import forecast
from grow.staged.recipe import LARGEST, bundled, read_recipe
from grow.staged.recipe_folder import RECIPE, Book

ROOT = Path(grow.__file__).parents[1]
SMALL = "sizes = {hidden = 24, heads = 3, kv_heads = 3, head_dim = 8, ffn = 20, layers = 2}"
TRAIN = "length = 16\nbatch = 4\nlr = 1e-2\neval_every = 2\nsave_every = 2\nwarmup = 1\ndecay = 1\n"
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
def place(tiny, tmp_path_factory) -> Path:
    """A folder with a checkpoint, token files and recipes beside them."""
    recipe_folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(tiny("llama-tied"), recipe_folder / "llama")
    tokens(recipe_folder / "tokens")
    return recipe_folder


def written(place: Path, text: str, name: str = "recipe.toml") -> Path:
    """The recipe in a file, with the place's token files."""
    (place / name).write_text('data = "tokens"\n' + text)
    return place / name


@pytest.fixture(scope="module")
def whole(place) -> Any:
    return written(place, WHOLE, "whole.toml")


@pytest.fixture(scope="module")
def ran(whole, tmp_path_factory) -> Any:
    """Every kind of stage but load and upcycle, nothing interrupted."""
    return grow.run(whole, out=tmp_path_factory.mktemp("ran") / "out")


def recipe_json(out: Path) -> dict[str, Any]:
    return json.loads((out / RECIPE).read_text())


def runs(out: Path) -> list[Path]:
    """Every run of grow train in a recipe's folder."""
    return sorted(path.parent for path in out.glob("*/metrics.jsonl"))


def plain(path: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in curve(path)]


def assert_same_runs(a: Path, b: Path) -> None:
    """Every line of every run, and the last weights of every stage, bit for bit."""
    assert [p.name for p in runs(a)] == [p.name for p in runs(b)]
    assert all(plain(x) == plain(y) for x, y in zip(runs(a), runs(b)))
    first, second = recipe_json(a), recipe_json(b)
    for x, y in zip([*first["stages"], first["baseline"]], [*second["stages"], second["baseline"]]):
        assert (x["name"], x["status"], x["checkpoint"]) == (y["name"], "done", y["checkpoint"])
        assert {k: v for k, v in x["files"].items() if k != "grow.json"} == {
            k: v
            for k, v in y["files"].items()
            if k != "grow.json"  # which names the folder of the source
        }


# What a recipe may say

ONE = '[[stage]]\nkind = "init"\nfrom = "llama"\n'
STEPS = '[[stage]]\nkind = "train"\nsteps = 2\n'
WIDE = '[[stage]]\nkind = "widen"\nto = "2x"\n'
NAME = 'name = "x"\n'
BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "name: is missing"),
    "no stage": (NAME, "[[stage]]: wanted one or more"),
    "stages that are a table": (NAME + '[stage]\nkind = "init"\n', "[[stage]]: wanted one or more"),
    "no TOML": ("name = ", "cannot be read as TOML"),
    "a key twice": ('name = "x"\nname = "y"\n', "cannot be read as TOML"),
    "an unknown key": (NAME + "sed = 1\n" + ONE, "sed: no such key; did you mean 'seed'?"),
    "an unknown kind": (NAME + '[[stage]]\nkind = "wident"\n', "did you mean 'widen'?"),
    "a kind that is a number": (NAME + "[[stage]]\nkind = 7\n", "stage 1: kind: 7: one of init, load"),
    "a stage without a kind": (NAME + "[[stage]]\n", "stage 1: kind: None"),
    "a seed of words": (NAME + 'seed = "x"\n' + ONE, "seed: is 'x': wanted a whole number"),
    "a seed that is negative": (NAME + "seed = -1\n" + ONE, "seed: is -1: wanted a whole number of 0"),
    "a rate misspelt": (NAME + "[train]\nlrr = 1\n" + ONE, "[train]: lrr: no such key; did you mean 'lr'?"),
    "a rate of zero": (NAME + "[train]\nlr = 0.0\n" + ONE, "[train]: lr: is 0.0: "),
    "a rate that is none": (NAME + "[train]\nlr = nan\n" + ONE, "[train]: lr: is nan: "),
    "a batch of half": (NAME + "[train]\nbatch = 0.5\n" + ONE, "[train]: batch: is 0.5: a whole number"),
    "a schedule misspelt": (NAME + '[train]\nschedule = "cosin"\n' + ONE, "did you mean 'cosine'?"),
    "a flag of words": (NAME + '[train]\ncompile = "yes"\n' + ONE, "compile: is 'yes': wanted true or false"),
    "a budget for all": (NAME + "[train]\nsteps = 3\n" + ONE, "[train]: steps: no such key"),
    "no budget": (NAME + ONE + '[[stage]]\nkind = "train"\n', "stage 2 (train): has no budget"),
    "two budgets": (NAME + ONE + STEPS + "tokens = 9\n", "tokens and steps are two budgets"),
    "a budget of zero": (NAME + ONE + '[[stage]]\nkind = "train"\ntokens = 0\n', "tokens: is 0: wanted a whole"),
    "a plateau of words": (NAME + ONE + STEPS + 'plateau = "soon"\n', "plateau: is 'soon': wanted two numbers"),
    "a plateau of no steps": (NAME + ONE + STEPS + 'plateau = "0:0.1"\n', "plateau: is '0:0.1': STEPS:NATS"),
    "a re-warming of nothing": (NAME + ONE + STEPS + 'rewarm = "1.2:9"\n', "rewarm: nothing has grown before it"),
    "freezing nothing": (NAME + ONE + STEPS + "freeze_old = true\n", "freeze_old: nothing has grown before it"),
    "going on from nothing": (NAME + ONE + STEPS + "continues = true\n", "continues: no train stage comes before"),
    "going on from what is dropped": (
        NAME + ONE + STEPS + WIDE + 'state = "drop"\n' + STEPS + "continues = true\n",
        "stage 4 (train): continues: the state whose schedule would go on is dropped",
    ),
    "a growth without a target": (NAME + ONE + '[[stage]]\nkind = "widen"\n', "stage 2 (widen): to: is missing"),
    "a target of half": (NAME + ONE + '[[stage]]\nkind = "widen"\nto = {ffn = 2.5}\n', "ffn: wanted a whole number"),
    "no layers": (NAME + ONE + '[[stage]]\nkind = "deepen"\nlayers = 0\n', "layers: is 0: wanted a whole number"),
    "a place that is none": (NAME + ONE + '[[stage]]\nkind = "deepen"\nlayers = 4\nplace = [true]\n', "place: is"),
    "a method misspelt": (NAME + ONE + WIDE + 'method = "lemmon"\n', "did you mean 'lemon'?"),
    "an operator of numbers": (NAME + ONE + WIDE + "operators = {ffn = 1}\n", "wanted a table of texts"),
    "a rung misspelt": (NAME + ONE + WIDE + '[[stage]]\nkind = "verify"\nrungs = ["certificat"]\n', "is no rung"),
    "a growth first": (NAME + WIDE, "stage 1 (widen): the first stage is init or load"),
    "a load later": (NAME + ONE + '[[stage]]\nkind = "load"\nfrom = "x"\n', "stage 2 (load): it can only come first"),
    "verifying nothing": (NAME + ONE + STEPS + '[[stage]]\nkind = "verify"\n', "it compares a growth with its source"),
    "one name for two": (NAME + ONE + 'name = "a"\n' + STEPS + 'name = "a"\n', "two are called 'a'"),
    "a name that leaves": (NAME + ONE + 'name = "../x"\n', "'../x' is no name for a stage's folder"),
    "a name that is taken": (NAME + ONE + 'name = "final"\n', "'final' is no name"),
    "a name of tokens": (NAME + ONE + 'name = "data-sotu"\n', "'data-sotu' is no name"),
    "a baseline of nothing": (NAME + ONE + "[baseline]\n", "[baseline]: it gets the FLOPs of the train stages"),
    "a baseline that re-warms": (NAME + ONE + STEPS + '[baseline]\nrewarm = "1:2"\n', "[baseline]: rewarm: no such"),
    "data of numbers": ("name = 'x'\n" + ONE + STEPS + "data = [1]\n", "data: is [1]: wanted a text or a list"),
    "nesting without end": ("x = " + "[" * 500_000, "cannot be read as TOML"),
    "keys without end": ("a" + ".a" * 3000 + " = 1", "a: no such key"),
    "a number without end": (NAME + "seed = " + "9" * 6000, "cannot be read as TOML"),
    "a hexadecimal number without end": (NAME + "seed = 0x" + "f" * 6000 + "\n" + ONE, "seed: is "),
    "a rate without end": (NAME + "[train]\nlr = 0x" + "f" * 6000 + "\n" + ONE, "lr: is "),
    "too much": ("#" * (LARGEST + 1), "at most 1,048,576 are read"),
    "no UTF-8": ("\udcff", "cannot be read as TOML"),
}


def faulty(path: Path, kind: type[GrowError] = BadInput, **options: Any) -> str:
    """What is said of a recipe; nothing is written."""
    out = path.parent / "never"
    with pytest.raises(kind) as error:
        grow.run(path, out=out, **options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    assert not out.exists()
    return str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_a_faulty_recipe_is_one_message_and_nothing_runs(place, tmp_path, name):
    text, said = BAD[name]
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = faulty(path)
    assert said in found
    assert len(found) < 3000


def test_all_faults_are_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(NAME + "sed = 1\n[train]\nlr = -1\n" + WIDE + '[[stage]]\nkind = "train"\nbatch = 0\n')
    found = faulty(path)
    parts = (
        "sed: no such key",
        "[train]: lr",
        "is -1: ",
        "stage 1 (widen)",
        "stage 2 (train): batch",
        "is 0: ",
        "budget",
    )
    assert all(part in found for part in parts)


UNFIT: dict[str, tuple[str, str]] = {
    "a source that is nowhere": ('[[stage]]\nkind = "load"\nfrom = "nowhere"\n', "stage 1 (load): nowhere"),
    "a size that is none": (ONE + "sizes = {hiden = 3}\n", "did you mean 'hidden'?"),
    "a size name that is none": (ONE + 'sizes = "bse"\n', "stage 1 (init): sizes: bse: no such size"),
    "heads that kv heads do not divide": (ONE + "sizes = {heads = 5, kv_heads = 2}\n", "stage 1 (init)"),
    "a head that RoPE cannot turn": (ONE + "sizes = {head_dim = 7}\n", "stage 1 (init): sizes: are no model"),
    "a growth that is refused": (ONE + WIDE.replace("2x", "0.5x"), 'stage 2 (widen): to = "0.5x"'),
    "a growth that loses": (ONE + WIDE + 'method = "bert2bert-aki"\n', 'stage 2 (widen): method = "bert2bert-aki"'),
    "the second growth": (ONE + WIDE + WIDE.replace('"2x"', "{ffn = 30}"), "stage 3 (widen): to = {"),
    "more tokens than positions": (ONE + STEPS + "length = 65\n", "stage 2 (train): --length 65"),
    "warm-up longer than the stage": (ONE + STEPS + "warmup = 9\n", "stage 2 (train): --warmup: 9 steps of warm-up"),
    "parts that do not divide": (ONE + STEPS + "batch = 3\naccumulate = 2\n", "stage 2 (train): --accumulate 2"),
    "data that is nowhere": (ONE + STEPS + 'data = "nothing"\n', "stage 2 (train): nothing: does not exist"),
    "blocks longer than the text": (ONE + STEPS + 'data = "little"\nlength = 16\n', "has 5 tokens"),
    "a larger vocabulary": (ONE + STEPS + 'data = "words"\n', "was made with a tokenizer of 42 tokens"),
    "another tokenizer": (ONE.replace("llama", "small") + STEPS + 'data = "tokens"\n', "the tokenizer of none"),
    "rates of new experts": (
        ONE + '[[stage]]\nkind = "upcycle"\nexperts = 4\n' + STEPS + 'rates = "mup"\n',
        "stage 3 (train): rates: the growth before it makes experts",
    ),
    "re-warming what was loaded": (
        ONE.replace("init", "load") + STEPS + 'rewarm = "1.2:2"\n', "stage 2 (train): rewarm: nothing has grown",
    ),
    "a baseline that cannot": (ONE + STEPS + "[baseline]\nlength = 70\n", "[baseline]: --length 70"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_that_would_be_refused_is_refused_before_anything_runs(place, name):
    text, said = UNFIT[name]
    for recipe_folder, options in (("little", {"count": 5}), ("words", {"vocab": 42})):
        if not (place / recipe_folder).exists():
            tokens(place / recipe_folder, **options)
    path = written(place, NAME + text, "unfit.toml")
    found = faulty(path, GrowError)
    assert said in found
    with pytest.raises(GrowError, match=re.escape(str(path))):
        grow.price(path, measured=False)


def test_train_keys_are_the_settings_and_growth_keys_the_commands():
    from dataclasses import fields
    from inspect import signature

    from grow.training.settings.run_settings import Settings

    settings = {f.name for f in fields(Settings)} - set(keys.ELSEWHERE)
    assert set(keys.KINDS["train"]) == settings | {"seed", "data", "tokens", "flops", "steps", "continues", "state"}
    assert all(keys.KINDS["train"][name].default == getattr(Settings(), name) for name in settings - {"lr"})
    assert keys.KINDS["train"]["lr"].default is None  # it is the peak that the weights were trained with
    given = set(signature(grow.widen).parameters) - set(keys.RUN.split())
    assert set(keys.KINDS["widen"]) == given
    assert set(keys.KINDS["upcycle"]) == given | {"experts", "top_k", "granularity", "every", "route"}
    for kind in keys.GROWTHS:
        for name, key in keys.KINDS[kind].items():
            assert key.needed or not key.check(key.default) or key.default in (None, ()), (kind, name)


def test_choices_are_those_of_grow_train():
    from grow.training.begin.from_state import CHOICES

    assert keys.CARRIED == CHOICES


# Priced


def test_a_dry_run_writes_nothing_and_its_numbers_are_what_happens(whole, ran, tmp_path, monkeypatch):
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
    assert (row.seconds, row.note) == (None, "time not measured: 0.0 GB are free")
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
    assert read_curve(ran.path).before == Spent()  # random weights have cost nothing, which is known
    assert [e["kind"] for e in ran.stages] == ["init", "train", "widen", "verify", "train", "deepen", "train"]
    assert os.readlink(ran.final) == ran.stages[-1]["checkpoint"]
    assert grow.inspect(ran.final).sizes["layers"] == 3
    assert ran.stages[3]["verdict"] == "certified"
    told = ran.stages[4]["notes"]
    assert any(note.startswith("the validation loss before the first step is the source's") for note in told)
    assert "reading goes on behind 20 sequences" in told
    for early, late in ((1, 4), (4, 6)):
        assert ran.stages[late]["loss_before"] == pytest.approx(ran.stages[early]["loss_after"], abs=1e-5)


def test_the_report_s_numbers_are_the_metrics(ran):
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


def test_the_baseline_is_the_last_model_and_costs_as_much(ran):
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


def test_a_loaded_model_becomes_one_with_experts(place, tmp_path):
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


# Interrupted

SHORT = f"""
name = "short"
[train]
{TRAIN}
[[stage]]
kind = "init"
from = "llama"
{SMALL}
[[stage]]
kind = "train"
steps = 8
plateau = "2:9"
[[stage]]
kind = "widen"
to = {{ffn = 28}}
verify = false
[[stage]]
kind = "verify"
rungs = ["certificate"]
[[stage]]
kind = "train"
steps = 3
[baseline]
"""


@pytest.fixture(scope="module")
def short(place) -> Path:
    return written(place, SHORT, "short.toml")


@pytest.fixture(scope="module")
def done(short, tmp_path_factory) -> Any:
    return grow.run(short, out=tmp_path_factory.mktemp("done") / "out")


def killed_at(event: int, recipe: Path, out: Path) -> int:
    """A recipe, begun or continued, that SIGKILLs itself at its n-th event: whatever is written, synced, renamed,
    removed, recorded or stepped."""
    left = event

    def count(function: Callable) -> Callable:
        def counted(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    def work() -> None:
        from grow.staged import recipe_folder, stages
        from grow.training.log import metrics
        from grow.training.saved import checkpoints
        from grow.training.step import loop

        for owner, names in (
            (checkpoints, ("save_state", "write_stock", "_write_documents", "_sync", "prune")),
            (recipe_folder, ("write_json", "_sync")),
            (stages, ("write_json", "random_checkpoint", "hashes")),
            (Path, ("rename", "replace", "mkdir", "write_text", "write_bytes", "symlink_to")),
            (shutil, ("rmtree",)),
            (os, ("pwrite", "fsync")),
            (metrics.Log, ("record", "sync")),
            (loop, ("set_rate", "gradient_norm")),
        ):
            for name in names:
                setattr(owner, name, count(getattr(owner, name)))
        grow.run(recipe, out=out, resume=out.is_dir())

    return forked(work)


def test_killed_at_any_moment_a_recipe_goes_on_as_if_it_had_not_been(short, done, tmp_path):
    out = tmp_path / "out"
    draw, kills, code = seeded("recipe"), 0, -9
    while code:
        code = killed_at(draw.randrange(20, 150), short, out)
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


def test_a_growth_that_is_interrupted_is_no_stage(short, done, tmp_path, monkeypatch, capsys):
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
    "the name": ('"short"', '"other"', "--resume: name: is 'other'"),
    "the seed": ("[train]", "[train]\nseed = 4", "--resume: stage 2 (train): seed: is 4, and the run was begun with 0"),
    "a rate": ("lr = 1e-2", "lr = 2e-2", "--resume: stage 2 (train): lr: is 0.02"),
    "a budget": ("steps = 8", "steps = 9", "--resume: stage 2 (train): steps: is 9"),
    "another budget": ("steps = 8", "tokens = 99", "--resume: stage 2 (train): tokens: is 99"),
    "a size": ("hidden = 24", "hidden = 32", "--resume: stage 1 (init): sizes"),
    "a target": ("ffn = 28", "ffn = 29", "--resume: stage 3 (widen): to: is {'ffn': 29}"),
    "a kind": ('kind = "widen"\nto = {ffn = 28}', 'kind = "deepen"\nlayers = 3', "stage 3 (deepen)"),
    "fewer stages": ('[[stage]]\nkind = "train"\nsteps = 3\n', "", "--resume: stages: is '4 in all'"),
    "the baseline": ("[baseline]", "[baseline]\nlr = 1e-3", "--resume: [baseline]: lr: is 0.001"),
    "no baseline": ("[baseline]", "", "--resume: [baseline]: is 'absent'"),
    "one stage more": ("[baseline]", STEPS + "[baseline]", "--resume: stages: is 6, and"),
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
    assert error.value.where.startswith("--resume: ")
    assert {k: v[2] for k, v in files.snapshot(done.path).items()} == {k: v[2] for k, v in before.items()}


def test_stages_that_were_not_begun_may_change_and_so_may_what_changes_nothing(place, short, tmp_path, monkeypatch):
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
    assert "reading goes on behind 12 sequences" in done.stages[3]["notes"]
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
    with pytest.raises(BadInput, match=re.escape("stage 5 (train): --continue-schedule: with another")):
        grow.price(written(place, GOES_ON, "decayed.toml"))  # the decay is over: no schedule goes on from there


# Folders


def test_bad_folders_are_refused_and_left_alone(short, done, tmp_path):
    import fcntl

    def said(**options: Any) -> str:
        with pytest.raises(BadInput) as error:
            grow.run(short, **options)
        return str(error.value)

    assert "exists and is not empty" in said(out=done.path)
    assert "--resume continues it" in said(out=done.path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in said(out=tmp_path / "file")
    assert "does not exist" in said(out=tmp_path / "nowhere" / "out")
    assert "does not exist" in said(out=tmp_path / "none", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    assert "holds no run of a recipe" in said(out=tmp_path / "other", resume=True)
    with open(done.path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is writing it" in said(out=done.path, resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]


NO_RECORD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another schema": lambda d: d.update(schema=9),
    "no stages": lambda d: d.pop("stages"),
    "a stage that is none": lambda d: d["stages"].append(3),
    "a folder outside": lambda d: d["stages"][0].update(folder="../x"),
    "no status": lambda d: d["stages"][0].pop("status"),
}


@pytest.mark.parametrize("name", NO_RECORD)
def test_a_record_that_is_none_is_refused(short, done, tmp_path, name):
    path = shutil.copytree(done.path, tmp_path / "out", symlinks=True)
    files.edit_json(path / RECIPE, NO_RECORD[name])
    with pytest.raises(BadInput, match="is no record of a recipe's run"):
        grow.run(short, out=path, resume=True)


def test_a_checkpoint_that_was_touched_is_not_gone_on_from(short, done, tmp_path):
    path = shutil.copytree(done.path, tmp_path / "out", symlinks=True)

    def undone(document: dict[str, Any]) -> None:
        document["stages"][4]["status"] = document["baseline"]["status"] = "waiting"

    files.edit_json(path / RECIPE, undone)
    file = path / "03-widen" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(BadInput, match="of another sha256"):
        grow.run(short, out=path, resume=True)
    file.unlink()
    with pytest.raises(BadInput, match="missing"):
        grow.run(short, out=path, resume=True)


def test_a_disk_that_is_too_small_is_said_before_anything_runs(short, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match="the stages need"):
        grow.run(short, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_leaves_what_was_done_and_the_run_goes_on(short, done, tmp_path, monkeypatch):
    import errno

    from grow.training.saved import checkpoints

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_state", full)
        with pytest.raises(BadInput, match=r"stage 2 .train.: .*step-00000002") as error:
            grow.run(short, out=tmp_path / "out")
    assert "No space left on device" in str(error.value)
    grow.run(short, out=tmp_path / "out", resume=True)
    assert_same_runs(tmp_path / "out", done.path)


def test_a_growth_that_is_not_what_it_was_stops_the_recipe(short, tmp_path, monkeypatch):
    from grow.staged import stages

    growth = stages.Conductor.growth

    def broken(self, stage, entry, before):
        found = growth(self, stage, entry, before)
        recipe_folder = self.out / entry["folder"]
        weights = load_file(recipe_folder / "model.safetensors")
        weights["model.norm.weight"] *= 1.5
        from safetensors.torch import save_file

        save_file(weights, recipe_folder / "model.safetensors", metadata={"format": "pt"})
        return found

    monkeypatch.setattr(stages.Conductor, "growth", broken)
    with pytest.raises(grow.Different) as error:
        grow.run(short, out=tmp_path / "out")
    assert error.value.exit_code == 1
    assert "stage 4 (verify)" in error.value.where
    assert recipe_json(tmp_path / "out")["stages"][3]["status"] == "running"


# Budgets of grow train


def test_a_plateau_ends_a_stage_and_begins_its_decay(done):
    """The loss falls by less than 9 nats in any 2 steps: behind step 4 the one step of decay begins."""
    lines = curve(done.path / "02-train")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert "a plateau behind step 4: the last one is 5" in done.stages[1]["notes"]
    assert lines[-1]["lr"] < lines[-2]["lr"]


def test_flops_are_a_budget_of_grow_train(place, tmp_path):
    options: dict[str, Any] = dict(batch=4, length=16, warmup=0, decay=0, eval_every=9, save_every=9)
    one = grow.train(place / "llama", place / "tokens", out=tmp_path / "one", steps=3, **options)
    spent = curve(one.path)[-1]["flops"]
    two = grow.train(place / "llama", place / "tokens", out=tmp_path / "two", flops=spent, **options)
    assert curve(one.path)[:-1] == curve(two.path)[:-1]
    assert grow.train(place / "llama", place / "tokens", out=tmp_path / "three", flops=1.1 * spent, **options).step == 4
    base = dict(src=place / "llama", data=place / "tokens", **options)
    assert "--flops: given with --steps" in refused(out=tmp_path / "x", flops=1e9, steps=3, **base)
    assert "--flops: given with --tokens" in refused(out=tmp_path / "x", flops=1e9, tokens=3, **base)
    for bad in (0, -1.0, float("nan"), float("inf"), "many"):
        assert "cannot be" in refused(out=tmp_path / "x", flops=bad, **base)


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
def test_a_plateau_is_a_function_of_the_losses(losses, end):
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
    assert "--resume: plateau" in refused(out=tmp_path / "whole", resume=True, plateau=(4, 5.0))
    assert "--resume: steps" in refused(out=tmp_path / "whole", resume=True, steps=20)


# Several processes and the command line


def test_two_processes_run_the_recipe_that_one_runs(place, tmp_path):
    path = written(
        place, SHORT.replace("[baseline]", "").replace('steps = 8\nplateau = "2:9"', "steps = 3"), "two.toml"
    )
    done = grow.run(path, out=tmp_path / "one")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "grow", "run"]
    line += [str(path), "--out", str(tmp_path / "two"), "--world", "2"]
    found = subprocess.run(line, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 0, found.stderr
    assert [e["status"] for e in recipe_json(tmp_path / "two")["stages"]] == ["done"] * 5
    for a, b in zip(runs(done.path), runs(tmp_path / "two")):
        for x, y in zip(plain(a), plain(b)):
            assert x.keys() == y.keys()
            # sums of float32 in another order; the second run begins with weights that Adam has divided by √v
            assert max(abs(x[k] - y[k]) / max(1.0, abs(x[k])) for k in x) < 1e-4


def test_the_commands_say_what_they_do(whole, done, short, monkeypatch, capsys, tmp_path):
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
def test_bundled_recipes_are_recipes_and_say_what_they_are(name):
    found = read_recipe(name)
    assert found.path.parent.name == "recipes"
    text = found.content.decode()
    assert text.startswith("# ")
    assert f"grow run {name}" in text
    for word in ("does", "costs", "gave"):
        assert re.search(rf"^# {word} ", text, re.M), word
    assert (ROOT / "recipes" / found.path.name).read_bytes() == found.content


def test_the_recipe_of_the_readme_is_one(tmp_path):
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
