"""Whoever gets an option wrong reads it as he has written it: in Python, on the command line, in a recipe."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import grow
from grow.cli.commands import cli
from grow.errors import GrowError, Refused
from grow.spelling import COMMAND_LINE, Either, RecipeKeys, command, here, option, spelled
from grow.staged.keys import KINDS


class Wrong(NamedTuple):
    """An option that nothing can be done with, and where the error says it is.

    value, python  given to `grow.widen`, and the error's first words
    line, shell    the same on the command line; "" where click knows no such option, or refuses the value itself
    key, recipe    the same as the line of a stage; "" where recipes have no such key, or check the key alone
    """

    value: Any
    python: str
    line: str = ""
    shell: str = ""
    key: str = ""
    recipe: str = ""


WRONG: dict[str, list[Wrong]] = {
    "to": [
        Wrong("3.7x", 'to="3.7x": ', "--to 3.7x", "--to 3.7x: ", 'to = "3.7x"', 'to = "3.7x": '),
        Wrong("", 'to="": ', "--to ''", "--to '': "),
        Wrong(
            {"n_embd": 48},
            'to={"n_embd": 48}: ',
            "--to n_embd=48",
            "--to n_embd=48: ",
            "to = {n_embd = 48}",
            "to = {n_embd = 48}: ",
        ),
        Wrong({1: 2}, "to={1: 2}: "),
        Wrong(3, "to=3: "),
        Wrong(None, "to=None: "),
    ],
    "out": [
        Wrong("nowhere/out", 'out="/', "--out nowhere/out", "--out /"),
        Wrong(3, "out=3: "),
        Wrong(b"out", "out=b'out': "),
    ],
    "operators": [
        Wrong(
            {"head_dim": "copies"},
            'operators={"head_dim": "copies"}: ',
            "--operator head_dim=copies",
            "--operator head_dim=copies: ",
            'operators = {head_dim = "copies"}',
            'operators = {head_dim = "copies"}: ',
        ),
        Wrong(
            {"ffn": "mean"},
            'operators={"ffn": "mean"}: ',
            "--operator ffn=mean",
            "--operator ffn=mean: ",
            'operators = {ffn = "mean"}',
            'operators = {ffn = "mean"}: ',
        ),
        Wrong("ffn=copies", 'operators="ffn=copies": ', "--operator ffn", "--operator ffn: "),
        Wrong({"ffn": ["copies"]}, 'operators={"ffn": ["copies"]}: '),
        Wrong({2: "copies"}, 'operators={2: "copies"}: '),
    ],
    "split": [
        Wrong("foo", 'split="foo": ', "--split foo", "--split", 'split = "foo"', "split: "),
        Wrong(["exact"], 'split=["exact"]: '),
    ],
    "seed": [
        Wrong(-1, "seed=-1: ", "--seed=-1", "--seed -1: ", "seed = -1", "seed: "),
        Wrong(0.5, "seed=0.5: ", "--seed 0.5", "--seed"),
        Wrong(True, "seed=True: "),
        Wrong(10**5000, "seed=<int>: "),
    ],
    "dtype": [
        Wrong("int8", 'dtype="int8": ', "--dtype int8", "--dtype", 'dtype = "int8"', "dtype: "),
        Wrong(["float32"], 'dtype=["float32"]: '),
    ],
    "deepen": [Wrong("no", 'deepen="no": ', "", "", 'deepen = "no"', "deepen: "), Wrong(1, "deepen=1: ")],
    "place": [
        Wrong("top", 'place="top": ', "--place top", "--place top: ", 'place = "top"', 'place = "top": '),
        Wrong([0, 1], "place=[0, 1]: ", "--place 0,1", "--place 0,1: ", "place = [0, 1]", "place = [0, 1]: "),
        Wrong(None, "place=None: "),
    ],
    "fill": [
        Wrong("zeros", 'fill="zeros": ', "--fill zeros", "--fill", 'fill = "zeros"', "fill: "),
        Wrong("fresh", 'fill="fresh": ', "--fill fresh", "--fill fresh: ", 'fill = "fresh"', 'fill = "fresh": '),
        Wrong(None, "fill=None: "),
    ],
    "new_tokens": [
        Wrong("high", 'new_tokens="high": ', "--new-tokens high", "--new-tokens", 'new_tokens = "high"',
              "new_tokens: "),
        Wrong([], "new_tokens=[]: "),
    ],
    "method": [
        Wrong("lemom", 'method="lemom": ', "--method lemom", "--method lemom: ", 'method = "lemom"', "method: "),
        Wrong("gstack", 'method="gstack": ', "--method gstack", "--method gstack: ", 'method = "gstack"',
              'method = "gstack": '),
        Wrong(3, "method=3: "),
    ],
    "allow_lossy": [Wrong("no", 'allow_lossy="no": ', "", "", 'allow_lossy = "no"', "allow_lossy: ")],
    "optimizer": [Wrong("adamw", "optimizer: ")],
    "state": [
        Wrong("keep", 'state="keep": ', "--state keep", "--state", 'state = "keep"', "state: "),
        Wrong("carry", 'state="carry": ', "--state carry", "--state carry: ", 'state = "carry"', 'state = "carry": '),
        Wrong(["drop"], 'state=["drop"]: '),
    ],
    "trust_checkpoint": [Wrong("no", 'trust_checkpoint="no": ')],
    "upcycling": [
        Wrong({"experts": 4, "slices": 2}, 'upcycling={"experts": 4, "slices": 2}: '),
        Wrong({"top_k": 4}, 'upcycling={"top_k": 4}: '),
        Wrong(8, "upcycling=8: "),
        Wrong({"experts": "8"}, 'experts="8": '),
        Wrong({"experts": 4, "top_k": 0}, "top_k=0: "),
        Wrong({"experts": 4, "route": "all"}, 'route="all": '),
    ],
    "max_shard_size": [
        Wrong("5 apples", 'max_shard_size="5 apples": ', "--max-shard-size apples", "--max-shard-size apples: ",
              'max_shard_size = "5 apples"', "max_shard_size: "),
        Wrong(-1, "max_shard_size=-1: "),
        Wrong(None, "max_shard_size=None: "),
    ],
    "overwrite": [Wrong("no", 'overwrite="no": ')],
    "verify": [Wrong("no", 'verify="no": ', "", "", 'verify = "no"', "verify: ")],
    "world": [Wrong(3, "world=3: ", "--world 3", "--world 3: "), Wrong(0, "world=0: ", "--world 0", "--world")],
    "revision": [
        Wrong("main", 'revision="main": ', "--revision main", "--revision main: "),
        Wrong(3, "revision=3: "),
    ],
    "assume_harmless": [
        Wrong(["x"], 'assume_harmless=["x"]: ', "--assume-harmless x", "--assume-harmless x: ",
              'assume_harmless = "x"', 'assume_harmless = ["x"]: '),
        Wrong("x", 'assume_harmless="x": '),
        Wrong([3], "assume_harmless=[3]: "),
    ],
    "family": [
        Wrong("nowhere.py", 'family="nowhere.py": ', "--family nowhere.py", "--family nowhere.py: "),
        Wrong(3, "family=3: "),
    ],
    "progress": [Wrong(3, "progress=3: ")],
    "on_rung": [Wrong("print", 'on_rung="print": ')],
}  # fmt: skip
EACH = [(name, wrong) for name, some in WRONG.items() for wrong in some]
SHELL = re.compile(rf"(?<!torchrun )--[a-z]|\bgrow ({'|'.join(cli.commands)})\b")
"""How the command line writes options and commands."""


def ids(value: Any) -> str | None:
    return value if isinstance(value, str) else value.python[:40] if isinstance(value, Wrong) else None


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("source") / "llama", "llama", tokenizer=True)


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Path:
    """An empty folder in which the test runs, empty behind it too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_option_of_a_growth_has_a_wrong_value():
    assert list(WRONG) == [name for name in inspect.signature(grow.widen).parameters if name != "src"]


