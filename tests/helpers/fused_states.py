"""States of models whose experts stock classes fuse in memory, as `save_pretrained` would cut them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.core_model_loading import revert_weight_conversion

KEYS = ("exp_avg", "exp_avg_sq")


def by_file(model: Any, found: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    """Entry `key` of a state's parameters as `save_pretrained` would name and cut them."""
    own = {n: found[f"optim.{n}.{key}"] for n, _ in model.named_parameters() if f"optim.{n}.{key}" in found}
    return dict(revert_weight_conversion(model, own))


def trainer(out: Path, model: Any, resume: Path | None = None, optimizers=(None, None)) -> Trainer:
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 41, (24, 12), generator=draw)]
    loaded = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, Path) else model
    loaded.set_experts_implementation("eager")
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=4, save_steps=2, per_device_train_batch_size=3, learning_rate=1e-3,
        weight_decay=0.1, report_to=[], use_cpu=True, disable_tqdm=True, seed=1,
    )  # fmt: skip
    made = Trainer(loaded, arguments, train_dataset=rows, optimizers=optimizers)
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made
