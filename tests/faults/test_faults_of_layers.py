"""Faults in inserted layers, in tables that became longer, and in rows that no probe reaches."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import models
import pytest
import tiny
from damaged_checkpoints import (
    BOTH,
    CERTIFICATE,
    DEEP,
    DEEP_FAULTS,
    REACHES,
    UNREACHED,
    Deep,
    Pair,
    Raw,
    copy,
    damaged,
    forget,
    reversed_,
)

import grow

# Layers that were inserted, and tables that became longer


@pytest.fixture(scope="module")
def deepened(tmp_path_factory) -> Callable[[str, Path], Pair]:
    """`deepened("llama", folder)`: a source in float64 and a copy of what grows from it, to be damaged."""
    found: dict[str, Pair] = {}

    def get(variant: str, folder: Path) -> Pair:
        if variant not in found:
            place = tmp_path_factory.mktemp("deepened")
            source = models.save(variant, place / "source", "float64", num_hidden_layers=3)
            to, grown = {"layers": 5, "vocab": 50}, place / "grown"
            found[variant] = Pair(source, grown, grow.widen(source, to, out=grown, place="0,1", verify=False).plan)
        pair = found[variant]
        return pair._replace(grown=Path(shutil.copytree(pair.grown, folder / "damaged")))

    return get


def swapped(folder: Path, a: str, b: str) -> list[str]:
    """The names of all tensors of two layers, after each has changed place with the other's."""
    tensors = tiny.read_tensors(folder)
    names = [name for name in tensors if a in name]
    for name in names:
        other = name.replace(a, b)
        tensors[name], tensors[other] = tensors[other], tensors[name]
    tiny.write_tensors(folder, tensors)
    return [*names, *(name.replace(a, b) for name in names)]


def damage_deep(pair: Pair, deep: Deep, kind: str) -> list[str]:
    """Damages the grown folder; the names of the tensors that were."""
    if kind == "a zero":
        tiny.edit_tensor(pair.grown, deep.zero, lambda raw: raw.__setitem__((3, 2), 0.25))
        return [deep.zero]
    if kind == "an old layer":
        tiny.edit_tensor(pair.grown, deep.kept, reversed_)
        return [deep.kept]
    if kind == "an old token":
        tiny.edit_tensor(pair.grown, deep.table, lambda raw: reversed_(raw[7]))
        return [deep.table]
    if kind == "old layers swapped":
        return swapped(pair.grown, *deep.swap)
    assert kind == "an inserted layer swapped with an old one"
    return swapped(pair.grown, ".1.", ".4.")  # with its neighbour it would be the same function, see below


@pytest.mark.parametrize(("variant", "kind", "way"), DEEP_FAULTS)
def test_a_fault_in_a_deepened_pair_is_found_and_with_grow_json_its_tensor_named(
    variant, kind, way, deepened, tmp_path
):
    pair = deepened(variant, tmp_path)
    names = damage_deep(pair, DEEP[variant], kind)
    if way == "outputs alone":
        forget(pair.grown)
    found = grow.verify(pair.source, pair.grown, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    if way != "outputs alone":
        assert found.first["tensor"] in names
    if way == "grow.json":
        assert found.first["index"] is not None


def test_a_deepened_pair_without_a_fault_is_lossless(deepened, tmp_path):
    for variant in DEEP:
        pair = deepened(variant, tmp_path / variant)
        assert grow.verify(pair.source, pair.grown, rungs=BOTH).verdict == "lossless"
        forget(pair.grown)
        assert grow.verify(pair.source, pair.grown, rungs=BOTH).verdict == "lossless"


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_an_inserted_layer_that_changed_places_with_its_neighbour_computes_the_same(way, deepened, tmp_path):
    pair = deepened("llama", tmp_path)
    names = swapped(pair.grown, ".1.", ".2.")
    if way == "grow.json":
        found = grow.verify(pair.source, pair.grown, rungs=BOTH)
        assert (found.verdict, found.check("true_float64").status) == ("unrecorded", "pass")
        assert found.first["tensor"] in names
    else:
        assert grow.verify(pair.source, forget(pair.grown), rungs=BOTH).verdict == "lossless"


CHAIN = [
    f"bert.encoder.layer.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias", "intermediate.dense.weight",
        "intermediate.dense.bias", "output.dense.weight", "output.dense.bias", "output.LayerNorm.weight",
        "output.LayerNorm.bias",
    )
]  # fmt: skip


