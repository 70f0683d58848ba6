"""What people and pipelines may rely on: names, options, help, one JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import tiny

import grow
from grow.cli.commands import cli
from grow.notation.operators import OPERATORS

# Growing either table is a decision.
PUBLIC = {
    "BadInput", "Comparison", "Different", "GrowError", "Growth", "Inspection", "Refused",
    "compare", "deepen", "derive", "families", "inspect", "integrations", "new_entries", "plan", "price", "plot",
    "rates", "record", "run", "train", "upcycle", "verify", "verify_against", "widen",
}  # fmt: skip
EXACT = "--allow-lossy --assume-harmless --dtype --from --json --method --revision --seed --split"
LAYERS = "--fill --place"
GROWTH = f"{EXACT} {LAYERS} --deepen --new-tokens --operator --to"
WRITING = "--dry-run --max-shard-size --no-verify --out --overwrite --state --trust-checkpoint --world"
COMMANDS = {
    "widen": f"{GROWTH} {WRITING} --family",
    "deepen": f"{EXACT} {LAYERS} {WRITING} --family --layers",
    "upcycle": f"{GROWTH} {WRITING} --every --experts --granularity --route --top-k",
    "plan": f"{GROWTH} --family --try --world",
    "compare": "--deepen --from --json --methods --out --rate --report --revision --seed --text --to --train-steps",
    "verify": "SRC GROWN --against --family --json --overwrite --record --recover --report --revision --rung --samples "
    "--seed --tasks",
    "train": "--accumulate --batch --checkpointing --clip --compile --continue-schedule --data --decay --decay-shape "
    "--documents --dtype --eval-every --flops --freeze-old --from --json --keep --length --log-every --lr --optimizer "
    "--out --plateau --rates --resume --revision --rewarm --save-every --schedule --seed --skip --source "
    "--source-tokens --state --steps --tensorboard --tokens --tracker --trust-checkpoint --warmup --weight-decay "
    "--world",
    "run": "RECIPE --dry-run --json --list --out --resume --trust-checkpoint --world",
    "plot": "RUN... --baseline --json --out --overwrite",
    "data prepare": "INPUT... --field --json --no-end --out --overwrite --revision --seed --separator --split "
    "--tokenizer --validation",
    "inspect": "SRC --assume-harmless --json --revision",
    "families": "NAME --derive --json --markdown --out",
    "completion": "SHELL",
}
ALIASES = {
    "--lr": ["--learning-rate"],
    "--batch": ["--batch-size"],
    "--warmup": ["--warmup-steps"],
    "--clip": ["--max-grad-norm"],
    "--checkpointing": ["--gradient-checkpointing"],
    "--out": ["-o"],
}
"""Names that other trainers have for the same."""
DEEPENED = "1 inserted (copies of their neighbours, output 0) at 1"
WITH_JSON = sorted(set(COMMANDS) - {"completion"})  # its output is a script


# The frozen sets


def test_public_names_are_frozen():
    assert set(grow.__all__) == PUBLIC
    assert all(hasattr(grow, name) for name in PUBLIC)


def every_command() -> dict[str, click.Command]:
    """Name -> command, those of groups with both words."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": c for inner, c in command.commands.items()}
        else:
            found[name] = command
    return found


