"""Widths, depth, vocabulary and positions grow in one plan: in any order of words, in one step or two, and the record
of it can be read again or is refused."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tiny
import torch
from models import difference

import grow
from grow.errors import BadInput
from grow.notation.operators import OPERATORS
from grow.planning.change import Change
from grow.planning.record import read_record

EXACT = 1e-12  # measured up to 3e-14
FLOAT32 = 1e-5
OLD = 41

# what each grows to, and whether every number stays as it is stored
GROWTHS: dict[str, tuple[dict[str, int], bool]] = {
    "llama-tied": ({"hidden": 36, "heads": 12, "kv_heads": 4, "layers": 5, "vocab": 60, "positions": 97}, True),
    "llama": ({"hidden": 24, "heads": 8, "head_dim": 12, "ffn": 33, "layers": 7, "vocab": 44, "positions": 65}, False),
    "qwen3": ({"hidden": 36, "heads": 8, "kv_heads": 4, "ffn": 56, "layers": 3, "vocab": 50, "positions": 80}, True),
    "qwen2-window": ({"hidden": 48, "layers": 6, "vocab": 50}, True),
    "gpt2": ({"hidden": 24, "heads": 6, "ffn": 99, "layers": 5, "vocab": 60, "positions": 97}, True),
    "gpt2-inverse": ({"hidden": 20, "heads": 5, "layers": 5, "vocab": 60, "positions": 97}, False),
    "gpt_neox": ({"hidden": 48, "layers": 4, "vocab": 43, "positions": 128}, False),
    "opt": ({"hidden": 24, "heads": 6, "ffn": 50, "layers": 5, "vocab": 60, "positions": 97}, True),
    "opt-post": ({"hidden": 24, "heads": 6, "ffn": 50, "layers": 5, "vocab": 60, "positions": 97}, False),
    "opt-projected": ({"hidden": 24, "heads": 6, "layers": 5, "vocab": 60, "positions": 97}, True),
    "bert-mlm": ({"hidden": 24, "heads": 6, "ffn": 50, "layers": 5, "vocab": 60, "positions": 97}, False),
    "roberta-mlm": ({"hidden": 36, "ffn": 50, "layers": 3, "vocab": 60, "positions": 97}, False),
    "distilbert-mlm": ({"hidden": 24, "heads": 6, "layers": 4, "vocab": 60, "positions": 97}, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    """`made("gpt2")`: a stock checkpoint whose parameters are all random."""
    found: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in found:
            found[variant] = models.save(variant, tmp_path_factory.mktemp("one") / variant)
        return found[variant]

    return get


def widen(source: Path, to: Any, out: Path, **options: Any) -> grow.Growth:
    return grow.widen(source, to, out=out, verify=False, seed=3, **options)


def apart(source: Path, grown: Path) -> float:
    """How far the outputs are apart, over the old tokens."""
    config = models.transformers.AutoConfig.from_pretrained(source)
    with models.Float64(), torch.no_grad():
        old, new = (models.load(folder)(**models.inputs(config, 17)).logits for folder in (source, grown))
    return difference({"": old}, {"": new[..., : old.shape[-1]]})


@pytest.mark.parametrize("variant", GROWTHS)
def test_all_axes_in_one_plan(variant, made, tmp_path):
    to, exact = GROWTHS[variant]
    plan = widen(made(variant), to, tmp_path / "grown").plan
    assert plan.storage == ("bit-exact" if exact else "rounded")
    assert {axis: plan.new_sizes[axis] for axis in to} == to
    assert apart(made(variant), tmp_path / "grown") <= (EXACT if exact else FLOAT32)
    if not exact:
        widen(made(variant), to, tmp_path / "wide", dtype="float64")
        assert apart(made(variant), tmp_path / "wide") <= EXACT


@pytest.mark.parametrize("variant", GROWTHS)
def test_the_order_of_the_words_does_not_count(variant, made, tmp_path):
    to, _ = GROWTHS[variant]
    words = [f"{axis}={size}" for axis, size in to.items()]
    family = grow.families[models.VARIANTS[variant].model_type]
    orders = [words, words[::-1], words[3:] + words[:3]]
    targets = [",".join(order) for order in orders] + [{family.axes.get(a, a): n for a, n in to.items()}]
    found = []
    for k, target in enumerate(targets):
        folder = widen(made(variant), target, tmp_path / str(k)).path
        found.append({f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != "README.md"})
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("variant", ["llama-tied", "qwen3", "qwen2-window", "gpt2", "gpt2-inverse", "opt", "bert-mlm"])
def test_two_steps_are_lossless_in_either_order(variant, made, tmp_path):
    to, _ = GROWTHS[variant]
    counts = {axis: to[axis] for axis in ("layers", "vocab", "positions") if axis in to}
    widths = {axis: size for axis, size in to.items() if axis not in counts}
    for name, steps in {
        "wide": (widths, counts),
        "deep": (counts, widths),
        "three": ({"layers": 3}, widths, counts),
    }.items():
        folder = made(variant)
        for k, step in enumerate(steps):
            folder = widen(folder, step, tmp_path / f"{name}-{k}", dtype="float64").path
        assert apart(made(variant), folder) <= EXACT, name
        sizes = read_record(folder).new_sizes
        assert {axis: sizes[axis] for axis in to} == to


def test_the_table_of_a_plan_has_every_axis(made, monkeypatch, capsys):
    line = ["plan", "--from", made("gpt2"), "--to", "2x,n_layer=5,vocab_size=60,n_positions=97"]
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    table = out.split("\naxes\n")[1].split("\n\n")[0].splitlines()
    assert code == 0
    assert [" ".join(row.split()) for row in table] == [
        "axis old new how",
        "hidden 12 24 copies × 2",
        "heads 3 6 3 unread",
        "kv_heads 3 6 3 unread",
        "head_dim 4 4 unchanged",
        "ffn 48 96 48 unread",
        "layers 2 5 3 inserted (copies of their neighbours, output 0) at 1, 2, 3",
        "vocab 41 60 19 appended, logits between the old ones",
        "positions 64 97 33 appended, repeating the old ones",
        *(f"{word}: {OPERATORS[word].meaning}" for word in ("copies", "unread")),
    ]
    fields = out.split("\nconfig.json\n")[1].split("\n\n")[0]
    assert all(name in fields for name in ("n_embd", "n_head", "n_inner", "n_layer", "n_positions", "vocab_size"))


def test_a_size_and_fields_that_differ_from_it(made):
    plan = grow.plan("small", "base,layers=8")
    assert (plan.new_sizes["hidden"], plan.new_sizes["layers"]) == (256, 8)
    assert grow.plan("small-bert", "bert-small", deepen=True).new_sizes["layers"] == 4
    assert grow.plan("small-bert", "bert-medium", deepen=True).new_sizes["layers"] == 8
    assert grow.plan("small-bert", "bert-medium").new_sizes["layers"] == 4


# The record


def equal(a: Change, b: Change) -> bool:
    maps = all(
        (m.n, m.operator) == (b.maps[space].n, b.maps[space].operator)
        and all(np.array_equal(getattr(m, f), getattr(b.maps[space], f)) for f in ("source", "write", "read", "gain"))
        for space, m in a.maps.items()
        if not m.is_identity
    )
    identities = all(m.is_identity == b.maps[space].is_identity for space, m in a.maps.items())
    return maps and identities and (a.depth, a.low) == (b.depth, b.low) and a.maps.keys() == b.maps.keys()


@pytest.mark.parametrize("variant", GROWTHS)
def test_what_grow_json_says_is_what_was_done(variant, made, tmp_path):
    options = {"place": [0] * (GROWTHS[variant][0]["layers"] - 2), "fill": "fresh"}
    options |= {"new_tokens": "low"} if models.VARIANTS[variant].auto == models.MLM else {}
    grown = widen(made(variant), GROWTHS[variant][0], tmp_path / "grown", **options)
    found = read_record(grown.path)
    assert equal(grown.plan.change, found.change)
    assert found.change.depth.lawful
    # shares and square roots are rounded a few times each; a wrong factor is off by far more
    assert all(np.allclose(m.law(), 1, rtol=0, atol=1e-12) for m in found.change.maps.values())
    assert (found.sizes, found.new_sizes) == (grown.plan.sizes, grown.plan.new_sizes)
    assert grow.verify(made(variant), grown.path, rungs=["certificate"]).verdict == "certified"


# llama, 2 layers -> 4: source (0, 0, 1, 1), inserted (1, 3)
DAMAGED: dict[str, Callable[[dict], object]] = {
    "a source out of range": lambda d: d["source"].__setitem__(1, 2),
    "a negative source": lambda d: d["source"].__setitem__(1, -1),
    "a fractional source": lambda d: d["source"].__setitem__(1, 0.5),
    "a source that is true": lambda d: d["source"].__setitem__(1, True),
    "a source that is a word": lambda d: d["source"].__setitem__(1, "0"),
    "a source that is null": lambda d: d["source"].__setitem__(1, None),
    "too few layers": lambda d: d["source"].pop(),
    "too many layers": lambda d: d["source"].append(1),
    "no layers": lambda d: d["source"].clear(),
    "sources that are a word": lambda d: d.update(source="0011"),
    "sources that are a number": lambda d: d.update(source=4),
    "no sources": lambda d: d.pop("source"),
    "the first layer inserted": lambda d: d.update(inserted=[0, 3]),
    "inserted is a number": lambda d: d.update(inserted=1),
    "inserted is a word": lambda d: d.update(inserted="13"),
    "inserted is missing": lambda d: d.pop("inserted"),
    "an inserted layer out of range": lambda d: d.update(inserted=[1, 3, 4]),
    "a negative inserted layer": lambda d: d.update(inserted=[1, -1]),
    "an inserted layer that is true": lambda d: d.update(inserted=[True, 3]),
    "an unknown fill": lambda d: d.update(fill="zeros"),
    "a fill that is null": lambda d: d.update(fill=None),
    "no fill": lambda d: d.pop("fill"),
}


@pytest.fixture(scope="module")
def deepened(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("record")
    source = tiny.checkpoint(folder / "source", "llama")
    return source, grow.deepen(source, 4, out=folder / "grown", place="0,1", verify=False).path


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_depth_is_bad_input(name, deepened, tmp_path):
    source, grown = copied(deepened, tmp_path)
    tiny.edit_json(grown / "grow.json", lambda record: DAMAGED[name](record["plan"]["depth"]))
    with pytest.raises(BadInput, match="is not a record of a growth") as caught:
        read_record(grown)
    assert all((caught.value.where, caught.value.what, caught.value.why, caught.value.fix))
    with pytest.raises(BadInput):
        grow.verify(source, grown, rungs=["certificate"])


OTHER = {
    "another depth": lambda plan: plan["new_sizes"].update(layers=5),
    "no depth": lambda plan: plan.pop("depth"),
    "an empty depth": lambda plan: plan.update(depth={}),
    "a depth that is a list": lambda plan: plan.update(depth=[0, 0, 1, 1]),
    "a low that is a word": lambda plan: plan.update(low="far"),
    "a low that is a list": lambda plan: plan.update(low=[-1e4]),
    "a low that is true": lambda plan: plan.update(low=True),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_belongs_to_a_depth_may_not_contradict_it(name, deepened, tmp_path):
    source, grown = copied(deepened, tmp_path)
    tiny.edit_json(grown / "grow.json", lambda record: OTHER[name](record["plan"]))
    with pytest.raises(BadInput, match="is not a record of a growth"):
        grow.verify(source, grown, rungs=["certificate"])


LAWLESS = {
    "a layer lost": ([0, 0, 0, 0], [1, 3]),
    "a layer doubled": ([0, 0, 1, 1], [1]),
    "layers moved": ([1, 0, 0, 1], [1, 3]),
    "nothing inserted": ([0, 0, 1, 1], []),
    "all but the first inserted": ([0, 0, 1, 1], [1, 2, 3]),
}


@pytest.mark.parametrize("rungs", [["certificate"], ["certificate", "true_float64", "hidden_states", "trainability"]])
@pytest.mark.parametrize("name", LAWLESS)
def test_a_record_that_loses_a_layer_is_different_and_says_so(name, rungs, deepened, tmp_path):
    source, grown = copied(deepened, tmp_path)
    lists = dict(zip(("source", "inserted"), LAWLESS[name]))
    tiny.edit_json(grown / "grow.json", lambda record: record["plan"]["depth"].update(lists))
    found = grow.verify(source, grown, rungs=rungs)
    same = "true_float64" in rungs  # the record is wrong, and the outputs are right
    assert (found.verdict, found.exit_code) == ("unrecorded" if same else "different", 1)
    assert "are not the old ones in their order" in found.check("certificate").reason


def test_another_place_or_fill_than_the_record_says_is_found(deepened, tmp_path):
    source, grown = copied(deepened, tmp_path)
    tiny.edit_json(grown / "grow.json", lambda record: record["plan"]["depth"].update(inserted=[1, 2]))
    found = grow.verify(source, grown, rungs=["certificate"])
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert ".2." in found.first["tensor"]  # an old layer where the record wants zeros
    assert found.first["rule"] == "an inserted layer computes the identity"


def copied(pair: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    return pair[0], Path(shutil.copytree(pair[1], folder / "grown"))


def test_every_axis_is_tried():
    axes = set(itertools.chain.from_iterable(to for to, _ in GROWTHS.values()))
    assert axes == {"hidden", "heads", "kv_heads", "head_dim", "ffn", "layers", "vocab", "positions"}