@pytest.mark.parametrize("tensor", CHAIN)
def test_a_number_of_the_chain_that_is_off_by_2_ulp_is_named(tensor, deepened, tmp_path):
    """In float64 that moves no output by 1e-12: the equation or the hash has to tell."""
    pair = deepened("bert-mlm", tmp_path)

    def two_ulp(raw: Raw) -> None:
        raw.reshape(-1)[5:6].view("<u8")[0] += 2

    tiny.edit_tensor(pair.grown, tensor, two_ulp)
    found = grow.verify(pair.source, pair.grown, rungs=CERTIFICATE)
    assert (found.verdict, found.first["tensor"]) == ("different", tensor)


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_a_changed_layer_type_of_a_deepened_pair_is_found(way, tmp_path):
    source = models.save("qwen2-window", tmp_path / "source", "float64", num_hidden_layers=3)
    grown = grow.deepen(source, 5, out=tmp_path / "grown", place="0,1", verify=False).path
    tiny.edit_json(grown / "config.json", lambda c: c["layer_types"].__setitem__(2, "full_attention"))
    if way == "outputs alone":
        forget(grown)
    found = grow.verify(source, grown, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["field"] == "layer_types" or way == "outputs alone"


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm", "opt"])
def test_an_old_position_or_token_that_changed_in_a_longer_table_is_found(variant, way, made, tmp_path):
    plan = grow.widen(made(variant), "vocab=50,positions=80", out=tmp_path / "grown", verify=False).plan
    wrong = {}
    if way == "outputs alone":
        forget(tmp_path / "grown")
    for t in plan.tensors:
        if {"vocab", "positions"} & set(t.signature.axes):
            with damaged(tmp_path / "grown", {t.name: lambda raw: raw.__setitem__(11, raw[12])}):
                found = grow.verify(
                    made(variant), tmp_path / "grown", rungs=CERTIFICATE if way == "grow.json" else BOTH
                )
            if found.verdict != "different" or (way == "grow.json" and found.first["tensor"] != t.name):
                wrong[t.name] = found.verdict, found.first
            if way == "grow.json" and found.first["index"][0] != 11:
                wrong[t.name] = found.first
    assert wrong == {}


@pytest.mark.parametrize("way", ["grow.json", "outputs alone"])
def test_a_new_token_that_is_the_most_likely_one_is_no_difference_of_the_old_ones(way, made, tmp_path):
    """What is compared are the old tokens: the row of a new one is new. With grow.json its hash is known."""
    grown = grow.widen(made("llama"), "vocab=50", out=tmp_path / "grown", verify=False).path
    tiny.edit_tensor(grown, "lm_head.weight", lambda raw: raw.__setitem__(45, 3 * raw[7]))
    if way == "outputs alone":
        forget(grown)
    found = grow.verify(made("llama"), grown, rungs=BOTH)
    assert found.check("true_float64").status == "pass"
    if way == "grow.json":
        assert (found.verdict, found.first["tensor"]) == ("unrecorded", "lm_head.weight")
    else:
        assert found.verdict == "lossless"


# What the probes do not reach


@pytest.fixture(scope="module")
def reached(tmp_path_factory, module_monkeypatch) -> Callable[[str, str], Path]:
    """`reached("tokens", "2x")`: a checkpoint with a long table, or what grows from it."""
    folder = tmp_path_factory.mktemp("reach")

    def get(name: str, to: str = "") -> Path:
        if not (folder / name).exists():
            kind, auto, fields, _ = models.VARIANTS[REACHES[name].variant]
            module_monkeypatch.setitem(models.VARIANTS, name, models.Variant(kind, auto, fields | REACHES[name].fields))
            models.save(name, folder / name, "float64")
        if to and not (folder / f"{name}-{to}").exists():
            grow.widen(folder / name, to, out=folder / f"{name}-{to}", verify=False)
        return folder / (f"{name}-{to}" if to else name)

    return get


@pytest.fixture(scope="module")
def module_monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize(("name", "way"), UNREACHED)
def test_a_damaged_row_that_no_probe_holds_is_named(name, way, reached, tmp_path):
    _, _, table, row = REACHES[name]
    folder = Path(shutil.copytree(reached(name, "" if way == "same shapes" else "2x"), tmp_path / "damaged"))
    tiny.edit_tensor(folder, table, lambda raw: reversed_(raw[row]))
    if way == "outputs alone":
        forget(folder)
    found = grow.verify(reached(name), folder, rungs=BOTH)
    shown = name == "tokens"  # such a token is asked
    assert {check.name: check.status for check in found.checks}["true_float64"] == ("fail" if shown else "pass")
    if way == "grow.json" or shown:
        assert (found.verdict, found.first["tensor"], found.first["index"][0]) == ("different", table, row)
        return
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    place = f"{table}[{row}, 0]" if way == "same shapes" else f"row {row} of {table.removesuffix('.weight')}"
    assert any(note.startswith(place) and "no probe looked there" in note for note in found.notes)


@pytest.mark.parametrize("to", ["", "2x"])
def test_a_window_beyond_the_probes_proves_nothing(to, tmp_path, module_monkeypatch):
    kind, auto, fields, _ = models.VARIANTS["mistral"]
    wide = fields | {"sliding_window": 1_500, "max_position_embeddings": 4_096}
    module_monkeypatch.setitem(models.VARIANTS, "window", models.Variant(kind, auto, wide))
    source = models.save("window", tmp_path / "source", "float64")
    folder = forget(grow.widen(source, to, out=tmp_path / "grown", verify=False).path) if to else copy(source, "same")
    tiny.edit_json(folder / "config.json", lambda config: config.update(sliding_window=None))
    found = grow.verify(source, folder, rungs=BOTH)
    assert found.verdict != "lossless"
    assert any("sliding_window" in note for note in found.notes)
