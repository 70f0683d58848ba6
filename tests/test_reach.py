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

import grow
from grow.verify.experts import Stacks
from grow.verify.lookups import strange
from grow.verify.pair import Pair

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
