"""Steps, states and runs of several processes are those of one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dealing
import numpy as np
import pytest
import torch
from launched import scenarios, shortened
from training import apart

import grow
from grow.files.distributed_checkpoint import PiecedFolder
from grow.optimizer.state.find import open_state


@pytest.fixture(scope="module")
def two(three, dealt, folder) -> dict[str, list[dict[str, Any]]]:
    """What each of two found, who go on where three were."""
    shortened(dealt, "3", 2)
    return scenarios(folder, 2, "dealt", "continued")


# Steps of whole tensors


def furthest(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest entry of its tensor."""
    assert wanted.keys() == found.keys()
    return max(((found[n] - w).abs().max() / w.abs().max()).item() for n, w in wanted.items())


def values(path: Path) -> dict[str, torch.Tensor]:
    """Everything that a state holds."""
    with open_state(path) as state:
        return {name: state.whole(name) for name in state.tensors}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("dtype", dealing.DTYPES)
@pytest.mark.parametrize("name", dealing.NAMES)
def test_steps_of_dealt_tensors_are_torchs_of_whole_ones(two, three, name, dtype, count):
    """Also from a state that another number of processes wrote, and of a tensor that a process has no row of."""
    found = [process["returned"][f"{name}-{dtype}"] for process in {2: two, 3: three}[count]["dealt"]]
    matrices = {"x".join(map(str, shape)) for shape in dealing.Odd.SHAPES if len(shape) == 2}
    limit = {"float32": 1e-6, "float64": 1e-14}[dtype]  # sums in another order: measured up to 1.3e-7 and 2.4e-16
    for process in found:
        for what in ("weights", "states", "parts", "whole"):
            assert max(process[what].values()) <= limit, what
            if name == "muon":  # its step of a matrix is torch's, bit for bit
                assert not any(
                    process[what][n] for n in process[what] if n.removeprefix("optim.").split(".")[0] in matrices
                )
        own, ours = process["classes"]
        assert own[0].startswith("torch.optim.")
        assert ours[0].startswith("grow.training.step.sharded_optimizers.")
    assert min(process["rows"]["1"] for process in found) == min(process["rows"]["1x4"] for process in found) == 0
    assert [process["rows"]["7x5"] for process in found] == {2: [4, 3], 3: [3, 3, 1]}[count]


@pytest.mark.parametrize("name", dealing.NAMES)
def test_a_state_of_dealt_tensors_is_read_as_that_of_whole_ones(three, dealt, name):
    """As a growth reads it, with pieces of no row."""
    found = {}
    for which in ("parts", "whole"):
        with PiecedFolder(dealt / "odd" / f"{name}-float64-3" / which) as files:
            raw = {n: (t.shape, files.read(t, 0, t.nbytes)) for n, t in files.tensors.items()}
        found[which] = {n: (s, np.frombuffer(b, "<f8" if s else "<f4")) for n, (s, b) in raw.items()}
    assert found["parts"].keys() == found["whole"].keys()
    for n, (shape, value) in found["whole"].items():
        assert found["parts"][n][0] == shape, n
        assert np.allclose(found["parts"][n][1], value, rtol=0, atol=1e-13 * abs(value).max()), n


@pytest.mark.parametrize("name", dealing.NAMES)
def test_runs_are_the_same_on_any_number_of_processes(two, three, dealt, tmp_path, name):
    """A grown, tied model, re-warmed; on three, on from one to three, from three to two and to one.

    Muon rounds the momentum to bfloat16: two that differ in the last bits of float64 are rounded to the same.
    """
    then_one = shutil.copytree(dealt / f"{name}-3", tmp_path / "then-1")
    shutil.rmtree(then_one / "step-00000004")
    grow.train(out=then_one, resume=True, quiet=True)
    one = dealt / f"{name}-1"
    for path in (dealt / f"{name}-3", dealt / f"{name}-1-then-3", dealt / f"{name}-3-then-2", then_one):
        assert apart(one, path) < 1e-13  # sums of float64 in another order: measured up to 5e-16
        state = furthest(values(one / "step-00000004"), values(path / "step-00000004"))
        assert state < 1e-12, path  # measured up to 8e-15


@pytest.mark.parametrize("name", dealing.NAMES)
def test_grown_states_and_frozen_entries_are_dealt_too(two, dealt, tmp_path, name):
    """What three processes saved, grown by two and taken over by two, where old entries keep their bits."""
    one = grow.widen(
        dealt / f"{name}-3" / "step-00000004", dealing.WIDER, out=tmp_path / "grown", state="carry", verify=False
    )
    begun, found = values(one.path), values(dealt / f"{name}-grown")
    assert begun.keys() == found.keys()
    assert all(torch.equal(found[n], value) for n, value in begun.items())
    dealing.run(dealt.parent, name, tmp_path / "one", **dealing.RUNS["carried"])
    run = dealt / f"{name}-carried-2"
    assert apart(tmp_path / "one", run) < 1e-13
    after = values(run / "step-00000004")
    assert furthest(values(tmp_path / "one" / "step-00000004"), after) < 1e-12
    for n, new in grow.new_entries(one.plan).items():
        before, now = begun[f"model.{n}"], after[f"model.{n}"]
        assert torch.equal(before[~new], now[~new])
        assert not torch.equal(before, now)


@pytest.mark.parametrize("name", dealing.NAMES)
def test_float32_runs_agree_as_far_as_they_can(two, dealt, tmp_path, name):
    """As far as one process agrees with itself when it sums in another order, that of two parts or three.

    For Muon that is not far: what differs in the last bit of float32 may round to another bfloat16, which
    Newton-Schulz hands on to the whole matrix. Measured, after 4 steps at the large rate: Adafactor 1e-7, Muon 3e-4.
    """
    paths = [tmp_path / f"{parts}" for parts in (1, 2, 3)]
    for parts, path in enumerate(paths, 1):
        dealing.run(dealt.parent, name, path, accumulate=parts, **dealing.RUNS["float32"])
    found, own = apart(paths[0], dealt / f"{name}-float32-2"), max(apart(paths[0], path) for path in paths[1:])
    assert found < 4 * own
    assert found < {"adafactor": 1e-6, "muon": 1e-2}[name]


def test_a_gradient_that_some_have_is_refused_by_all(three):
    for process in three["uneven"]:
        assert (process["error"], process["code"]) == ("Refused", 2)
        assert process["said"].startswith("9x3, 2: has a gradient on some of the processes only")
