"""Golden files: no file is believed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from grow.errors import BadInput
from grow.verification import golden
from grow.verification.golden import against, record
from grow.verification.golden.content import Golden
from grow.verification.golden.golden_file import write
from grow.verification.outputs import pair as pair_module

# The file


def test_recording_again_gives_the_same_bytes_and_overwrites_nothing_unasked(made, tmp_path):
    source, file, _ = made("llama", "2x")
    again = tmp_path / "again.safetensors"
    record(source, again, name=str(source), budget=10**6)
    assert again.read_bytes() == file.read_bytes()
    with pytest.raises(BadInput, match="exists") as error:
        record(source, again)
    assert error.value.exit_code == 2
    record(source, again, overwrite=True, seed=1)
    assert golden.read(again).seed == 1
    assert again.read_bytes() != file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(made, tmp_path, monkeypatch):
    _, file, _ = made("llama", "2x")
    old = Path(shutil.copy(file, tmp_path))
    read = golden.read(old)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="cannot be written"):
        write(replace(read, seed=7), overwrite=True)
    assert old.read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [old.name]


@pytest.mark.parametrize("target", ["missing/golden.safetensors", "."])
def test_a_place_that_cannot_be_is_told_before_a_model_is_loaded(made, tmp_path, target, monkeypatch):
    source, _, _ = made("llama", "2x")
    monkeypatch.setattr(pair_module, "load", None)
    with pytest.raises(BadInput) as error:
        record(source, tmp_path / target)
    assert error.value.fix


def test_a_negative_seed_is_bad_input(made, tmp_path):
    with pytest.raises(BadInput, match="seed=-1: must be a whole number, 0 or more"):
        record(made("llama", "2x")[0], tmp_path / "golden.safetensors", seed=-1)


def test_answers_that_tell_nothing_are_not_recorded(made, tmp_path):
    source = shutil.copytree(made("llama", "2x")[0], tmp_path / "source")
    tiny.edit_tensor(source, "model.norm.weight", lambda raw: raw.__setitem__(..., 0))
    with pytest.raises(BadInput, match="logits is constant"):
        record(source, tmp_path / "golden.safetensors")
    tiny.edit_tensor(source, "model.norm.weight", lambda raw: raw.__setitem__(..., np.nan))
    with pytest.raises(BadInput, match="is NaN or Inf"):
        record(source, tmp_path / "golden.safetensors")
    assert not (tmp_path / "golden.safetensors").exists()


def refused(path: Path) -> BadInput:
    with pytest.raises(BadInput) as error:
        against(path, "small")
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    assert path.name in str(error.value)
    return error.value


def test_any_flipped_byte_is_bad_input(copied):
    file = Path(copied[0])
    raw = file.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    places = {0, 7, 8, 9, 40, header - 1, header, len(raw) - 1}
    for at in sorted(places | set(range(50, header, header // 40)) | set(range(header, len(raw), len(raw) // 20))):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        refused(file)


@pytest.mark.parametrize("share", [0, 0.0001, 0.2, 0.5, 0.999])
def test_a_truncated_file_is_bad_input(copied, share):
    file = Path(copied[0])
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    refused(file)


def test_what_is_no_golden_file_is_bad_input(copied, tmp_path):
    file, grown = Path(copied[0]), copied[1]
    assert "not a golden file" in refused(grown / tiny.WEIGHTS).what
    for raw in (
        b"PK\x03\x04" + bytes(99),
        b"\x80\x02" + bytes(99),
        b"x" * 99,
        (10**15).to_bytes(8, "little") + b"{" * 99,
    ):
        file.write_bytes(raw)
        refused(file)
    file.unlink()
    refused(file)
    file.mkdir()
    refused(file)
    file.rmdir()
    with open(file, "wb") as hole:
        hole.truncate(1 << 30)
    assert "1,073,741,824 bytes" in refused(file).what


def signed(golden_file: Golden, tmp_path: Path, **changes: Any) -> Path:
    """A file with a right sha256 and wrong content."""
    path = tmp_path / "signed.safetensors"
    write(replace(golden_file, path=path, **changes), overwrite=True)
    return path


def test_another_schema_says_so(copied, tmp_path, monkeypatch):
    read = golden.read(copied[0])
    monkeypatch.setattr("grow.verification.golden.golden_file.SCHEMA", 2)
    path = signed(read, tmp_path)
    monkeypatch.undo()
    assert refused(path).what == "schema 2, this version reads 1"


def test_content_that_does_not_belong_together_is_bad_input(wide, tmp_path):
    read = golden.read(wide[1])
    out, key = read.outputs, "random/logits"

    def outputs(**parts: np.ndarray) -> dict[str, Any]:
        return {"outputs": replace(out, kept={**out.kept, key: {**out.kept[key], **parts}})}

    def shape(*shape: int) -> dict[str, Any]:
        return {"outputs": replace(out, shapes={**out.shapes, key: shape})}

    ask = read.probes["random"]
    wrong: list[dict[str, Any]] = [
        shape(-1, 500), shape(0, 0), shape(1, 500), shape(128, 8),
        outputs(top_columns=np.full_like(out.kept[key]["top_columns"], 500)),
        outputs(top_columns=np.full_like(out.kept[key]["top_columns"], -1)),
        outputs(projections=out.kept[key]["projections"][:, :3]),
        outputs(values=out.kept[key]["values"][:-1]),
        outputs(values=np.full_like(out.kept[key]["values"], np.nan)),
        outputs(values=out.kept[key]["values"].astype(np.float32)),
        outputs(logsumexp=np.full_like(out.kept[key]["logsumexp"], np.inf)),
        {"outputs": replace(out, kept={k: v for k, v in out.kept.items() if k != key})},
        {"outputs": replace(out, std={"logits": 0.0})},
        {"outputs": replace(out, std={"logits": -1.0})},
        {"outputs": replace(out, std={**out.std, "other": 1.0})},
        {"outputs": replace(out, std={}, shapes={}, kept={})},
        {"probes": {k: v for k, v in read.probes.items() if k != "random"}},
        {"probes": {**read.probes, "random": replace(ask, counted=~ask.counted)}},
        {"probes": {**read.probes, "random": replace(ask, counted=ask.counted[:1])}},
        {"probes": {**read.probes, "random": replace(ask, inputs={})}},
        {"floors": {"float32": replace(read.floors["float32"], hidden={})}},
        {"source": {**read.source, "config": []}},
        {"source": {}},
        {"tokenizer": 3},
        {"environment": 3},
        {"skipped": []},
        {"seed": "x"},
    ]  # fmt: skip
    for change in wrong:
        assert refused(signed(read, tmp_path, **change)).what == "is not a record of a model's answers", change
    for large in (shape(10**12, 500), shape(128, 10**12)):  # could be; nothing is built of a size that a file claims
        found = against(signed(read, tmp_path, **large), wide[2], rungs=["true_float64"])
        assert "instead of" in found.checks[0].reason


def test_inputs_that_no_model_takes_fail_and_do_not_raise(copied, tmp_path):
    read = golden.read(copied[0])
    ask = read.probes["random"]
    ids = ask.inputs["input_ids"]
    for inputs in ({**ask.inputs, "input_ids": ids + 10**6}, {**ask.inputs, "input_ids": ids - 10**6}, {"x": ids}):
        path = signed(read, tmp_path, probes={**read.probes, "random": replace(ask, inputs=inputs)})
        assert against(path, copied[1]).check("true_float64").status == "fail"
