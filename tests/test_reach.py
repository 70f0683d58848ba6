"""What no probe reaches is reached by force, or named: experts, router rows, padding, rows of tables, idle units.

None of these pairs has a grow.json, unless a test says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import models
import numpy as np
import pytest
import tiny
import torch

import grow
from grow.architectures.architecture import Architecture
from grow.verification.checks.expert_stacks import Stacks
from grow.verification.checks.table_rows import strange
from grow.verification.outputs.pair import Pair
from grow.verification.verdict import Verification

RUNGS = ("true_float64",)
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "flex_olmo", "granitemoe")
SHUNNED = 3  # the expert that no token of the probes is sent to


def shunning(variant: str, folder: Path) -> Path:
    """A checkpoint whose last layer sends nothing to one expert: its router row is against all it sees."""
    source = models.save(variant, folder, "float64", num_hidden_layers=2 if variant != "qwen2_moe" else 3)
    # one coordinate of every token is large, and the expert's row is against it
    tiny.edit_tensor(source, "model.embed_tokens.weight", lambda raw: raw[:, 0].fill(12.0))
    row = next(n for n in tiny.read_tensors(source) if ".1." in n and is_router(n))

    def against(raw: np.ndarray) -> None:
        raw[SHUNNED] = 0.0
        raw[SHUNNED, 0] = -30.0

    tiny.edit_tensor(source, row, against)
    with Pair(source, source) as pair:
        model = pair.model("source", "float64")
        name = next(name for name in Stacks(model).counts if ".1." in name)
        with Stacks(model) as stacks:
            for probe in pair.probes:
                stacks.ask(probe)
                pair.run("source", model, [probe])
        assert not stacks.chosen[name][SHUNNED], stacks.chosen
    return source


def is_router(name: str) -> bool:
    return name.endswith((".gate.weight", ".router.layer.weight", ".router.weight"))


@pytest.fixture(scope="module")
def shunned(tmp_path_factory):
    made: dict[str, tuple[Path, Path]] = {}

    def get(variant: str) -> tuple[Path, Path]:
        if variant not in made:
            folder = tmp_path_factory.mktemp(variant)
            source = shunning(variant, folder / "source")
            grown = grow.widen(source, "2x", out=folder / "grown", verify=False).path
            (grown / "grow.json").unlink()
            made[variant] = source, grown
        return made[variant]

    return get


@pytest.mark.parametrize("variant", MOE)
def test_experts_that_no_probe_chose_are_forced_and_a_right_pair_is_lossless(variant, shunned):
    found = grow.verify(*shunned(variant), rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("lossless", 0), found.notes
    assert found.check("true_float64").measured["reached"]["experts not chosen"] >= 1


def doubled(raw: np.ndarray) -> None:
    raw *= 2


def broken(raw: np.ndarray) -> None:
    raw[...] = np.nan


def zeroed(raw: np.ndarray) -> None:
    raw[...] = 0


@pytest.mark.parametrize("damage", [doubled, zeroed, broken])
@pytest.mark.parametrize("same_shape", [False, True])
@pytest.mark.parametrize("variant", MOE)
def test_a_damaged_expert_that_no_probe_chose_is_named(variant, damage, same_shape, shunned, tmp_path):
    source, grown = shunned(variant)
    folder = Path(shutil.copytree(source if same_shape else grown, tmp_path / "damaged"))
    for name in tiny.read_tensors(folder):
        if f".experts.{SHUNNED}." in name and ".1." in name:
            tiny.edit_tensor(folder, name, damage)
        elif "block_sparse_moe.output_linear" in name and ".1." in name:
            tiny.edit_tensor(folder, name, lambda raw: damage(raw[SHUNNED]))
    found = grow.verify(source, folder, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("different", 1), found.notes
    assert f"expert {SHUNNED} of " in found.first["text"]
    assert ".1." in found.first["module"]


@pytest.mark.parametrize("variant", MOE)
def test_a_router_row_that_moves_no_choice_is_compared(variant, shunned, tmp_path):
    source, grown = shunned(variant)
    folder = Path(shutil.copytree(grown, tmp_path / "damaged"))
    row = [n for n in tiny.read_tensors(folder) if is_router(n)][-1]
    tiny.edit_tensor(folder, row, lambda raw: raw.__setitem__(SHUNNED, raw[SHUNNED] * (1 + 1e-6)))
    found = grow.verify(source, folder, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert f"expert {SHUNNED}" in found.first["text"]


@pytest.mark.parametrize("variant", MOE)
def test_copies_of_experts_are_found_by_their_router_rows(variant, shunned, tmp_path):
    """Twice as many experts, twice as many per token: each of the old ones has two copies."""
    source, _ = shunned(variant)
    facts = grow.families[models.VARIANTS[variant].model_type]
    old = Architecture(facts, tiny.read_json(source / "config.json")).sizes
    grown = grow.widen(source, {"experts": 2 * old["experts"]}, out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    found = grow.verify(source, grown, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("lossless", 0), found.notes
    assert found.check("true_float64").measured["reached"]["experts not chosen"] >= 2
    for name in tiny.read_tensors(grown):
        if f".experts.{SHUNNED}." in name and ".1." in name:
            tiny.edit_tensor(grown, name, doubled)
        elif "block_sparse_moe.output_linear" in name and ".1." in name:
            tiny.edit_tensor(grown, name, lambda raw: doubled(raw[SHUNNED]))
    found = grow.verify(source, grown, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert f"expert {SHUNNED} of " in found.first["text"]


def only_fields(found: Verification) -> bool:
    """Nothing but fields of config.json keeps the verdict from lossless."""
    unseen = found.check("true_float64").measured["unseen"]
    return found.verdict == "unproved" and all(name.startswith("config.json: ") for name in unseen)


@pytest.mark.parametrize("granularity", [1, 2])
@pytest.mark.parametrize("variant", ["llama", "qwen3", "qwen2"])
def test_an_ffn_that_became_experts_is_what_each_of_them_computes(variant, granularity, tmp_path):
    source = models.save(variant, tmp_path / "source", "float64")
    tiny.edit_tensor(source, "model.embed_tokens.weight", lambda raw: raw[:, 0].fill(12.0))
    how = {"experts": 12, "top_k": 2 * granularity, "granularity": granularity}
    grown = grow.upcycle(source, **how, out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    router = next(n for n in tiny.read_tensors(grown) if ".1." in n and is_router(n))
    for e in range(6, 6 + granularity):  # a whole group, the fourth or the seventh
        tiny.edit_tensor(grown, router, lambda raw, e=e: raw.__setitem__((e, slice(None)), 0.0))
        tiny.edit_tensor(grown, router, lambda raw, e=e: raw.__setitem__((e, 0), -30.0))
    right = grow.verify(source, grown, rungs=RUNGS)
    assert only_fields(right), right.notes
    assert right.check("true_float64").measured["reached"]["experts not chosen"] >= granularity
    for name in tiny.read_tensors(grown):
        if ".layers.1." in name and ".experts.6." in name:
            tiny.edit_tensor(grown, name, doubled)
    found = grow.verify(source, grown, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert any("something else" in note for note in found.notes)
    assert any("experts[6]" in name for name in found.check("true_float64").measured["unseen"])


PADDED = ("bert-mlm", "bert-token", "roberta-mlm", "distilbert-mlm", "llama-token", "gpt2-token", "qwen3", "olmo2")


@pytest.mark.parametrize("variant", PADDED)
def test_the_row_of_the_padding_token_is_read(variant, tmp_path):
    """A copy of one coordinate of that row is moved; the head of a tied table reads the copies' sum, which stays."""
    source = models.save(variant, tmp_path / "source", "float64", pad_token_id=1)
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    right = grow.verify(source, grown, rungs=RUNGS)
    assert (right.verdict, right.exit_code) == ("lossless", 0), right.notes
    table = next(
        n
        for n in tiny.read_tensors(grown)
        if n.endswith(("word_embeddings.weight", "embed_tokens.weight", "wte.weight"))
    )

    def move(raw: np.ndarray) -> None:
        half = raw.shape[1] // 2
        raw[1, 3] += 0.5
        raw[1, 3 + half] -= 0.5

    tiny.edit_tensor(grown, table, move)
    found = grow.verify(source, grown, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("different", 1), found.notes


def test_units_that_no_probe_switches_on_are_let_through(tmp_path):
    source = models.save("opt", tmp_path / "source", "float64")
    idle = 5
    bias, down = "model.decoder.layers.1.fc1.bias", "model.decoder.layers.1.fc2.weight"
    tiny.edit_tensor(source, bias, lambda raw: raw.__setitem__(idle, -100.0))
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    right = grow.verify(source, grown, rungs=RUNGS)
    assert (right.verdict, right.exit_code) == ("lossless", 0), right.notes
    assert right.check("true_float64").measured["reached"]["units cut off"] >= 1
    tiny.edit_tensor(grown, down, lambda raw: doubled(raw[:, idle]))
    found = grow.verify(source, grown, rungs=RUNGS)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert any("units are switched off on every probe (model.decoder.layers.1.activation_fn)" in n for n in found.notes)


def test_with_grow_json_and_without_its_certificate_the_same_is_looked_at(shunned, tmp_path):
    source, _ = shunned("qwen3_moe")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    assert grow.verify(source, grown, rungs=RUNGS).verdict == "lossless"
    for name in tiny.read_tensors(grown):
        if f".experts.{SHUNNED}." in name and ".1." in name:
            tiny.edit_tensor(grown, name, broken)
    assert grow.verify(source, grown, rungs=RUNGS).verdict == "different"


# Rows of tables, as numbers


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(300, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def columns(x: torch.Tensor, kind: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if kind == "copies":
        return torch.cat([x, x], 1)
    if kind == "scaled, with zeros and means":
        return torch.cat([x * 1.5, torch.zeros(len(x), 3, dtype=x.dtype), x.mean(1, keepdim=True).expand(-1, 2)], 1)
    return x @ torch.randn(12, 17, dtype=torch.float64, generator=draw)  # a stream in another basis


KINDS = ("copies", "scaled, with zeros and means", "another basis")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_follow_the_map_of_the_others_are_not_strange(kind, table):
    seen = torch.arange(300) < 150
    assert list(strange("t", table, columns(table, kind), seen)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_any_column_of_a_row_that_does_not_is_found(kind, table):
    seen, y = torch.arange(300) < 150, columns(table, kind)
    for column in range(y.shape[1]):
        other = y.clone()
        other[217, column] += 1e-4
        found = list(strange("t", table, other, seen))
        assert [(row.row, row.column) for row in found] == [(217, column)]


def test_columns_that_no_map_gives_are_told(table):
    y = torch.cat([table, torch.randn(300, 2, dtype=torch.float64)], 1)
    (found,) = strange("t", table, y, torch.arange(300) < 150)
    assert (found.row, found.column) == (150, -1)
