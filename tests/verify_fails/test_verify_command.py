"""`grow verify` exits 0, 1 or 2 and names the tensor; the whole ladder on three pairs."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
from damaged_pairs import CASES, Case, Pair, Weights, make

import grow
from grow.verification.rungs import LADDER

# The command


def test_the_command_exits_0_1_and_2_and_names_the_tensor(copied, capsys, monkeypatch):
    line = ("verify", copied.source, copied.grown, "--rung", "certificate")
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    assert (code, out.splitlines()[-1]) == (
        0,
        f"certified: {copied.grown}: its weights follow the table from those of {copied.source}; whether it "
        "computes the same was not run",
    )  # fmt: skip
    names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    for name in names:
        tiny.edit_tensor(copied.grown, name, lambda raw: raw.__imul__(2))
    code, out, _ = tiny.command(monkeypatch, capsys, *line)
    assert code == 1
    assert all(name in out for name in names)
    assert out.splitlines()[-1].startswith(
        f"different: {copied.grown} is not the growth of {copied.source} that grow.json records (certificate: "
    )
    code, out, _ = tiny.command(monkeypatch, capsys, *line, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "different")
    code, out, err = tiny.command(monkeypatch, capsys, "verify", copied.source, copied.source / "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_more_faults_than_lines_are_counted(copied, tmp_path, capsys, monkeypatch):
    pair = make(Case("bert", "2x"), tmp_path / "bert")
    other = tiny.checkpoint(tmp_path / "other", "bert", seed=1)
    _, out, _ = tiny.command(monkeypatch, capsys, "verify", other, pair.grown, "--rung", "certificate")
    assert f"and {len(pair.plan.tensors) - 20} more tensors" in out


# The whole ladder


@pytest.fixture(scope="module", params=["llama ×2", "gpt2 mean", "bert ×2"])
def whole(request, tmp_path_factory) -> Pair:
    pytest.importorskip("torch")
    return make(CASES[request.param], tmp_path_factory.mktemp("whole"))


def test_every_rung_passes_on_an_undamaged_pair(whole):
    found = grow.verify(whole.source, whole.grown)
    status = {rung.name: rung.status for rung in found.checks}
    assert (found.verdict, found.exit_code) == ("lossless", 0), found.checks
    skipped = {"tokenizer"} | ({"sampling"} if whole.plan.rounded else set())
    if whole.plan.family.model_type == "bert":
        skipped |= {"cached_decoding", "generation_config", "generation", "sampling"}
    assert {name: s for name, s in status.items() if s != "pass"} == dict.fromkeys(skipped, "skip")
    assert set(found.rungs) == set(LADDER)
    assert ("proof" in status) == bool(whole.plan.rounded)


def test_outputs_and_certificate_both_find_a_damaged_tensor(whole):
    weights = Weights(whole)
    name = next(
        n for n in weights.header if n.endswith(("down_proj.weight", "mlp.c_proj.weight", "output.dense.weight"))
    )
    before = (whole.grown / tiny.WEIGHTS).read_bytes()
    tiny.edit_tensor(whole.grown, name, lambda raw: raw.__setitem__(..., raw[::-1].copy()))
    found = grow.verify(whole.source, whole.grown, rungs=("certificate", "true_float64", "runtime_dtype"))
    (whole.grown / tiny.WEIGHTS).write_bytes(before)
    assert (found.verdict, found.exit_code) == ("different", 1)
    status = {check.name: check.status for check in found.checks}
    assert status.pop("proof", "pass") == "pass"  # the growth repeated, which nobody has damaged
    assert status == dict.fromkeys(("certificate", "true_float64", "runtime_dtype"), "fail")
    assert found.checks[0].reason.startswith(f"{name}[")


def test_without_a_record_the_outputs_decide(tmp_path):
    pair = make(CASES["llama ×2"], tmp_path)
    (pair.grown / "grow.json").unlink()
    found = grow.verify(pair.source, pair.grown, rungs=("certificate", "true_float64"))
    assert [rung.status for rung in found.checks] == ["skip", "pass"]
    assert (found.verdict, found.exit_code) == ("lossless", 0)
    damaged = shutil.copytree(pair.grown, tmp_path / "damaged")
    tiny.edit_tensor(
        damaged, "model.layers.0.mlp.down_proj.weight", lambda raw: raw.__setitem__((5, 7), raw[5, 7] * 1.01)
    )
    found = grow.verify(pair.source, damaged, rungs=("certificate", "true_float64"))
    assert (found.verdict, found.exit_code) == ("different", 1)


def test_rounded_weights_without_a_record_are_not_called_proved(tmp_path):
    """Whether a rounding was meant cannot be told from the outputs: neither lossless nor different."""
    pair = make(CASES["llama silent"], tmp_path)
    (pair.grown / "grow.json").unlink()
    found = grow.verify(pair.source, pair.grown, rungs=("true_float64",))
    assert found.checks[0].status == "pass"
    assert 1e-12 < found.checks[0].measured["relative"] < 1e-5
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert "rounding" in found.notes[-1]