@pytest.mark.parametrize(("name", "wrong"), EACH, ids=ids)
def test_python_reads_it_as_a_parameter(name, wrong, source, alone):
    given = {"to": "2x", "out": "out", "verify": False, name: wrong.value}
    with pytest.raises(GrowError) as caught:
        grow.widen(source, given.pop("to"), **given)
    assert str(caught.value).startswith(wrong.python)
    assert caught.value.exit_code == 2
    assert caught.value.what
    assert caught.value.fix
    assert not SHELL.search(str(caught.value)), str(caught.value)
    assert not any(alone.iterdir())


@pytest.mark.parametrize(("name", "wrong"), [(n, w) for n, w in EACH if w.line], ids=ids)
def test_the_command_line_reads_it_as_an_option(name, wrong, source, alone, monkeypatch, capsys):
    line = ["widen", "--from", str(source), "--out", "out", "--no-verify"]
    line += [] if name == "to" else ["--to", "2x"]
    first, _, rest = wrong.line.partition(" ")
    code, out, err = tiny.command(monkeypatch, capsys, *line, first, *([rest.strip("'")] if " " in wrong.line else []))
    assert (code, out) == (2, "")
    assert wrong.shell in err
    assert err.startswith(("error: " + wrong.shell, "usage: ", "Usage: ")) or "Invalid value" in err, err
    assert not any(alone.iterdir())


