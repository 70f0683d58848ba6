"""Short recipes, where they run, and what two runs of one have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training import curve

from grow.staged.recipe_folder import RECIPE

SMALL = "sizes = {hidden = 24, heads = 3, kv_heads = 3, head_dim = 8, ffn = 20, layers = 2}"
TRAIN = "length = 16\nbatch = 4\nlr = 1e-2\neval_every = 2\nsave_every = 2\nwarmup = 1\ndecay = 1\n"


def written(place: Path, text: str, name: str = "recipe.toml") -> Path:
    """The recipe in a file, with the place's token files."""
    (place / name).write_text('data = "tokens"\n' + text)
    return place / name


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


ONE = '[[stage]]\nkind = "init"\nfrom = "llama"\n'
STEPS = '[[stage]]\nkind = "train"\nsteps = 2\n'

NAME = 'name = "x"\n'

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
