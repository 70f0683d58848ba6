"""The memory that a check says it needs, held against what the kernel says it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

import grow

WATCHED = """
import json, sys
import torch
torch.set_num_threads(1)
import grow
from grow.verification.outputs import pair
from grow.verification.outputs.free_memory import give_back

def status():
    return dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())

def begin():
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    return int(status()["VmRSS"].split()[0]) * 1024

asked, real = [], pair.Pair.room

def room(self, side, dtype, copies=1, *, whole=False):
    end()
    real(self, side, dtype, copies, whole=whole)
    need = self._needs(side, dtype, self.probes, copies, whole)
    asked.append([rung, side, dtype, need.total, begin(), None])

def end():
    if asked and asked[-1][-1] is None:
        asked[-1][-1] = int(status()["VmHWM"].split()[0]) * 1024 - asked[-1][-2]

pair.Pair.room = room
rung = "nothing"  # imports and the libraries' own memory are not the models'
grow.verify(sys.argv[1], sys.argv[1], rungs=["true_float64"])
del asked[:]
for rung in sys.argv[3:]:
    give_back()
    grow.verify(sys.argv[1], sys.argv[2], rungs=[rung])
    end()
print(json.dumps(asked))
"""

RUNGS = (
    "true_float64", "proof", "runtime_dtype", "hidden_states", "loss", "cached_decoding", "generation", "kernels",
    "save_reload", "trainability",
)  # fmt: skip
GENEROUS = 3  # x what the largest step in a dtype takes: one estimate serves all checks


def source(folder, **fields):
    config = transformers.LlamaConfig(
        vocab_size=32_003,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        **fields,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    for p in model.parameters():
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, 0.03)
    model.save_pretrained(folder)
    return folder


@pytest.mark.large
@pytest.mark.parametrize(("to", "tied"), [("2x", True), ("hidden_size=576", False)])
def test_no_check_takes_more_than_it_asks_for_and_it_asks_for_little_more(to, tied, tmp_path):
    small = source(tmp_path / "source", tie_word_embeddings=tied)
    grown = grow.widen(small, to, out=tmp_path / "grown", verify=False).path
    env = {**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCHED, str(small), str(grown), *RUNGS]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    asked = json.loads(done.stdout.splitlines()[-1])
    told = [f"{r} {side} {dtype}: {n / 1e6:.0f} MB, took {took / 1e6:.0f}" for r, side, dtype, n, _, took in asked]
    assert [line for line, (*_, need, _, took) in zip(told, asked) if took > need] == []
    for dtype in {dtype for _, _, dtype, *_ in asked}:
        need, took = (max(row[k] for row in asked if row[2] == dtype) for k in (3, 5))
        assert need <= GENEROUS * took, told
