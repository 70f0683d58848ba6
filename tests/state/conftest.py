"""A run whose state grows, and stock Trainers whose folders do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from grown_states import widen
from training import QUICK, tokens
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import grow


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("text") / "tokens", 1500)


@pytest.fixture(scope="session")
def run(tiny, text, tmp_path_factory) -> Path:
    """Eight steps of a tiny Llama; step-00000004 is in the stable phase of its schedule."""
    out = tmp_path_factory.mktemp("run") / "run"
    grow.train(tiny("llama-tied"), text, out=out, **{**QUICK, "steps": 8, "warmup": 2, "decay": 3})
    return out


@pytest.fixture(scope="session")
def grown(run, tmp_path_factory) -> Path:
    """The checkpoint of step 4, grown wider and deeper."""
    return widen(run / "step-00000004", tmp_path_factory.mktemp("grown") / "grown").path


@pytest.fixture(scope="session")
def trainer(tiny, tmp_path_factory):
    """`trainer("adafactor", out, model, resume)`: checkpoint-4 and -2 of a stock Trainer, and what it began with."""
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 41, (24, 12), generator=draw)]

    class Keep(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **_):
            self.step = state.global_step
            self.found = copy.deepcopy(getattr(optimizer, "optimizer", optimizer).state_dict())

    def train(optim: str, out: Path, model: Any, resume: Path | None = None, optimizers=(None, None)):
        loaded = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, Path) else model
        arguments = TrainingArguments(
            output_dir=str(out), max_steps=4, save_steps=2, per_device_train_batch_size=3, learning_rate=1e-3,
            weight_decay=0.1, optim=optim, report_to=[], use_cpu=True, disable_tqdm=True, seed=1,
        )  # fmt: skip
        keep = Keep()
        made = Trainer(loaded, arguments, train_dataset=rows, callbacks=[keep], optimizers=optimizers)
        made.train(resume_from_checkpoint=None if resume is None else str(resume))
        return out / "checkpoint-4", keep

    return train
