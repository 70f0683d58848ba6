"""A run is a function of its settings: however it is cut into parts, interrupted or dealt to processes, it is the same.

Tiny models on token files of random ids; `small` on the bundled text for what has to learn.
"""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
import pytest
import tiny as files
import torch
from safetensors.torch import load_file, save_file

import grow
from grow.data.corpus import MANIFEST, OFFSETS
from grow.data.loader import Batch
from grow.errors import BadInput, GrowError, Refused
from grow.provenance import read_record
from grow.train import checkpoints, objectives, parallel
from grow.train.grown import NewEntries, tensors_of
from grow.train.loop import NotFinite
from grow.train.model import inputs, loss_sum
from grow.train.objectives import IGNORED, Objective, causal, draws, masked, spans
from grow.train.schedule import rate, rewarm
from grow.train.settings import Settings

ROOT = Path(grow.__file__).parents[1]
QUICK: dict[str, Any] = dict(steps=4, batch=6, length=16, warmup=0, decay=0, lr=1e-2, save_every=2, eval_every=2, keep=9)


def tokens(folder: Path, count: int = 700, seed: int = 0, vocab: int = 41, held_out: int = 200) -> Path:
    """Token files of random ids, some of them a document's first."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    splits = {}
    for name, n in (("train", count), ("val", held_out)):
        ids = draw.integers(4, vocab, n).astype("<u2")
        starts = np.unique(np.append(0, draw.integers(0, max(1, n), n // 12)))[: n or 0].astype(OFFSETS)
        ids.tofile(folder / f"{name}.bin")
        starts.tofile(folder / f"{name}.docs")
        import hashlib

        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        splits[name] = {"tokens": n, "documents": len(starts), "bytes": n, "sha256": digest}
    tokenizer = {"name": "none", "sha256": "0", "vocab_size": vocab, "end": None}
    document = {"schema": 1, "dtype": "uint16", "tokenizer": tokenizer, "splits": splits, "sources": []}
    (folder / MANIFEST).write_text(json.dumps({**document, "seed": 0, "validation": 0.1, "grow": "0"}))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens")


@pytest.fixture(scope="module")
def run(tiny, text, tmp_path_factory) -> grow.train.settings.Training:  # type: ignore[attr-defined]
    """Four steps of a tiny Llama, nothing interrupted."""
    return grow.train(tiny("llama-tied"), text, out=tmp_path_factory.mktemp("run") / "run", **QUICK)


def curve(path: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def weights(path: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(path / f"step-{step:08d}" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apart(a: Path, b: Path) -> float:
    """The largest difference between two curves, relative."""
    first, second = curve(a), curve(b)
    assert [sorted(x) for x in first] == [sorted(y) for y in second]
    return max(abs(x[k] - y[k]) / max(1.0, abs(x[k])) for x, y in zip(first, second) for k in x)


def refused(kind: type[GrowError] = BadInput, **options: Any) -> str:
    with pytest.raises(kind) as error:
        grow.train(**options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    return str(error.value)


# Schedules


def test_schedules_are_what_is_computed_by_hand():
    wsd = [rate(k, schedule="wsd", steps=10, warmup=2, decay=3) for k in range(10)]
    assert wsd == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)], abs=1e-15)
    linear = [rate(k, schedule="wsd", steps=6, decay=3, shape="linear") for k in range(6)]
    assert linear == [1, 1, 1, 0.75, 0.5, 0.25]
    cosine = [rate(k, schedule="cosine", steps=5, warmup=1, floor=0.2) for k in range(6)]
    assert cosine == pytest.approx([1, 1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2])
    assert [rate(k, schedule="constant", steps=3, warmup=2) for k in range(4)] == [0.5, 1, 1, 1]
    assert [rewarm(k, 1.25, 20) for k in (0, 1, 19, 20)] == [0.625, 1.25, 1.25, 1.0]


# The same run, however it is computed


def test_parts_add_up_to_the_batch(tiny, text, tmp_path):
    source = tiny("gpt2")
    off = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    plain = shutil.copytree(source, tmp_path / "source")
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | off))
    for dtype, limit in (("float32", 1e-6), ("float64", 1e-12)):
        paths = [tmp_path / f"{dtype}-{a}" for a in (1, 3)]
        for path, parts in zip(paths, (1, 3)):
            grow.train(plain, text, out=path, dtype=dtype, accumulate=parts, documents=True, **{**QUICK, "lr": 1e-3})
        assert apart(*paths) < limit  # sums of float numbers in another order


def test_parts_of_masked_text_weigh_every_token_alike(tmp_path):
    """A part with few masked tokens counts less: the mean over the batch, not a mean of means."""
    options = dict(steps=2, batch=4, length=32, warmup=0, decay=0, dtype="float64", save_every=9, eval_every=9)
    for parts in (1, 4):
        grow.train("small-bert", out=tmp_path / f"{parts}", accumulate=parts, **options)
    assert apart(tmp_path / "1", tmp_path / "4") < 1e-12


def test_a_resumed_run_is_the_run_bit_for_bit(run, tmp_path):
    path = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(path / "step-00000004")
    again = grow.train(out=path, resume=True)
    assert (again.step, again.tokens, again.loss, again.val_loss) == (4, run.tokens, run.loss, run.val_loss)
    assert curve(path) == curve(run.path)
    assert same(weights(path), weights(run.path))
    assert grow.train(out=path, resume=True).step == 4  # nothing left to do


@pytest.mark.parametrize("other", ["adafactor", "muon", "dropout", "bfloat16", "masked"])
def test_every_kind_of_run_resumes_bit_for_bit(tiny, text, tmp_path, other):
    """Dropout and masks follow from (seed, step); moments of every optimizer are kept; a bfloat16 file is rounded and
    the state is not."""
    source: Any = tiny("gpt2", "bfloat16") if other in ("dropout", "bfloat16") else tiny("llama")
    options = {**QUICK, "optimizer": other if other in ("adafactor", "muon") else "adamw"}
    options |= {"dtype": "bfloat16"} if other == "bfloat16" else {}
    data: Any = text
    if other == "masked":
        source, data = "small-bert", ()
        options |= {"batch": 2, "length": 32}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    grow.train(source, data, out=whole, **options)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "step-00000004")
    grow.train(out=cut, resume=True, **({"data": cut / "data"} if other == "masked" else {}))
    assert curve(cut) == curve(whole)
    assert same(weights(cut), weights(whole))


def torchrun(count: int, *arguments: object, timeout: float = 150) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    line += ["-m", "grow", "train", *map(str, arguments)]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def test_two_processes_are_one_and_the_next_number_continues(run, tiny, text, tmp_path):
    """Sharded over two, saved behind step 2, continued by one and by three. Llama has no dropout."""
    line = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    done = torchrun(2, "--from", tiny("llama-tied"), "--data", text, "--out", tmp_path / "two", "--world", 2, *line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert apart(run.path, tmp_path / "two") < 1e-6  # sums of float32 in another order
    stored = (tmp_path / "two" / "step-00000002" / "state").glob("__*.distcp")
    assert sorted(p.name for p in stored) == ["__0_0.distcp", "__1_0.distcp"]
    for count in (1, 3):
        path = shutil.copytree(tmp_path / "two", tmp_path / f"then-{count}")
        shutil.rmtree(path / "step-00000004")
        if count == 1:
            grow.train(out=path, resume=True)
        else:
            again = torchrun(count, "--out", path, "--resume")
            assert again.returncode == 0, again.stderr
        assert apart(run.path, path) < 1e-6
        found, wanted = weights(path), weights(run.path)
        assert max((found[name] - wanted[name]).abs().max().item() for name in wanted) < 1e-4  # Adam divides by √v