def test_commands_and_their_options_are_frozen():
    found = {}
    for name, command in every_command().items():
        words = [p.opts[0] if isinstance(p, click.Option) else p.human_readable_name for p in command.params]
        assert all(p.opts[1:] in ([], ALIASES.get(p.opts[0])) and not p.secondary_opts for p in command.params), name
        found[name] = sorted(words)
    assert found == {name: sorted(options.split()) for name, options in COMMANDS.items()}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option_and_fits_the_terminal(grow_, command, flag):
    code, out, err = grow_(*command.split(), flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: grow {command}")
    assert all(word in out for word in COMMANDS[command].replace("SHELL", "{bash|zsh|fish}").split())
    assert max(map(len, out.splitlines())) <= 110


def test_help_lists_every_command_and_version_is_the_packages(grow_):
    code, out, _ = grow_("--help")
    assert code == 0
    assert all(f"\n  {name.split()[0]} " in out for name in COMMANDS)
    assert grow_("--version")[:2] == (0, f"grow, version {grow.__version__}\n")


def test_every_option_has_help():
    without = [
        (name, p.name)
        for name, command in every_command().items()
        for p in command.params
        if isinstance(p, click.Option) and not p.help
    ]
    assert without == []


# One JSON document


def lines(pair: tuple[Path, Path], out: Path) -> dict[str, list[list[Any]]]:
    source, grown = pair
    growth = ["--from", source, "--to", "2x"]
    return {
        "widen": [
            ["widen", *growth, "--out", out, "--no-verify"],
            ["widen", *growth, "--dry-run"],
        ],
        "deepen": [["deepen", "--from", source, "--layers", "3", "--dry-run"]],
        "upcycle": [["upcycle", "--from", source, "--experts", "4", "--dry-run"]],
        "plan": [["plan", *growth], ["plan", "--from", source, "--to", "hidden_size=36"]],
        "compare": [["compare", *growth, "--methods", "lemon,llama-pro"]],
        "verify": [["verify", source, grown, "--rung", "certificate"]],
        "train": [["train", "--from", "small", "--out", out, "--steps", 1, "--batch", 1, "--length", 16]],
        "run": [["run", "--list"]],
        "plot": [["plot", source.parent / "run", "--out", out.with_suffix(".svg"), "--overwrite"]],
        "data prepare": [["data", "prepare", "sotu-heldout", "--tokenizer", "small", "--out", out]],
        "inspect": [["inspect", source], ["inspect", grown]],
        "families": [["families"], ["families", "gpt2"]],
    }


@pytest.mark.parametrize("command", WITH_JSON)
def test_json_is_one_document_on_stdout_and_nothing_else(grow_, pair, tmp_path, command):
    for line in lines(pair, tmp_path / "out")[command]:
        code, out, err = grow_(*line, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out, parse_constant=pytest.fail)["schema"] == (2 if command == "verify" else 1)


@pytest.mark.parametrize("command", WITH_JSON)
def test_without_json_the_same_is_said_in_words(grow_, pair, tmp_path, command):
    for line in lines(pair, tmp_path / "out")[command]:
        code, out, err = grow_(*line)
        assert code == 0
        assert (err == "") is (command != "train")  # a run says how it is going
        assert out
        assert not out.lstrip().startswith("{")
        assert "\x1b" not in out + err  # no colours or cursor movements in a pipe


def test_the_parts_of_the_documents(grow_, pair, tmp_path):
    documents = {
        name: json.loads(grow_(*lines(pair, tmp_path / f"out-{name}")[name][0], "--json")[1]) for name in WITH_JSON
    }
    planned = {
        "schema", "family", "architecture", "storage", "rounded_because", "method", "exact", "lossy_because", "split",
        "seed", "axes", "tensors", "couplings", "config", "cost", "notes",
    }  # fmt: skip
    assert {name: set(document) for name, document in documents.items()} == {
        "widen": {"schema", "path", "status", "damage", "seconds", "plan", "verification", "notes"},
        "deepen": planned,
        "upcycle": planned,
        "plan": planned,
        "verify": {
            "schema", "source", "grown", "verdict", "claim", "trainable", "rungs", "first_difference", "growth",
            "config", "environment", "notes",
        },
        "compare": {
            "schema", "source", "target", "sizes", "text", "training", "source_loss", "methods", "baselines",
            "environment",
        },
        "inspect": {
            "schema", "path", "family", "architecture", "sizes", "parameters", "tensors", "targets", "notes",
        },
        "families": {"schema", "families"},
        "train": {
            "schema", "path", "checkpoint", "step", "tokens", "loss", "val_loss", "seconds", "stopped", "settings",
            "notes",
        },
        "run": {"schema", "recipes"},
        "plot": {"schema", "out", "baseline", "compared", "runs", "savings", "notes"},
        "data prepare": {
            "schema", "path", "dtype", "tokenizer", "splits", "sources", "seed", "validation", "grow",
        },
    }  # fmt: skip
    assert documents["widen"]["plan"] == documents["plan"]
    assert documents["deepen"]["axes"]["layers"] == {"old": 2, "new": 3, "how": DEEPENED}
    assert documents["widen"]["status"] == "unverified"
    assert documents["widen"]["verification"] is None
    assert [f["model_type"] for f in documents["families"]["families"]] == list(grow.families)


def test_the_plan_is_what_the_record_says_was_done(grow_, pair):
    source, grown = pair
    document = json.loads(grow_("plan", "--from", source, "--to", "2x", "--json")[1])
    record = tiny.read_json(grown / "grow.json")["plan"]
    assert {a: x["old"] for a, x in document["axes"].items()} == record["sizes"]
    assert {a: x["new"] for a, x in document["axes"].items()} == record["new_sizes"]
    assert {a: document["axes"][a]["how"] for a in record["operators"]} == record["operators"]
    assert {name: x["new"] for name, x in document["config"].items()} == record["config_changes"]
    assert (document["storage"], document["split"], document["seed"]) == (
        record["storage"], record["split"], record["seed"],
    )  # fmt: skip


def test_an_error_with_json_is_a_document_too(grow_, pair):
    for line in (["plan", "--from", pair[0], "--to", "3.7x"], ["inspect", "nowhere"], ["families", "lama"]):
        code, out, err = grow_(*line, "--json")
        assert code == 2
        assert err.startswith("error: ")
        document = json.loads(out)
        assert document["exit_code"] == 2
        assert set(document["error"]) == {"where", "what", "why", "fix"}
        assert all(document["error"].values())
    code, out, err = grow_("plan", "--jsn", "--json")
    assert code == 2
    assert json.loads(out)["error"]["what"] == "No such option '--jsn'. Did you mean '--json'?"
    assert err.startswith("Usage: ")


# Nothing is written


@pytest.mark.parametrize("command", ["plan", "widen", "deepen", "upcycle", "inspect", "verify", "families"])
def test_what_only_looks_writes_nothing(grow_, pair, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = tiny.snapshot(pair[0].parent)
    line = next(x for x in lines(pair, tmp_path / "out")[command] if command != "widen" or "--dry-run" in x)
    assert grow_(*line)[0] == 0
    assert list(tmp_path.iterdir()) == []
    assert tiny.snapshot(pair[0].parent) == before


def test_a_dry_run_shows_the_plan_that_plan_shows(grow_, pair):
    growth = ["--from", pair[0], "--to", "hidden_size=36", "--seed", 7]
    assert grow_("widen", *growth, "--dry-run") == grow_("plan", *growth)


def test_the_result_has_a_name_when_nobody_gives_one(grow_, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = grow_("widen", "--from", pair[0], "--to", "hidden_size=48,heads=8", "--no-verify")
    assert code == 0
    assert out.startswith("source-hidden_size=48,heads=8: ")
    assert [p.name for p in tmp_path.iterdir()] == ["source-hidden_size=48,heads=8"]


@pytest.mark.parametrize(
    ("to", "words"), [("2x", {"copies", "unread"}), ("1.5x", {"silent", "unread"}), ("layers=7", set())]
)
def test_the_words_under_how_are_explained_where_they_stand(to, words, grow_):
    code, out, _ = grow_("plan", "--from", "small", "--to", to)
    assert code == 0
    assert {word for word in OPERATORS if f"\n  {word}: {OPERATORS[word].meaning}\n" in out} == words
