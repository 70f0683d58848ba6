"""Probes for every kind of stock model: seeded, runnable in true float64, and such that one damaged tensor shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from probe_cases import CASES, asked, made
from safetensors.torch import load_file, save_file

from grow.models.true_float64 import load, quiet, tensors
from grow.verification.outputs.compare import difference, run
from grow.verification.outputs.forward_passes import true_float64
from grow.verification.outputs.pair import Pair
from grow.verification.probes import Probe


def same(a: Probe, b: Probe) -> bool:
    return a.inputs.keys() == b.inputs.keys() and all(torch.equal(a.inputs[k], b.inputs[k]) for k in a.inputs)


@pytest.mark.parametrize("name", CASES)
def test_a_seed_decides_every_input(saved, name):
    first, again, other = asked(saved(name)), asked(saved(name)), asked(saved(name), seed=1)
    assert [p.name for p in first] == [p.name for p in again]
    assert all(same(a, b) for a, b in zip(first, again))
    assert not same(first.items[0], other.items[0])
    assert first.record()["shapes"][first.items[0].name] == list(next(iter(first.items[0].inputs.values())).shape)


@pytest.mark.parametrize("name", CASES)
def test_every_probe_runs_in_true_float64_and_every_output_is_alive(saved, name):
    model = load(saved(name), "float64").model
    assert {t.dtype for t in tensors(model).values() if t.is_floating_point()} == {torch.float64}
    found = asked(saved(name))
    outputs = run(model, found)
    assert {key.split("/")[0] for key in outputs} == {probe.name for probe in found}
    for output in {key.split("/")[-1] for key in outputs}:
        values = torch.cat([v for key, v in outputs.items() if key.endswith(f"/{output}")])
        assert values.isfinite().all(), output
        assert values.std() > 0.1, output
    rows = run(model, found, one_by_one=True)
    assert difference(outputs, rows).relative < 1e-12


def reversed_in(folder: Path, tensor: str, worse: Path) -> Path:
    """A copy of the checkpoint with the elements of one tensor in reverse order."""
    shutil.copytree(folder, worse)
    state = load_file(folder / "model.safetensors")
    flat = {**state, tensor: state[tensor].flatten().flip(0).reshape(state[tensor].shape).contiguous()}
    save_file(flat, worse / "model.safetensors", metadata={"format": "pt"})
    return worse


@pytest.mark.parametrize("name", CASES)
def test_two_saves_agree_and_one_reversed_tensor_does_not(saved, tmp_path, name):
    again = tmp_path / "again"
    with quiet():
        made(name).save_pretrained(again)
    with Pair(saved(name), again) as pair:
        check = true_float64(pair)
        assert (check.status, check.measured["relative"]) == ("pass", 0.0), check
        for tensor in CASES[name].damage:
            with pair.against(reversed_in(again, tensor, tmp_path / tensor)) as damaged:
                check = true_float64(damaged)
                assert check.status == "fail", tensor
                assert check.measured["relative"] > 1e-3, tensor
