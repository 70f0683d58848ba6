"""A stock Trainer on a tiny model, and what grows inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

STEPS, AT = 5, 2
THRICE = {"hidden": 54, "ffn": 84}  # from 18 and 28: × 3


class Ids(torch.utils.data.Dataset):
    """Sequences of 12 of the old tokens, drawn by their number."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(4, 41, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


def arguments(out: Path, **more: Any) -> TrainingArguments:
    """AdamW with decay and clipping, a warm-up and a cosine, no file written."""
    usual: dict[str, Any] = dict(max_steps=STEPS, per_device_train_batch_size=3, learning_rate=1e-2, weight_decay=0.1)
    usual |= dict(lr_scheduler_type="cosine", warmup_steps=1, max_grad_norm=1.0, seed=3, logging_steps=1)
    usual |= dict(report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no")
    return TrainingArguments(output_dir=str(out), **{**usual, **more})


def trainer_of(model, out: Path, *callbacks, collator=None, optimizers=(None, None), **more) -> Trainer:
    own = {"data_collator": collator} if collator else {}
    made = Trainer(
        model, arguments(out, **more), train_dataset=Ids(), callbacks=list(callbacks), optimizers=optimizers, **own
    )
    made.remove_callback(PrinterCallback)
    return made


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
