"""Bad input of `grow train` is one message, and nothing is written."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training import QUICK, apart, curve, refused, tokens, weights

import grow
import grow.data
from grow.data.corpus import MANIFEST
from grow.errors import Refused

# Bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 1e-3}, "resume=True: lr=0.001: the run was begun with lr=0.01"),
        ({"batch": 3}, "resume=True: batch=3: the run"),
        ({"seed": 1}, "resume=True: seed=1: the run"),
        ({"dtype": "bfloat16"}, 'resume=True: dtype="bfloat16": the run'),
        ({"src": "small"}, 'resume=True: src="small": the run'),
        ({"schedule": "cosine"}, 'resume=True: schedule="cosine": the run'),
        ({"steps": 3, "decay": 1}, "resume=True: steps=3: the run"),
        ({"lrr": 1.0}, "lrr=…: no such setting; did you mean 'lr'?"),
    ],
)
def test_a_changed_setting_is_refused_by_name(run, change, said):
    assert said in refused(out=run.path, resume=True, **change)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks for it
def test_compiled_blocks_compute_the_same(run, tiny, text, tmp_path, monkeypatch):
    """Dynamo captures the blocks and they run as captured; generating code from them is left to torch."""
    captured = []

    def backend(graph, inputs):
        captured.append(sum(node.op != "placeholder" for node in graph.graph.nodes))
        return graph.forward

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: plain(block, backend=backend))
    grow.train(tiny("llama-tied"), text, out=tmp_path / "run", compile=True, checkpointing=True, **QUICK)
    assert apart(run.path, tmp_path / "run") < 1e-6
    assert max(captured, default=0) > 20
    assert weights(tmp_path / "run").keys() == weights(run.path).keys()


def test_another_text_is_refused(run, tmp_path):
    other = tokens(tmp_path / "other", seed=3)
    assert f'resume=True: data="{other}" with the sha256 ' in refused(out=run.path, resume=True, data=other)


def test_settings_that_change_no_result_may_change_and_a_stable_phase_may_be_prolonged(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    again = grow.train(out=path, resume=True, steps=5, save_every=7, checkpointing=True)
    assert (again.step, again.settings.save_every) == (5, 7)
    assert curve(path)[:4] == curve(run.path)[:4]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "steps=0: must be"),
    "a rate of zero": ({"lr": 0.0}, "lr=0.0: must be"),
    "a rate that is none": ({"lr": math.nan}, "lr=nan: must be"),
    "a batch of words": ({"batch": "many"}, 'batch="many": must be'),
    "a schedule misspelt": ({"schedule": "cosin"}, "did you mean 'cosine'?"),
    "parts that do not divide": ({"accumulate": 4}, "accumulate=4: must be"),
    "warm-up longer than the run": ({"warmup": 9}, "9 steps of warmup"),
    "steps and tokens": ({"tokens": 10}, "tokens=10: is given beside steps="),
    "more tokens than positions": ({"length": 65}, "length=65: is more than the 64 positions"),
    "a source that is nowhere": ({"src": "nowhere"}, "nowhere: neither a folder nor a bundled name"),
    "no source": ({"src": None}, "src=…: is missing"),
    "data that is nowhere": ({"data": "nowhere"}, "nowhere: does not exist"),
    "one corpus with a weight": ({"data": ["a:0.5", "b"]}, "some corpora have a weight"),
    "re-warming what has not grown": ({"rewarm": (1.25, 9)}, "rewarm=(1.25, 9): float32 is not known to have grown"),
    "freezing what has not grown": ({"freeze_old": True}, "freeze_old=True: float32 is not known to have grown"),
    "a source of what has not grown": ({"source": "small"}, 'source="small": float32 is not known to have grown'),
    "a re-warming of nothing": ({"rewarm": (0.0, 9)}, "rewarm=(0.0, 9): must be"),
    "another number of processes": ({"world": 2}, "2 processes were asked for, WORLD_SIZE is 1"),
    "a resume of nothing": ({"resume": True}, "does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_nothing_written(tiny, text, tmp_path, name):
    change, said = BAD[name]
    options = {"src": tiny("llama"), "data": text, "out": tmp_path / "run", **QUICK, **change}
    assert said in refused(**options)
    assert list(tmp_path.iterdir()) == []


def damaged(folder: Path, kind: str) -> Path:
    made = tokens(folder, count=5 if kind == "tiny" else 0 if kind == "empty" else 700, vocab=41)
    manifest = json.loads((made / MANIFEST).read_text())
    if kind == "odd":
        (made / "train.bin").write_bytes((made / "train.bin").read_bytes()[:-1])
    elif kind == "larger":
        manifest["tokenizer"]["vocab_size"] = 42
    elif kind == "lying":
        raw = np.fromfile(made / "train.bin", "<u2")
        raw[77] = 41
        raw.tofile(made / "train.bin")
    elif kind == "manifest":
        manifest["schema"] = 7
    (made / MANIFEST).write_text(json.dumps(manifest))
    return made


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "has 0 tokens, one block takes 17"),
        ("tiny", "has 5 tokens, one block takes 17"),
        ("odd", "must have 1,400 bytes, got 1,399"),
        ("larger", "was made with a tokenizer of 42 tokens"),
        ("lying", "token 77 is 41, the model has 41 rows"),
        ("manifest", "is not a manifest of token files"),
    ],
)
def test_bad_data_is_refused(tiny, tmp_path, kind, said):
    data = damaged(tmp_path / "data", kind)
    assert said in refused(src=tiny("llama"), data=data, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_tokens_of_another_tokenizer_are_refused(text, tmp_path):
    said = refused(src="small", data=text, out=tmp_path / "run", **QUICK)
    assert "was made with the tokenizer of none" in said


def test_a_weight_that_is_not_finite_is_named(tiny, text, tmp_path):
    path = shutil.copytree(tiny("llama"), tmp_path / "source")
    stored = load_file(path / "model.safetensors")
    stored["model.norm.weight"][3] = math.nan
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    said = refused(src=path, data=text, out=tmp_path / "run", **QUICK)
    assert "model.norm.weight: 1 entries are not finite" in said


def test_a_model_without_a_text_objective_is_refused(tiny, text, tmp_path):
    said = refused(Refused, src=tiny("bert-sequence"), data=text, out=tmp_path / "run", **QUICK)
    assert "BertForSequenceClassification: no objective on plain text is known for it" in said


def test_a_state_of_another_user_is_opened_only_when_trusted_and_its_code_never_runs(run, tmp_path, monkeypatch):
    path = shutil.copytree(run.path, tmp_path / "run")
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    assert "you are user 4321" in refused(out=path, resume=True)
    assert grow.train(out=path, resume=True, trust_checkpoint=True).step == 4
    mine = path / "step-00000004" / "state" / ".metadata"

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    raw = pickle.dumps(Harm()).ljust(mine.stat().st_size, b"\0")
    mine.write_bytes(raw[: mine.stat().st_size])
    said = refused(out=path, resume=True, trust_checkpoint=True)
    assert "mkdir is not part of an index" in said
    assert not (tmp_path / "harm").exists()


def test_two_runs_never_share_a_folder(run, tmp_path):
    import fcntl

    path = shutil.copytree(run.path, tmp_path / "run")
    with open(path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is writing it" in refused(out=path, resume=True)
    said = refused(src="small", out=path)
    assert "exists and is not empty" in said
    assert "resume=True continues it" in said
