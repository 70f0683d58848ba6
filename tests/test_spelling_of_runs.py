"""Errors of training, comparisons, plots and recipes name an option as the caller wrote it, and in no other spelling.

The options are read off the public signatures, the commands and the tables of keys: a new one is tested at once.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import tiny
from training import tokens

import grow
import grow.data
import grow.integrations
from grow.cli.commands import cli
from grow.errors import GrowError
from grow.spelling import COMMAND_LINE, Pair, RecipeKeys, command, left_out, option, spelled
from grow.staged import keys
from grow.training.settings.run_settings import Settings


class Odd:
    """A value that no option can have."""

    def __repr__(self) -> str:
        return "odd"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "train": grow.train,
    "compare": grow.compare,
    "plot": grow.plot,
    "run": grow.run,
    "price": grow.price,
    "data prepare": grow.data.prepare,
}
GROWING = (grow.plan, grow.widen, grow.deepen, grow.upcycle)
CHECKING = (grow.verify, grow.verify_against, grow.record, grow.inspect)


def parameters(function: Callable[..., Any]) -> list[str]:
    """The options of a function, those that it takes as `**settings` too."""
    own = inspect.signature(function).parameters.values()
    names = [p.name for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return names + ([f.name for f in fields(Settings)] if function is grow.train else [])


NAMES = {name for function in (*FUNCTIONS.values(), *GROWING, *CHECKING) for name in parameters(function)}
PYTHON = re.compile(rf"(?<![-\w])({'|'.join(NAMES - {'experts', 'layers'})})=|\bgrow\.\w+\(")
SHELL = re.compile(rf"(?<!torchrun )--[a-z]|\bgrow ({'|'.join(cli.commands)})\b")
COMMAND = re.compile(r"\bgrow\.[\w.]+\([^)]*\)")
"""A function of grow, as whoever runs a recipe in Python calls it."""
KEYS = {name for kind in keys.KINDS.values() for name in kind}
TOML = re.compile(rf"(?<![-\w])({'|'.join(KEYS)}) = ")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a checkpoint, token files for it, and the metrics of a run of two steps."""
    folder = tmp_path_factory.mktemp("place")
    tiny.checkpoint(folder / "source", "llama")
    tokens(folder / "tokens", vocab=29)
    tokens(folder / "bare", vocab=29, held_out=0)
    (folder / "done").mkdir()
    spent = {"tokens": 8, "flops": 9.0, "seconds": 1.0}
    lines = [json.dumps({"step": step, "loss": 3.0 / step, **spent}) + "\n" for step in (1, 2)]
    (folder / "done" / "metrics.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def here(place, monkeypatch) -> Iterator[Path]:
    """The folder, in which the test runs and leaves nothing."""
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    yield place
    assert sorted(place.rglob("*")) == before


GIVEN: dict[str, dict[str, Any]] = {
    "train": {"src": "source", "data": "tokens", "out": "out", "steps": 4, "batch": 3, "length": 16},
    "compare": {"src": "source", "to": "2x"},
    "plot": {"runs": ["done"]},
    "run": {"recipe": "small-to-base"},
    "price": {"recipe": "small-to-base"},
    "data prepare": {"sources": ["sotu"], "tokenizer": "small", "out": "out"},
}


# Python


@pytest.mark.parametrize(("function", "name"), [(f, name) for f in FUNCTIONS for name in parameters(FUNCTIONS[f])])
def test_an_odd_value_is_named_as_a_parameter(function, name, here):
    given = GIVEN[function] | ({"train_steps": 3} if (function, name) == ("compare", "rate") else {})
    given = {k: v for k, v in given.items() if (k, name) not in (("steps", "tokens"), ("steps", "flops"))}
    said = refused(FUNCTIONS[function], **{**given, name: Odd()})
    assert said.startswith(f"{name}=odd: ")
    assert not SHELL.search(said), said
    assert not TOML.search(said), said


def refused(function: Callable[..., Any], **given: Any) -> str:
    with pytest.raises(GrowError) as caught:
        function(**given)
    assert caught.value.exit_code == 2
    assert caught.value.what
    assert caught.value.why
    assert caught.value.fix
    return str(caught.value)


# The command line

COMMANDS: dict[str, list[str]] = {
    "train": ["--from", "source", "--data", "tokens", "--out", "out"],
    "compare": ["--from", "source", "--to", "2x"],
    "plot": ["done"],
    "run": ["small-to-base"],
    "data prepare": ["sotu", "--tokenizer", "small", "--out", "out"],
}
ODD = {"out": "nowhere/odd", "report": "nowhere/odd.html", "field": "body", "split": "test"}
"""Option -> a value that is not good, where most texts are."""
BY_VALUE = {"from", "data", "tokenizer", "report"}
"""Options whose value is a place: an error names that."""


def command_of(name: str) -> click.Command:
    found: Any = cli
    for word in name.split():
        found = found.commands[word]
    return found


LINES = [
    (name, flag.opts[0])
    for name in COMMANDS
    for flag in command_of(name).params
    if isinstance(flag, click.Option) and flag.opts[0] not in ("--separator", "--help")  # any text separates
]


@pytest.mark.parametrize(("name", "flag"), LINES)
def test_an_odd_value_is_named_as_an_option(name, flag, here, monkeypatch, capsys):
    value = ODD.get(flag.removeprefix("--"), "odd")
    code, out, err = tiny.command(monkeypatch, capsys, *name.split(), *COMMANDS[name], f"{flag}={value}")
    assert (code, out) == (2, "")
    assert f"{flag} " in err or f"'{flag}'" in err or (flag.removeprefix("--") in BY_VALUE and value in err)
    assert not PYTHON.search(err), err
    assert not TOML.search(err), err


# Recipes

NEEDED = {"from": '"source"', "to": '"2x"', "layers": "3", "experts": "4"}
START = '[[stage]]\nkind = "load"\nfrom = "source"\n'
STAGED = [(kind, name) for kind, known in keys.KINDS.items() for name in known]


def recipe(text: str) -> str:
    """What is said of a recipe, without the name of its file."""
    file = Path("recipe.toml")
    file.write_text('name = "x"\n' + text)
    try:
        said = refused(grow.run, recipe=file, out="out")
    finally:
        file.unlink()
    assert said.startswith("recipe.toml: ")
    return said.removeprefix("recipe.toml: ")


@pytest.mark.parametrize(("kind", "name"), STAGED)
def test_an_odd_value_is_named_as_a_key_of_its_stage(kind, name, here):
    needed = "".join(f"{k} = {NEEDED[k]}\n" for k, key in keys.KINDS[kind].items() if key.needed and k != name)
    before = "" if kind in keys.STARTS else START
    budget = "steps = 4\n" if kind == "train" and name not in keys.BUDGETS else ""
    said = recipe(f'{before}[[stage]]\nkind = "{kind}"\n{needed}{budget}{name} = [[[]]]\n')
    assert said.startswith(f"stage {2 if before else 1} ({kind}): {name}: is [[[]]]: ")
    assert not SHELL.search(said), said
    assert not PYTHON.search(COMMAND.sub("", said)), said


@pytest.mark.parametrize("table", ["", "[train]", "[baseline]"])
def test_an_odd_value_is_named_as_a_key_of_its_table(table, here):
    known = {"": keys.TOP, "[train]": keys.TRAIN, "[baseline]": keys.BASELINE}[table]
    for name in known:
        if name == "name":
            continue  # every recipe here has one
        said = recipe(f'{table}\n{name} = [[[]]]\n{START}[[stage]]\nkind = "train"\nsteps = 4\n')
        assert said.startswith(f"{table}: {name}: is [[[]]]: ".removeprefix(": "))
        assert not SHELL.search(said), said
        assert not PYTHON.search(COMMAND.sub("", said)), said


# Values of the right kind that do not fit

UNFIT: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a rate of zero": ({"lr": 0.0}, "lr=0.0: must be", "--lr 0.0: must be", "lr: is 0.0: must be"),
    "a schedule misspelt": ({"schedule": "cosin"}, 'schedule="cosin": ', "'--schedule'", "schedule: is 'cosin': "),
    "a long warmup": ({"warmup": 9}, "warmup=9: ", "--warmup 9: ", "warmup = 9: "),
    "parts that do not divide": ({"accumulate": 2}, "accumulate=2: must be a divisor of batch=3", "--accumulate 2: "
                                 "must be a divisor of --batch 3", "accumulate = 2: must be a divisor of batch = 3"),
    "more than the positions": ({"length": 65}, "length=65: ", "--length 65: ", "length = 65: "),
    "a re-warming of nothing": ({"rewarm": (0.0, 9)}, "rewarm=(0.0, 9): ", "--rewarm 0.0:9: ", "rewarm: is '0.0:9': "),
    "a plateau of no step": ({"plateau": (0, 0.5)}, "plateau=(0, 0.5): ", "--plateau 0:0.5: ", "plateau: is '0:0.5': "),
    "a plateau unseen": ({"plateau": (2, 0.5), "data": "bare"}, "plateau=(2, 0.5): no corpus", "--plateau 2:0.5: no "
                         "corpus", 'plateau = "2:0.5": no corpus'),
    "rates of another optimizer": ({"rates": "mup", "optimizer": "muon"}, 'rates="mup": must be uniform with '
                                   'optimizer="muon"', "--rates mup: must be uniform with --optimizer muon",
                                   'rates = "mup": must be uniform with optimizer = "muon"'),
    "rates of what has not grown": ({"rates": "mup"}, 'rates="mup": ', "--rates mup: ", "rates = …: nothing has grown"),
    "freezing what has not grown": ({"freeze_old": True}, "freeze_old=True: ", "--freeze-old: ", "freeze_old = …: "),
    "a source of what has not grown": ({"source": "small"}, 'source="small": ', "--source small: ", ""),
    "tokens of a source": ({"source_tokens": 7}, "source_tokens=7: ", "--source-tokens 7: ", ""),
    "two lengths": ({"tokens": 50}, "tokens=50: is given beside steps=4", "--tokens 50: is given beside --steps 4",
                    "tokens and steps are two budgets"),
    "two budgets": ({"flops": 1e9}, "flops=1000000000.0: is given beside steps=4", "--flops 1000000000.0: is given "
                    "beside --steps 4", "flops and steps are two budgets"),
    "some weights": ({"data": ["tokens:1", "bare"]}, 'data=["tokens:1", "bare"]: ', "--data tokens:1 --data bare: ",
                     'data = ["/'),
    "weights of nothing": ({"data": ["tokens:0", "bare:0"]}, "data=…: ", "--data: ", "data = …: "),
    "a state that is not there": ({"state": "carry"}, 'state="carry": ', "--state carry: ", ""),
    "a schedule of nothing": ({"continue_schedule": True}, "continue_schedule=True: ", "--continue-schedule: ",
                              "continues: no train stage comes before it"),
    "a run that is not there": ({"resume": True}, 'out="/', "--out /", ""),
    "a parent that is not there": ({"out": "nowhere/out"}, 'out="/', "--out /", ""),
    "another number of processes": ({"world": 3}, "world=3: ", "--world 3: ", ""),
    "a place that is too far": ({"skip": -1}, "skip=-1: ", "--skip -1: ", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_value_that_does_not_fit_is_named_in_each_spelling(name, here, monkeypatch, capsys):
    change, python, shell, toml = UNFIT[name]
    given = {**GIVEN["train"], **change}
    said = refused(grow.train, **given)
    assert said.startswith(python)
    assert not SHELL.search(said), said
    assert not TOML.search(said), said
    code, out, err = tiny.command(monkeypatch, capsys, "train", *line_of(given))
    assert (code, out) == (2, "")
    assert shell in err
    assert not PYTHON.search(err), err
    assert not TOML.search(err), err
    if toml:
        named = {"continues" if k == "continue_schedule" else k: v for k, v in given.items() if k not in ("src", "out")}
        lines = "".join(f"{key} = {toml_of(value)}\n" for key, value in named.items())
        told = recipe(f'{START}[[stage]]\nkind = "train"\n{lines}')
        assert told.startswith("stage 2 (train): ")
        assert toml in told
        assert not SHELL.search(told), told
        assert not PYTHON.search(COMMAND.sub("", told)), told


def line_of(given: dict[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        flag = "--" + {"src": "from"}.get(name, name).replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            yield flag if one is True else f"{flag}={':'.join(map(str, one)) if isinstance(one, tuple) else one}"


def toml_of(value: Any) -> str:
    return json.dumps(":".join(map(str, value)) if isinstance(value, tuple) else value)


# The words themselves


def test_pairs_lists_arguments_and_commands_are_written_as_each_caller_does():
    def said() -> list[str]:
        return [
            option(rewarm=Pair((1.25, 250))),
            option(rewarm=Pair(None)),
            option(data=["a:0.7", "b:0.3"]),
            option(runs="run"),
            option(src="a", continue_schedule=True),
            left_out("rewarm", "freeze_old", "rates"),
            left_out("rates"),
            command("data prepare", end=False),
            command("price"),
        ]

    assert said() == [
        "rewarm=(1.25, 250)",
        "rewarm=None",
        'data=["a:0.7", "b:0.3"]',
        'runs="run"',
        'src="a", continue_schedule=True',
        "leave rewarm=…, freeze_old=… and rates=… out",
        "leave rates=… out",
        "grow.data.prepare(…, end=False)",
        "grow.price(…)",
    ]
    with spelled(COMMAND_LINE):
        assert said() == [
            "--rewarm 1.25:250",
            "--rewarm off",
            "--data a:0.7 --data b:0.3",
            "RUN run",
            "--from a --continue-schedule",
            "leave --rewarm, --freeze-old and --rates out",
            "leave --rates out",
            "grow data prepare --no-end",
            "grow run --dry-run",
        ]
        with spelled(RecipeKeys(keys.KINDS["train"], ("widen",), COMMAND_LINE)):
            assert said() == [
                'rewarm = "1.25:250"',
                'rewarm = "off"',
                'data = ["a:0.7", "b:0.3"]',
                "RUN run",
                "--from a, continues = true",
                "leave rewarm = …, freeze_old = … and rates = … out",
                "leave rates = … out",
                "grow data prepare --no-end",
                "grow run --dry-run",
            ]


# What the code itself says

TREES = {path: ast.parse(path.read_text()) for path in sorted(Path(grow.__file__).parent.rglob("*.py"))}
OTHERS = ("--nproc-per-node", "--force-download", "--remove-destination", "--grow-update")
"""Options of other programs."""


def test_no_message_is_written_for_the_command_line_alone():
    """`grow.spelling` writes options. Docstrings are not messages, `grow.cli` is the command line itself, and pages and
    files of `grow.deriving` say by which command they were made."""
    found = []
    for path, tree in TREES.items():
        if (
            path.parent.name == "cli"
            or path.name == "spelling.py"
            or {"downstream", "golden", "deriving"} & set(path.parts)
        ):
            continue
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                words = re.findall(r"(?<![\w-])--[a-z][a-z-]*", node.value)
                found += [f"{path.name}:{node.lineno}: {word}" for word in words if word not in OTHERS]
    assert found == []


def test_a_message_suggests_only_options_that_exist():
    known = NAMES | {"sizes", "how", "json", "given", "derive"}
    known |= {name for one in grow.integrations.__all__ for name in parameters(getattr(grow.integrations, one))}
    odd = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("option", "command", "left_out"):
                named = [a.value for a in node.args if isinstance(a, ast.Constant)] if node.func.id != "command" else []
                odd += [
                    f"{path.name}:{node.lineno}: {name}"
                    for name in (*named, *(keyword.arg for keyword in node.keywords))
                    if name is not None and name not in known
                ]
    assert odd == []