@pytest.mark.parametrize(("name", "wrong"), [(n, w) for n, w in EACH if w.key], ids=ids)
def test_a_recipe_reads_it_as_a_key_of_its_stage(name, wrong, source, alone):
    said = refused_stage(alone, source, "widen", ["" if name == "to" else 'to = "2x"', wrong.key])
    assert said.startswith(wrong.recipe)


def refused_stage(folder: Path, source: Path, kind: str, keys: list[str]) -> str:
    """What is said of a stage behind one that loads `source`; nothing is grown."""
    file, stages = folder / "r.toml", [["load", f'from = "{source}"'], [kind, *keys]]
    lines = (line for name, *rest in stages for line in ("[[stage]]", f'kind = "{name}"', *rest))
    file.write_text("\n".join(['name = "r"', *lines]))
    with pytest.raises(GrowError) as caught:
        grow.run(file, out=folder / "out")
    where = f"{file}: stage 2 ({kind}): "
    assert str(caught.value).startswith(where)
    assert not list(folder.glob(f"out/*{kind}"))
    return str(caught.value).removeprefix(where)


# Commands whose target is their own option


@pytest.mark.parametrize("layers", [1, 20_000])
def test_deepening_is_spelled_by_its_layers(layers, source, alone, monkeypatch, capsys):
    with pytest.raises(GrowError) as caught:
        grow.deepen(source, layers, out="out")
    line = ["deepen", "--from", source, "--layers", layers, "--out", "out"]
    told = tiny.command(monkeypatch, capsys, *line)[2]
    if layers == 1:
        assert str(caught.value).startswith("layers=1: layers 2 -> 1\n")
        assert told.startswith("error: --layers 1: layers 2 -> 1\n")
        assert refused_stage(alone, source, "deepen", ["layers = 1"]).startswith("layers = 1: layers 2 -> 1\n")
    else:
        assert not SHELL.search(str(caught.value))


EXPERTS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "experts": ({"experts": 1}, "experts=1: one expert", "--experts 1: one expert", "experts = 1: one expert"),
    "top_k": (
        {"experts": 4, "top_k": 5},
        "top_k=5: of 4 experts",
        "--top-k 5: of 4 experts",
        "top_k = 5: of 4 experts",
    ),
    "granularity": (
        {"experts": 6, "granularity": 3},
        "granularity=3: 20 units cannot be cut into 3 slices",
        "--granularity 3: 20 units cannot be cut into 3 slices",
        "granularity = 3: 20 units cannot be cut into 3 slices",
    ),
    "every": ({"experts": 4, "every": 2}, "every=2: ", "--every 2: ", "every = 2: "),
    "route": ({"experts": 4, "route": "shared"}, 'route="shared": ', "--route shared: ", 'route = "shared": '),
    "to": ({"experts": 4, "to": "0.5x"}, 'to="0.5x": ', "--to 0.5x: ", 'to = "0.5x": '),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_upcycling_is_spelled_by_its_options(name, source, alone, monkeypatch, capsys):
    given, python, shell, recipe = EXPERTS[name]
    with pytest.raises(GrowError) as caught:
        grow.upcycle(source, out="out", **given)
    assert str(caught.value).startswith(python)
    assert not SHELL.search(str(caught.value))
    line = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert tiny.command(monkeypatch, capsys, "upcycle", "--from", source, "--out", "out", *line)[2].startswith(
        f"error: {shell}"
    )
    keys = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in given.items()]
    assert refused_stage(alone, source, "upcycle", keys).startswith(recipe)


# Notes


def test_a_note_is_spelled_for_its_reader_too(source, monkeypatch, capsys):
    said = grow.plan(source, "2x", new_tokens="zero", operators={"heads": "copies"}, deepen=True).notes
    assert not SHELL.search("\n".join(said))
    line = ["plan", "--from", source, "--to", "2x", "--new-tokens", "zero", "--deepen", "--json"]
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    assert code == 0
    told = [note.split(" has no effect")[0] for note in json.loads(out)["notes"] if "has no effect" in note]
    assert told == ["--deepen", "--new-tokens zero"]
    assert "new_tokens=" not in out


# The words themselves


def test_an_option_stands_in_a_message_as_each_caller_writes_it():
    def said() -> list[str]:
        return [
            option(split='a"b'),
            option("max_shard_size"),
            option(operators={"ffn": "copies"}),
            option(deepen=True, to="base"),
            option(verify=False),
            option(place=[3, 7]),
            option(to={"hidden_size": ..., "heads": 4}),
            option(to=Either(("3x", "4x"))),
            option(out=Path("a/b"), seed=7),
            command("upcycle", experts=8, method="upcycle"),
            command("plan", json=True),
        ]

    assert said() == [
        'split="a\\"b"',
        "max_shard_size=…",
        'operators={"ffn": "copies"}',
        'deepen=True, to="base"',
        "verify=False",
        "place=[3, 7]",
        'to={"hidden_size": …, "heads": 4}',
        'to="3x" or "4x"',
        'out="a/b", seed=7',
        'grow.upcycle(…, experts=8, method="upcycle")',
        "grow.plan(…)",
    ]
    with spelled(COMMAND_LINE):
        assert said() == [
            '--split a"b',
            "--max-shard-size",
            "--operator ffn=copies",
            "--deepen --to base",
            "--no-verify",
            "--place 3,7",
            "--to hidden_size=…,heads=4",
            "--to 3x or 4x",
            "--out a/b --seed 7",
            "grow upcycle --experts 8 --method upcycle",
            "grow plan --json",
        ]
        with spelled(RecipeKeys(KINDS["widen"], ("widen", "upcycle"), COMMAND_LINE)):
            assert said() == [
                'split = "a\\"b"',
                "max_shard_size = …",
                'operators = {ffn = "copies"}',
                'deepen = true, to = "base"',
                "verify = false",
                "place = [3, 7]",
                "to = {hidden_size = …, heads = 4}",
                'to = "3x" or "4x"',
                "--out a/b, seed = 7",
                'kind = "upcycle", experts = 8, method = "upcycle"',
                "grow plan --json",
            ]
    assert option(split="even") == 'split="even"'


def test_what_cannot_be_shown_is_no_second_error():
    class Silent:
        def __str__(self):
            raise RuntimeError

    assert option(seed=10**5000, to=Silent()) == "seed=<int>, to=<Silent>"
    assert len(option(to=list(range(9)), seed=list(range(99)))) < 600
    assert len(option(seed=object())) < 100


def test_another_thread_spells_for_the_caller_of_its_work():
    with ThreadPoolExecutor(3) as pool, spelled(COMMAND_LINE):
        work = here(lambda value: option(seed=value))
        found = [job.result() for job in [pool.submit(work, k) for k in range(20)]]
        alone = pool.submit(option, "seed").result()
    assert found == [f"--seed {k}" for k in range(20)]
    assert alone == "seed=…"  # the reason for `here`


def test_what_a_thread_of_the_writer_refuses_is_spelled_for_the_caller(source, alone, monkeypatch, capsys):
    big = alone / "big"
    shutil.copytree(source, big)
    weights = load_file(big / tiny.WEIGHTS)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = np.full_like(weights[name], 1e30)
    save_file(weights, big / tiny.WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(Refused) as caught:
        grow.widen(big, "2x", out="out", dtype="float16", verify=False)
    assert caught.value.fix == 'dtype="float32" or "bfloat16"'
    line = ["widen", "--from", big, "--to", "2x", "--out", "out", "--dtype", "float16", "--no-verify"]
    assert "fix        --dtype float32 or bfloat16\n" in tiny.command(monkeypatch, capsys, *line)[2]


def test_what_is_an_option_of_a_command_there_is_spelled_with_it():
    assert command("record") == "grow.record(…)"
    with spelled(COMMAND_LINE):
        assert command("record") == "grow verify SRC --record FILE"
        assert command("verify_against") == "grow verify GROWN --against FILE"
